"""The version of distex."""

__version__ = "1.0.0.dev0"
