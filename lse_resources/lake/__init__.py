"""The lake: Parquet files of every archived day, which any engine reads without LSE; docs/lake.md describes them."""
