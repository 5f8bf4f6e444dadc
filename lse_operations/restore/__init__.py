"""Restoring days from the destination."""
