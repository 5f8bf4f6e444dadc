"""Postgres: connections, schema, and the tables of the archive."""
