"""What a person sees: progress, questions, lines and tables."""
