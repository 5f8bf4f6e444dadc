"""`lse status`: the state of each day, as a grid of days and places."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from lse_cli.commands.options import EndOption, JsonOption, ProjectOption, StartOption
from lse_cli.terminal.output import echo

if TYPE_CHECKING:
    from lse_operations.overview import DayView, Rows
    from lse_resources.projects import ProjectConfig
    from lse_resources.settings import Settings

_DAYS = 30
_PLACES = ("files", "zip", "Drive", "Postgres", "verified")
_BLOCK = 31


def status(
    project: ProjectOption = None,
    start_date: StartOption = None,
    end_date: EndOption = None,
    json: JsonOption = False,
) -> None:
    """Show the state of each day: files, zip, Drive, Postgres, verified. Without a range: the last 30 days."""
    import msgspec

    from lse_archive.days import today
    from lse_cli.selection import read_range
    from lse_cli.terminal.output import print_object
    from lse_operations.forget.journal import Journal
    from lse_operations.overview import overview, read_rows
    from lse_operations.project_state import retention
    from lse_resources.settings import Settings

    settings = Settings.load()
    yesterday = today() - timedelta(days=1)
    first, last = read_range(None, start_date, end_date or str(yesterday))
    last = last or yesterday
    first = first or date.fromordinal(max(1, last.toordinal() - _DAYS + 1))
    rows, why = read_rows(settings, first, last)
    chosen, ends = _choose(settings, project, rows)
    views = overview(settings, chosen, first, min(last, yesterday), rows, datetime.now(UTC))
    views = [[day for day in days if day.date <= ends.get(day.project, last)] for days in views]
    erasures = [one for one in Journal(settings.layout).open_intents() if project in (None, one.project)]
    if json:
        days = [day for days in views for day in days]
        results = [msgspec.to_builtins(day) | {"differs": day.differs, "gap": day.is_gap} for day in days]
        known = [{"id": one.id, "project": one.project, "started_at": one.started_at} for one in erasures]
        print_object({"results": results, "open_erasures": known})
    else:
        titles = [f"{one.name}: {retention(settings.layout, one).says()}" for one in chosen]
        lines = [line for title, days in zip(titles, views, strict=True) for line in _grid(title, days)]
        for line in [*lines, *_LEGEND, *_summary([day for days in views for day in days])]:
            echo(line)
        for one in erasures:
            echo(f"erasure not complete: {one.project}: {one.id}, begun {one.started_at}: lse forget --resume")
    if why:
        echo(f"lse: the state of Postgres is unknown: {why}", err=True)


def _choose(settings: Settings, project: str | None, rows: Rows | None) -> tuple[list[ProjectConfig], dict[str, date]]:
    """The projects of the file, and unlisted ones that are archived; for the latter also the last archived day."""
    from lse_archive.errors import UsageError
    from lse_operations.overview import archived_days, unlisted
    from lse_resources.projects import ProjectConfig, lists_none, read_projects

    listed = read_projects(settings.projects_file)
    others = unlisted(settings.layout, listed, rows)
    if project and project not in others and not any(one.name == project for one in listed):
        # `unlisted` does not find a zip without a folder, or a name too long for a folder.
        others[project] = sorted(archived_days(settings.layout, project))
    known = [*listed, *(ProjectConfig(name, days[0], schedule="off") for name, days in others.items() if days)]
    chosen = [one for one in known if project in (None, one.name)]
    if not chosen:
        where = lists_none(settings.projects_file) if not listed else f"it is not in {settings.projects_file}"
        what = f"no day of '{project}' is archived" if project else "no project is archived yet"
        raise UsageError(what, why=where, hint="Add it: lse projects add NAME --start DAY")
    return chosen, {name: days[-1] for name, days in others.items() if days}


_LEGEND = (
    "✓ there   · not there   p pruned   ✗ differs   ? unknown   ! about to expire in LangSmith",
    "verified: ✓ proven   ○ not provable: all places agree, but nothing can prove that the day is complete",
)


def _grid(title: str, days: list[DayView]) -> Iterator[str]:
    yield title
    if not days:
        yield "  no days in this range"
    for start in range(0, len(days), _BLOCK):
        block = days[start : start + _BLOCK]
        yield f"  {block[0].date:%Y-%m}   " + "".join(_day_name(day, first=day is block[0]) for day in block)
        for place in _PLACES:
            yield f"  {place:9} " + "".join(f" {_mark(day, place)} " for day in block)
        if any(day.expires for day in block):
            yield f"  {'expires':9} " + "".join(" ! " if day.expires else "   " for day in block)
    yield ""


def _day_name(day: DayView, *, first: bool) -> str:
    # The first day of a month inside a block shows the month instead of the day.
    return f"{day.date:%b}" if day.date.day == 1 and not first else f" {day.date:%d}"


def _mark(day: DayView, place: str) -> str:
    if place == "verified":
        return (
            "✗" if day.incomplete else {"proven": "✓", "not_provable": "○", "wrong": "✗"}.get(day.verified or "", "·")
        )
    if place == "Postgres" and day.postgres is None:
        return "?"
    value = {"files": day.files, "zip": day.zip, "Drive": day.drive, "Postgres": day.postgres}[place]
    return {"here": "✓", True: "✓", "pruned": "p"}.get(value or "", "·")


def _summary(days: list[DayView]) -> Iterator[str]:
    """One line for each project and kind of problem."""
    from lse_archive.days import day_ranges
    from lse_archive.texts import counted
    from lse_cli.terminal.texts import alike_behind, missing_steps

    kinds = (
        ("differs", [day for day in days if day.differs], ""),
        ("incomplete", [day for day in days if day.incomplete], ""),
        ("about to expire", [day for day in days if day.expires], ""),
        ("gap", [day for day in days if day.is_gap and day.last_day and not day.expires], ""),
        ("gap", [day for day in days if day.is_gap and not day.last_day], ", no longer in LangSmith"),
        ("not provable", [day for day in days if day.verified == "not_provable"], ""),
        ("only run files, no copy elsewhere", [day for day in days if day.is_fetched_only], ""),
        *(("behind", found, f": {missing_steps(found[0])}") for found in alike_behind(days)),
    )
    for kind, found, more in kinds:
        for name in dict.fromkeys(day.project for day in found):
            yield f"{kind}: {name}: {day_ranges(str(day.date) for day in found if day.project == name)}{more}"
    if not any(found for _, found, _ in kinds):
        yield f"{counted(len(days), 'day')}, no gap"
