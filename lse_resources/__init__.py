"""One module per outside system: LangSmith, Google Drive, Postgres, settings."""
