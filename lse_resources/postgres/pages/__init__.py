"""What the pages of the archive read: days, lists of runs, traces, threads, trends."""
