"""Trends over days: charts of one project or of several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal

from starlette.requests import Request
from starlette.responses import Response

from lse_archive.days import days_between, today
from lse_archive.errors import UsageError
from lse_archive.texts import cost, counted, number, seconds
from lse_resources.postgres.pages.projects import read_projects_with_days
from lse_resources.postgres.pages.trends import MAX_DAYS, DayNumbers, read_trends
from lse_viewer.archive import archive_of, day_of_address, project_of
from lse_viewer.charts import HEIGHT, SERIES, WIDTH, Chart, Values, chart
from lse_viewer.rendering import page

_DAYS = 30
_MAX_PROJECTS = 6
_OTHERS = "others"
_UNNAMED = "no model"

_LATENCY = "Latency of root runs"

Numbers = Mapping[tuple[str, date], DayNumbers]
Read = Callable[[DayNumbers], float | None]


def trends_page(request: Request) -> Response:
    """The charts of the projects of the address, by default of the last thirty days that are archived.

    Raises:
        UsageError: The range is empty or too long, or there are too many projects.
    """
    archive, first_project = archive_of(request), project_of(request)
    projects = list(dict.fromkeys(name for name in request.query_params.getlist("project") if "\0" not in name))
    if len(projects) > _MAX_PROJECTS:
        raise UsageError(f"there are {len(projects)} projects", why=f"{_MAX_PROJECTS} can be compared at once")
    with archive.reading() as connection:
        known = {one.project: one for one in read_projects_with_days(connection)}
        archived = known.get(first_project)
        last = day_of_address(request, "to", archived.last if archived else today())
        start = last - timedelta(days=_DAYS - 1)
        if archived and archived.first <= last:
            start = max(start, archived.first)
        first = day_of_address(request, "from", start)
        if not 0 <= (last - first).days < MAX_DAYS:
            raise UsageError(
                f"there is no range from {first} to {last}", why=f"it has from one day to {counted(MAX_DAYS, 'day')}"
            )
        numbers = read_trends(connection, archive.day_cache, projects, first, last)
    days = list(days_between(first, last))
    return page(
        "trends.html",
        project=first_project,
        projects=projects,
        others=[name for name in known if name not in projects],
        first=first,
        last=last,
        days=days,
        charts=[one for one in _charts(numbers, projects, days) if one],
        width=WIDTH,
        height=HEIGHT,
    )


def _charts(numbers: Numbers, projects: list[str], days: list[date]) -> Iterator[Chart | None]:
    def line(project: str, read: Read) -> Values:
        return [read(numbers[project, day]) if (project, day) in numbers else None for day in days]

    def compared(title: str, read: Read, shown: Callable[[float], str]) -> Chart | None:
        return chart(title, [(project, line(project, read)) for project in projects], shown)

    yield compared("Runs", lambda day: day.runs, number)
    yield compared("Traces", lambda day: day.traces, number)
    yield compared("Errors", lambda day: day.errors, number)
    yield compared("Error rate", lambda day: day.errors / day.runs if day.runs else None, _percent)
    if len(projects) > 1:
        for name, read in _PERCENTILES.items():
            yield compared(f"{_LATENCY}, {name}", read, seconds)
        yield compared("Tokens", lambda day: sum(day.tokens.values()), number)
        yield compared("Cost", lambda day: float(sum(day.cost.values())), cost)
        return
    [project] = projects
    yield chart(_LATENCY, [(name, line(project, read)) for name, read in _PERCENTILES.items()], seconds)
    found = [numbers.get((project, day)) for day in days]
    yield chart("Tokens by model", _with_others([day.tokens if day else {} for day in found]), number)
    yield chart("Cost by model", _with_others([day.cost if day else {} for day in found]), cost)
    scores = [day.scores if day else {} for day in found]
    keys = sorted({key for day in scores for key in day})[:SERIES]
    yield chart("Feedback, mean score", [(key, [day.get(key) for day in scores]) for key in keys], _score)


def _with_others(days: Sequence[Mapping[str, Decimal | int]]) -> list[tuple[str, Values]]:
    """A series for each model, or for the largest ones and the sum of all others."""
    sums: dict[str, float] = {}
    for day in days:
        for name, value in day.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    names = sorted(sums, key=lambda name: (-sums[name], name))
    shown = names if len(names) <= SERIES else names[: SERIES - 1]
    series = [(name or _UNNAMED, [_float(day.get(name)) for day in days]) for name in shown]
    if rest := set(names[len(shown) :]):
        of_rest = [[float(value) for name, value in day.items() if name in rest] for day in days]
        series.append((_OTHERS, [sum(values) if values else None for values in of_rest]))
    return series


def _float(value: Decimal | float | None) -> float | None:
    return None if value is None else float(value)


def _percentile(place: int) -> Read:
    return lambda day: day.seconds[place] if day.seconds else None


def _percent(value: float) -> str:
    return f"{value * 100:.3g} %"


def _score(value: float) -> str:
    return f"{value:.3g}"


_PERCENTILES = {name: _percentile(place) for place, name in enumerate(("p50", "p95", "p99"))}
