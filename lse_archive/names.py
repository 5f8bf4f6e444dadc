"""Conversions of a project's name to a folder, a file name and a Dagster key, and back."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from datetime import date
from urllib.parse import quote, unquote

from lse_archive.errors import UsageError

MAX_NAME_BYTES = 2600
"""The longest name of a project: Postgres' indexes hold 2,704 bytes, with the day (nbtree, BTMaxItemSize)."""

# Room for `_YYYY-MM-DD.zip` and a temporary suffix within the 255 bytes that file systems allow.
_MAX_FOLDER_BYTES = 200
_HASH_LENGTH = 10


@functools.lru_cache(maxsize=1024)
def project_folder(name: str) -> str:
    """The folder name of a LangSmith project: readable, unique per name, safe on every file system.

    Letters and digits of any script, space, `-`, `_` and `.` stay; everything else, and a leading dot, is
    percent-encoded. A name that would be too long ends in a hash, preceded by `%%` (which encoding never makes).
    """
    folder = "".join(_keep_or_quote(char, first=index == 0) for index, char in enumerate(name))
    if len(folder.encode()) <= _MAX_FOLDER_BYTES:
        return folder
    head = folder.encode()[: _MAX_FOLDER_BYTES - _HASH_LENGTH - 2].decode(errors="ignore")
    return f"{head}%%{_digest(name)}"


def require_name(name: str) -> str:
    """Returns the project's name if it can be archived under it.

    Raises:
        UsageError: It is empty, or longer than `MAX_NAME_BYTES`.
    """
    if not name.strip():
        raise UsageError("a project needs a name")
    if (size := len(name.encode(errors="surrogatepass"))) > MAX_NAME_BYTES:
        raise UsageError(
            f"the project '{name[:40]}…' cannot be archived",
            why=f"its name has {size:,} bytes, and Postgres can index {MAX_NAME_BYTES:,}",
            hint="Rename it in LangSmith",
        )
    return name


def project_name(folder: str) -> str | None:
    """The project of a folder; None if its name is too long for a folder name."""
    return None if "%%" in folder else unquote(folder, errors="surrogatepass")


def _keep_or_quote(char: str, *, first: bool) -> str:
    if char.isalnum() or char in " -_" or (char == "." and not first):
        return char
    if unicodedata.category(char).startswith("M"):  # combining marks belong to the letter before them
        return char
    return "%2E" if char == "." else quote(char, safe="", errors="surrogatepass")


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_HASH_LENGTH]


def project_slug(name: str) -> str:
    """A key for Dagster, `[a-z0-9-]+`: a pure function of the name, with a short hash if characters were dropped.

    Two names may have one key, see `lse_resources.projects.key_owners`.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return slug if slug == name else f"{slug}-{_digest(name)[:6]}".lstrip("-")


def zip_name(project: str, day: date) -> str:
    """The name of a day's archive, locally and on Drive."""
    return f"{project_folder(project)}_{day}.zip"
