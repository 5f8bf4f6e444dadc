"""Searches the archive, and prints the hits."""

from __future__ import annotations

from lse_archive.runs.words import Query
from lse_archive.texts import counted
from lse_cli.terminal.output import echo, print_object
from lse_platform.home import open_home
from lse_resources.postgres.pages.session import reading
from lse_resources.postgres.search.find import Found, Scope, search
from lse_resources.settings import Settings


def search_archive(settings: Settings, query: Query, scope: Scope, limit: int) -> Found:
    """Finds the newest runs, at most `limit`, however long it takes.

    Raises:
        SettingsError: The search is off.
        DatabaseError: Postgres cannot be reached, or does not answer in time.
    """
    settings.require_search()
    database, found = open_home(settings).database, Found()
    while True:
        with reading(database) as connection:
            more = search(connection, query, scope, limit - len(found.hits), found.following)
        found = Found([*found.hits, *more.hits], more.following, more.behind, more.cut)
        if found.following is None or len(found.hits) == limit:
            return found


def print_hits(found: Found, *, json: bool) -> None:
    """Prints each hit on two lines, or one object; what was not searched on stderr, or in the object."""
    if json:
        hits = [
            {
                "project": hit.project,
                "date": str(hit.run_date),
                "run_id": str(hit.run_id),
                "trace_id": str(hit.trace_id),
                "name": hit.name,
                "run_type": hit.run_type,
                "status": hit.status,
                "start_time": hit.start_time.isoformat() if hit.start_time else None,
                "place": hit.excerpt.place,
                "text": hit.excerpt.text,
            }
            for hit in found.hits
        ]
        behind = [{"project": project, "date": str(day)} for project, day in found.behind]
        more = found.following is not None
        print_object({"results": hits, "more": more, "not_indexed": behind, "cut": found.cut})
        return
    for hit in found.hits:
        start = f"{hit.start_time:%Y-%m-%d %H:%M:%S}" if hit.start_time else str(hit.run_date)
        echo(start, hit.project, str(hit.run_id), hit.name or "(no name)", hit.status or "")
        echo(f"  {hit.excerpt.place}: {hit.excerpt.text}")
    if not found.hits:
        echo("no run has all of these words", err=True)
    if found.following:
        echo("older runs were not searched: --limit finds more, --end-date begins further back", err=True)
    if found.behind:
        days = counted(len(found.behind), "day is", "days are")
        echo(f"{days} not, or not wholly, in the search index: lse archive index adds them", err=True)
    if found.cut:
        runs = counted(found.cut, "run is", "runs are")
        echo(f"{runs} too long for the search index: only the first part is searched", err=True)
