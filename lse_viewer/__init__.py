"""The pages of the archive in the browser: projects and days, runs, traces, threads, trends; read-only."""
