"""Addresses of the archive's pages, which assets and pages share. They have no host: the UI has the same origin."""

from __future__ import annotations

from urllib.parse import urlencode

ROOT = "/archive"
"""The path below which the pages are."""


def days_address(project: str, year: int | None = None) -> str:
    """The calendar of a project, by default of the last year that is archived."""
    return f"{ROOT}/days?{urlencode({'project': project} | ({'year': year} if year else {}))}"
