"""Numbers and times as texts for readers."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal


def counted(count: int, one: str, many: str = "") -> str:
    """The number with its noun, or clause: 1 run, 2 runs, 1,000 runs; 1 day is open, 2 days are open.

    Args:
        one: What follows the number 1.
        many: What follows other numbers; default: `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def seconds(value: float | None) -> str:
    """A duration with three digits: 850 ms, 1.25 s, 3 min 20 s."""
    if value is None:
        return ""
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    if value < 59.95:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def number(value: float | Decimal | None) -> str:
    """A number with separators; empty if it is not known."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else f"{value:,}"


def cost(value: Decimal | float | None) -> str:
    """US dollars: two decimals, and below a dollar two digits."""
    if value is None:
        return ""
    amount = Decimal(value)
    if amount == 0 or abs(amount) >= 1:
        return f"${amount:,.2f}"
    return f"${Decimal(f'{amount:.1e}'):f}"


def moment(value: datetime | None) -> str:
    """A time in UTC to the millisecond."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}"
