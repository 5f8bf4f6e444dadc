"""Line charts as SVG, drawn by the server: no script, and every number is in a table, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 8, 8, 22
SERIES = 8
"""Lines of a chart that can be told apart by their colors."""
_MAX_POINTS = 120

Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """A series as parts of a line, which a day without a value interrupts, and its points.

    Attributes:
        parts: Points of SVG's polylines.
        points: x, y, and the position of the day; none if there are too many.
    """

    name: str
    parts: list[str]
    points: list[tuple[float, float, int]]
    values: Values


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of values by day.

    Attributes:
        ticks: y and value of the horizontal lines.
        shown: Writes a value.
    """

    title: str
    lines: list[Line]
    ticks: list[tuple[float, float]]
    shown: Callable[[float], str]


def chart(title: str, series: Sequence[tuple[str, Values]], shown: Callable[[float], str]) -> Chart | None:
    """Draws series of the same length, from zero on; None: there is no value."""
    values = [value for _, found in series for value in found if value is not None]
    if not values:
        return None
    low, step, count = _scale(min(0.0, *values), max(0.0, *values))
    high = low + step * count
    days = max(len(found) for _, found in series)

    def place(position: int, value: float) -> tuple[float, float]:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * (position + 0.5) / days
        y = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)
        return round(x, 1), round(y, 1)

    lines = []
    for name, found in series:
        points = [(*place(number, value), number) for number, value in enumerate(found) if value is not None]
        lines.append(Line(name, _parts(points), points if days <= _MAX_POINTS else [], found))
    ticks = [(place(0, low + step * number)[1], low + step * number) for number in range(count + 1)]
    return Chart(title, lines, ticks, shown)


def _parts(points: list[tuple[float, float, int]]) -> list[str]:
    parts: list[list[str]] = []
    former = None
    for x, y, number in points:
        if former is None or number != former + 1:
            parts.append([])
        parts[-1].append(f"{x},{y}")
        former = number
    return [" ".join(part) for part in parts]


def _scale(low: float, high: float) -> tuple[float, float, int]:
    """Where the axis begins, its step of 1, 2 or 5 times a power of ten, and the number of steps."""
    rough = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    begin = math.floor(low / step) * step
    return begin, step, max(1, math.ceil((high - begin) / step - 1e-9))
