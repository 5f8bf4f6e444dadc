"""Comparing run files with their rows."""
