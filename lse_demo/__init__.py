"""Local servers that behave like LangSmith and Google Drive, and a small traced agent that creates runs."""
