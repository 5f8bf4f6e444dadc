"""The core: what a day's archive is. No Dagster, no network, no database, no environment."""
