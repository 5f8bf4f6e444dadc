"""The commands, as Typer declares them. Cheap to import: the work is imported when a command runs."""
