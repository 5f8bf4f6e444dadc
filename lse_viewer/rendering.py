"""Templates: every value is escaped, and shown on one line without control characters unless a filter says so."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from lse_archive.printable import printable
from lse_archive.texts import counted
from lse_platform.addresses import days_address, run_address, runs_address

_HERE = Path(__file__).parent
STATIC = _HERE / "static"


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, from a template of `templates/`."""
    return HTMLResponse(_environment.get_template(template, globals=_GLOBALS).render(values), status)


def lines(text: str) -> Markup:
    """Escapes a text for `<pre>`: line breaks and tabs stay, other control characters become visible."""
    return escape("\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n")))


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


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_environment = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_printable,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "lines": lines,
    "seconds": seconds,
    "number": number,
    "cost": cost,
    "moment": moment,
    "counted": counted,
}
_GLOBALS: dict[str, Any] = {
    "days_address": days_address,
    "runs_address": runs_address,
    "run_address": run_address,
}
