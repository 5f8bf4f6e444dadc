"""Addresses of the archive's pages, which assets and pages share. They have no host: the UI has the same origin."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from urllib.parse import urlencode

ROOT = "/archive"
"""The path below which the pages are."""


def days_address(project: str, year: int | None = None) -> str:
    """The calendar of a project, by default of the last year that is archived."""
    return f"{ROOT}/days?{urlencode({'project': project} | ({'year': year} if year else {}))}"


def runs_address(project: str, first: date, last: date) -> str:
    """The runs of a range of days."""
    return f"{ROOT}/runs?{urlencode({'project': project, 'from': first, 'to': last})}"


def some_runs_address(project: str, run_ids: Iterable[str]) -> str:
    """These runs of a project."""
    return f"{ROOT}/runs?{urlencode([('project', project), *(('id', run_id) for run_id in run_ids)])}"


def run_address(run_id: object) -> str:
    """A run, in its trace."""
    return f"{ROOT}/run/{run_id}"
