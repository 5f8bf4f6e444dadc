"""The `lse` command line."""
