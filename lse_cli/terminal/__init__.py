"""Output and input of the terminal: progress, questions, lines and tables."""
