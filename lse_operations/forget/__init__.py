"""Erasing runs on purpose, everywhere and for good: selection, the journal of the erasure, its steps and its proof."""
