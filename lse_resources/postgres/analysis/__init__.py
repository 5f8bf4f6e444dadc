"""Reading the archive: typed columns, DataFrames and exports."""
