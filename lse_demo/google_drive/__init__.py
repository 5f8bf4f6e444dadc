"""A local Google Drive: files, uploads, queries, accounts and the API's errors."""
