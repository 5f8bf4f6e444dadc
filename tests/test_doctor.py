"""`lse doctor`: each thing that can be wrong is found, and its remedy named; secrets are not shown."""

from __future__ import annotations

import json
from datetime import date

import pytest
from alert_targets import webhook
from house_fixtures import PROJECT, House

from lse_archive.projects import ProjectConfig, add_project
from lse_resources.alerts import Alert
from lse_resources.house import open_house
from lse_resources.settings import Settings
from lse_sensors.outbox import Outbox


def wrong(house: House) -> dict[str, str]:
    """What is wrong: name, and text with remedy."""
    ended = house.lse("doctor", "--json")
    found = [entry for entry in json.loads(ended.out)["results"] if entry["verdict"] == "wrong"]
    assert ended.code == (1 if found else 0)
    assert all(entry["todo"] for entry in found)
    return {entry["name"]: f"{entry['says']} {entry['todo']}" for entry in found}


@pytest.fixture
def healthy(house: House) -> House:
    house.fill(runs=1)
    add_project(house.directory / "projects.toml", ProjectConfig(PROJECT, date(2026, 1, 1)))
    open_house(Settings.load())
    return house


def test_a_healthy_house(healthy: House) -> None:
    assert wrong(healthy) == {}
    ended = healthy.lse("doctor")
    assert ended.code == 0
    for name in ("versions", "disk", "clock", "LangSmith", "Drive", "Postgres", "platform"):
        assert f" {name}" in ended.out
    assert healthy.environment["LANGSMITH_API_KEY"] not in ended.out


@pytest.mark.parametrize(
    ("variable", "value", "name", "remedy"),
    [
        ("LANGSMITH_API_KEY", "lsv2_pt_wrong", "LangSmith", "LANGSMITH_API_KEY"),
        ("LANGSMITH_API_KEY", "", "LangSmith", ".env"),
        ("LANGSMITH_ENDPOINT", "http://127.0.0.1:1", "LangSmith", ""),
        ("GOOGLE_DRIVE_FOLDER_URL", "1AbCdEfGhIjKlMnOpQrStUvWxYz012345", "Drive", ""),
        ("GOOGLE_DRIVE_CREDENTIALS_PATH", "/nowhere.json", "Drive", ""),
        ("LSE_DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/none", "Postgres", "LSE_DATABASE_URL"),
        ("LSE_ALERT_EMAIL", "me@example.com", "alerts", "both"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    healthy: House, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str, remedy: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = wrong(healthy)
    assert list(found) == [name]
    assert remedy in found[name]
    assert "hush" not in found[name]


def test_a_project_that_langsmith_does_not_have(healthy: House) -> None:
    add_project(healthy.directory / "projects.toml", ProjectConfig("typo", date(2026, 1, 1)))
    assert "'typo'" in wrong(healthy)["LangSmith"]


def test_a_database_without_tables(healthy: House) -> None:
    healthy.sql("DROP TABLE alembic_version")
    assert "lse db migrate" in wrong(healthy)["Postgres"]


def test_a_clock_that_is_wrong(healthy: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(clock_behind_seconds=3600) as another:
        monkeypatch.setenv("LANGSMITH_ENDPOINT", another.url)
        assert "NTP" in wrong(healthy)["clock"]


def test_a_disk_that_is_full(healthy: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lse_cli.doctor._MIN_FREE_BYTES", 10**18)
    assert "Make room" in wrong(healthy)["disk"]


def test_alerts_that_nobody_takes(healthy: House) -> None:
    Outbox(Settings.load().home / "alerts").put("1", Alert("x"), {"webhook": lambda alert: None})
    assert "lse alerts test" in wrong(healthy)["alerts"]
