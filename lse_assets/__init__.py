"""The Dagster assets, checks and jobs of a project, made by one factory."""
