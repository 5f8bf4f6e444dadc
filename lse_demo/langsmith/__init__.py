"""A local LangSmith: ingestion, v1 and v2 queries, rate limits and faults."""
