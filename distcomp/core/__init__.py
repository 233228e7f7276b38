"""All decisions, as plain synchronous code without socket, clock, thread, file or random source."""
