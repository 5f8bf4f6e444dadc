"""Run documents: the header of a run, pages of runs, and the reader of a day's run files."""
