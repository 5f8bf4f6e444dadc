"""The migrations of the schema, one module each."""
