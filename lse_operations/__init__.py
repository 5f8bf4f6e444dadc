"""What is done with a day. No Dagster, no terminal: assets, sensors and commands call these functions."""
