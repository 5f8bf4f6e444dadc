"""Settings: typed, the environment overrides `.env`, and secrets are never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from home_fixtures import Installation

from lse_archive.errors import SettingsError
from lse_resources.settings import Settings

_SECRETS = {
    "LANGSMITH_API_KEY": "lsv2_pt_secret",
    "LSE_DATABASE_URL": "postgresql://lse:hunter2@db.example.com/lse",
    "LSE_DAGSTER_DATABASE_URL": "postgresql://lse:hunter2@db.example.com/dagster",
}


def test_the_environment_overrides_the_file(bare_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bare_installation.directory / "settings.env"
    path.write_text("LANGSMITH_API_KEY=from-file\nLANGSMITH_WORKSPACE_ID=w1\nLSE_HOME=/nowhere\nUNKNOWN=1\n")
    monkeypatch.setenv("LSE_ENV_FILE", str(path))
    monkeypatch.setenv("LANGSMITH_API_KEY", "from-environment")
    settings = Settings.load()
    assert settings.langsmith.api_key == "from-environment"
    assert settings.langsmith.workspace_id == "w1"
    assert settings.home == bare_installation.directory / "home"


def test_the_env_file_of_the_working_directory_is_read(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LSE_ENV_FILE")
    monkeypatch.chdir(bare_installation.directory)
    Path(".env").write_text("LANGSMITH_ENDPOINT='https://eu.api.smith.langchain.com'\n")
    assert Settings.load().langsmith.endpoint == "https://eu.api.smith.langchain.com"


def test_an_empty_setting_counts_as_unset(bare_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LSE_DATABASE_URL", "LANGSMITH_WORKSPACE_ID", "LANGSMITH_ENDPOINT"):
        monkeypatch.setenv(name, "")
    settings = Settings.load()
    assert (settings.lse_database_url, settings.langsmith_workspace_id) == (None, None)
    assert settings.langsmith_endpoint == "https://api.smith.langchain.com"


def test_no_secret_is_shown(bare_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    shown = f"{settings!r} {settings} {settings.langsmith!r} {settings.model_dump()}"
    assert "lsv2_pt_secret" not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_DRIVE_AUTH_TYPE", "password"),
        ("LANGSMITH_ENDPOINT", "hunter2.example.com"),
        ("LANGSMITH_ENDPOINT", "https://"),
        ("LSE_LANGSMITH_MAX_REQUESTS", "0"),
        ("LSE_LANGSMITH_STATS_SECONDS", "hunter2"),
    ],
)
def test_a_malformed_setting_is_named_and_its_value_is_not_shown(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as refused:
        Settings.load()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 300.0),
        ({"LSE_LANGSMITH_PATIENCE": "7"}, 7.0),
        ({"LSE_PATIENCE": "8"}, 8.0),
        ({"LSE_LANGSMITH_PATIENCE": "7", "LSE_PATIENCE": "8"}, 8.0),
        ({"LSE_LANGSMITH_PATIENCE": "7", "LSE_PATIENCE": ""}, 7.0),
    ],
)
def test_langsmith_and_drive_use_the_same_patience(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], expected: float
) -> None:
    for name in ("LSE_LANGSMITH_PATIENCE", "LSE_PATIENCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(google_drive_folder_url="root", google_drive_credentials_path=Path("key.json"))
    assert (settings.langsmith.patience, settings.drive.patience) == (expected, expected)


@pytest.mark.parametrize("name", ["LSE_PATIENCE", "LSE_LANGSMITH_PATIENCE"])
def test_the_error_for_a_malformed_patience_names_the_setting(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for each in ("LSE_LANGSMITH_PATIENCE", "LSE_PATIENCE"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "much")
    with pytest.raises(SettingsError, match=name):
        Settings.load()


def test_paths_are_absolute_and_passed_to_child_processes(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bare_installation.directory)
    monkeypatch.setenv("LSE_DATA_DIR", "here")
    monkeypatch.setenv("LSE_HOME", "~/lse-home")
    monkeypatch.setenv("HOME", str(bare_installation.directory))
    settings = Settings.load()
    assert settings.layout.data_dir == bare_installation.directory / "here"
    assert settings.home == bare_installation.directory / "lse-home"
    environment = settings.as_environment()
    assert environment["LSE_DATA_DIR"] == str(bare_installation.directory / "here")
    assert environment["PATH"] == os.environ["PATH"]
