"""Day archives: the deterministic writer, the reader, and the extraction of untrusted zips."""
