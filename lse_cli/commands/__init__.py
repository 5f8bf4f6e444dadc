"""The commands, as Typer declares them. Cheap to import: a command imports its work when it runs."""
