"""Templates: every value is escaped, and shown on one line without control characters unless a filter says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from lse_archive.printable import printable
from lse_archive.texts import cost, counted, moment, number, seconds
from lse_platform.addresses import days_address, run_address, runs_address

_HERE = Path(__file__).parent
STATIC = _HERE / "static"


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, from a template of `templates/`."""
    return HTMLResponse(_environment.get_template(template, globals=_GLOBALS).render(values), status)


def lines(text: str) -> Markup:
    """Escapes a text for `<pre>`: line breaks and tabs stay, other control characters become visible."""
    return escape("\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n")))


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
