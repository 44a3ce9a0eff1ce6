"""Tests with real processes: what a user of the pool sees, row by row."""
