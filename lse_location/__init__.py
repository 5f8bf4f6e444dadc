"""The Dagster code location: joins assets, checks, schedules and sensors."""
