"""Project names: readable folders that differ for all projects and from which the name can be read."""

import os
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lse_archive.names import project_folder, project_name, project_slug, zip_name

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("chat", "chat"),
        ("My Project-1_b.2", "My Project-1_b.2"),
        ("été 日本 ไทยที่", "été 日本 ไทยที่"),
        ("a/b", "a%2Fb"),
        ("..", "%2E."),
        (".lse", "%2Else"),
        ("50%", "50%25"),
        ('say "hi"\n', "say %22hi%22%0A"),
        ("🎉", "%F0%9F%8E%89"),
        ("nul\0", "nul%00"),
    ],
)
def test_folders_are_readable_and_safe(name, folder):
    assert project_folder(name) == folder
    assert project_name(folder) == name


@given(NAMES)
@example("%41")
@example("a%%b")
@example("e\u0301")
@example("\udcff")
def test_the_name_can_be_read_from_the_folder_unless_it_is_too_long(name):
    folder = project_folder(name)
    assert len(os.fsencode(folder)) <= 200
    assert Path(folder).name == folder
    assert not folder.startswith(".")
    assert project_name(folder) == name or (project_name(folder) is None and len(name.encode(errors="replace")) > 60)


@given(st.lists(NAMES, min_size=2, max_size=8, unique=True))
@example(["a/b", "a%2Fb", "a%252Fb"])
@example(["x" * 300, "x" * 301])
def test_two_projects_never_share_a_folder_or_a_key(names):
    assert len({project_folder(name) for name in names}) == len(names)
    assert len({project_slug(name) for name in names}) == len(names)


@given(NAMES)
@example("---")
@example("Été")
def test_slugs_are_valid_dagster_keys(name):
    assert re.fullmatch(r"[a-z0-9-]{1,70}", project_slug(name))
    assert project_slug(name) == project_slug(name)


def test_a_slug_has_a_hash_if_it_differs_from_the_name():
    assert project_slug("my-chat-2") == "my-chat-2"
    assert re.fullmatch(r"my-chat-[0-9a-f]{6}", project_slug("My Chat"))


def test_the_archive_is_named_after_project_and_day():
    assert zip_name("a/b", date(2026, 1, 2)) == "a%2Fb_2026-01-02.zip"
