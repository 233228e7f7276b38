"""A world in virtual time: the three state machines, the wires between them, slots, users and weather."""
