"""The keys of the search index: a run has one for each of its words, for its day, and for the day of its project.

A key is a hash of 32 bits. Runs of which only the key is equal are left out when their texts are read.
"""

from __future__ import annotations

import zlib
from datetime import date


def word_key(word: str) -> int:
    """The key of a word, in the range of Postgres' integer."""
    return zlib.crc32(word.encode()) - (1 << 31)


def day_key(day: date, project: str | None = None) -> int:
    """The key of a day's runs, or of those of one project."""
    return word_key(f"\0{day}" if project is None else f"\0{day}\0{project}")  # no word has this character
