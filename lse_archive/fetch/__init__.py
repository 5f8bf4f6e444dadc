"""Fetching a day: the source protocol, pagination, staging, completeness and the union with what is published."""
