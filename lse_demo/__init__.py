"""Faithful local servers for LangSmith and Google Drive, and a small traced agent that fills them."""
