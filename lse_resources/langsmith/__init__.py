"""LangSmith's API."""
