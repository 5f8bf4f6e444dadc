"""A day of more than 65,535 files: it is written and read as zip64."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lse_archive.zips.reader import sha256
from lse_archive.zips.writer import write_zip

pytestmark = pytest.mark.slow

FILES = 65_600
_LINKS = 60_000  # the file system limits the hard links of a file
_ZIP64_END = b"PK\x06\x06"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is deleted after the test, not kept by pytest."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_day_of_many_files_is_zipped_and_verified(folder: Path) -> None:
    files = []
    for number in range(FILES):
        path = folder / f"{number:06}.json"
        if number % _LINKS == 0:
            path.write_bytes(b'{"from": %d}' % number)
        else:  # a hard link: creating so many files takes minutes on some disks
            os.link(files[number - number % _LINKS], path)
        files.append(path)
    target = folder / "day.zip"
    with target.open("wb") as file:
        written = list(write_zip(file, files[0].parent, [path.name for path in files]))
    content = {first: hashlib.sha256(b'{"from": %d}' % first).digest() for first in (0, _LINKS)}
    expected = [(path.name, content[number - number % _LINKS]) for number, path in enumerate(files)]
    assert written == expected
    assert _ZIP64_END in target.read_bytes()[-200:]
    with zipfile.ZipFile(target) as archive:
        assert [(info.filename, sha256(archive, info)) for info in archive.infolist()] == expected
