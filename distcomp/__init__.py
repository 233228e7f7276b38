"""Run Python functions on every core and host you have."""

__version__ = "0.1.0"
