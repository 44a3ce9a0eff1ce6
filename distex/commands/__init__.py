"""The commands: one module for each ``python -m distex ...``."""
