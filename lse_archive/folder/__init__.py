"""A day's folder on disk: its contents, its publication, and what stays of it when its files are pruned."""
