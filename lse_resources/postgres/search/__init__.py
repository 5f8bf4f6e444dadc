"""The search index of runs: made for each day after its load, and read newest day first."""
