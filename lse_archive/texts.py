"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """The number with its noun, or clause: 1 run, 2 runs, 1,000 runs; 1 day is open, 2 days are open.

    Args:
        one: What follows the number 1.
        many: What follows other numbers; default: `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
