"""All settings: from the environment, and from `.env` in the working directory (or the file of `LSE_ENV_FILE`)."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lse_archive.errors import SettingsError
from lse_archive.fetch.attachments import AttachmentLimits
from lse_archive.files import absolute_path
from lse_archive.layout import WORK_DIR, Layout
from lse_archive.printable import is_utf8
from lse_resources.destinations.google_drive.settings import AuthType, DriveSettings
from lse_resources.langsmith.settings import LangSmithSettings
from lse_resources.places import check_places

_MAX_MB = 1e9
_MAX_SECONDS = 1e9  # more than 30 years; a wait of more than 292 years is an error in Python


class Settings(BaseSettings):
    """The settings; `.env.example` describes each. `repr` and errors contain no secrets."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    langsmith_api_key: SecretStr = SecretStr("")
    langsmith_endpoint: str = "https://api.smith.langchain.com"
    langsmith_workspace_id: str | None = None

    google_drive_folder_url: str | None = None
    google_drive_auth_type: AuthType = "oauth2"
    google_drive_credentials_path: Path | None = None
    google_drive_subject: str | None = None
    google_drive_api_root: str | None = None
    google_drive_acknowledge_abuse: bool = False

    lse_archive_url: str | None = None
    lse_lake_url: str | None = None
    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_region: str | None = None
    aws_endpoint_url: str | None = None
    lse_age_recipient: str | None = None
    lse_age_identity_file: Path | None = None
    lse_age_passphrase: SecretStr | None = None

    lse_database_url: SecretStr | None = None
    lse_dagster_database_url: SecretStr | None = None
    lse_search: Literal["on", "off"] = "on"
    lse_home: Path = Path("~/.lse")
    lse_data_dir: Path = Path("data")
    lse_archive_dir: Path = Path("archives")
    lse_projects_file: Path = Path("projects.toml")

    lse_alert_webhook_url: SecretStr | None = None
    lse_alert_smtp_url: SecretStr | None = None
    lse_alert_email: str | None = None
    lse_ui_url: str = "http://127.0.0.1:3000"

    # LSE_LANGSMITH_PATIENCE is its older name.
    lse_patience: float = Field(
        300.0, gt=0, le=_MAX_SECONDS, validation_alias=AliasChoices("lse_patience", "lse_langsmith_patience")
    )
    lse_langsmith_max_requests: int = Field(300, gt=0)
    lse_langsmith_stats_seconds: float = Field(10.0, ge=0, le=_MAX_SECONDS)

    lse_attachment_max_mb: float = Field(2_000.0, gt=0, le=_MAX_MB)
    lse_attachments_day_mb: float = Field(50_000.0, gt=0, le=_MAX_MB)

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object, field: ValidationInfo) -> object:
        if isinstance(value, str):
            if "\0" in value:
                raise ValueError("it contains a NUL character")
            if field.field_name not in _PATHS and not is_utf8(value):
                raise ValueError("it is not UTF-8")
        return value

    @field_validator("langsmith_workspace_id")
    @classmethod
    def _fits_a_header(cls, value: str | None) -> str | None:
        if value and not (value.isascii() and value.isprintable()):
            raise ValueError("it contains characters that are not allowed in an id")
        return value

    @field_validator("google_drive_api_root", "aws_endpoint_url")
    @classmethod
    def _can_be_split(cls, value: str | None) -> str | None:
        _ = urlsplit(value or "").port  # raises ValueError
        return value

    @field_validator("langsmith_endpoint")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        _ = parts.port  # raises ValueError, like urlsplit
        if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable():
            raise ValueError("it is not a URL that begins with https:// or http://")
        return value

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Reads the settings of a home.

        Raises:
            UsageError: The home belongs to other places, see `check_places`.
            SettingsError: As `read`; or the record of the places is damaged.
        """
        settings = cls.read(**overrides)
        check_places(settings)
        return settings

    @classmethod
    def read(cls, **overrides: Any) -> Settings:
        """Reads the settings, whatever the places of the home are.

        Raises:
            SettingsError: A setting is malformed, and the text does not contain its value; or `.env` cannot be read.
        """
        file = os.environ.get("LSE_ENV_FILE", ".env")
        try:
            return cls(_env_file=file, **overrides)
        except UnicodeDecodeError:
            raise SettingsError(
                f"{file} cannot be read", why="it is not UTF-8", hint="Save it again with the encoding UTF-8"
            ) from None
        except OSError as error:
            raise SettingsError(f"{file} cannot be read", why=error.strerror or str(error)) from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = "_".join(str(part) for part in first["loc"]).upper()
            if name == "LSE_PATIENCE":
                name = "LSE_PATIENCE (or LSE_LANGSMITH_PATIENCE)"
            raise SettingsError(
                f"{name} is invalid",
                why=first["msg"].removeprefix("Value error, "),
                hint="Correct it in the environment or in .env",
            ) from None

    @cached_property
    def home(self) -> Path:
        """Dagster's home, the embedded database, tokens and logs."""
        return absolute_path(self.lse_home)

    @property
    def layout(self) -> Layout:
        """The directories of run files and archives."""
        return Layout(absolute_path(self.lse_data_dir), absolute_path(self.lse_archive_dir))

    @property
    def projects_file(self) -> Path:
        return absolute_path(self.lse_projects_file)

    @property
    def langsmith(self) -> LangSmithSettings:
        return LangSmithSettings(
            api_key=self.langsmith_api_key.get_secret_value(),
            endpoint=self.langsmith_endpoint,
            workspace_id=self.langsmith_workspace_id,
            patience=self.lse_patience,
            max_requests=self.lse_langsmith_max_requests,
            stats_seconds=self.lse_langsmith_stats_seconds,
        )

    @property
    def attachment_limits(self) -> AttachmentLimits:
        """The largest attachment, and the largest sum of a day's."""
        return AttachmentLimits(
            file_bytes=round(self.lse_attachment_max_mb * 1e6), day_bytes=round(self.lse_attachments_day_mb * 1e6)
        )

    @property
    def drive(self) -> DriveSettings:
        """The settings of the Drive client.

        Raises:
            SettingsError: Google Drive is not configured.
        """
        if not self.google_drive_folder_url:
            raise SettingsError(
                "Google Drive is not configured",
                why="GOOGLE_DRIVE_FOLDER_URL is not set",
                hint="Put the link of a Drive folder into .env, or skip the upload (--skip-upload)",
            )
        return DriveSettings(
            folder_url=self.google_drive_folder_url,
            auth_type=self.google_drive_auth_type,
            credentials_path=self.google_drive_credentials_path,
            token_path=self.home / "drive-token.json",
            api_root=self.google_drive_api_root,
            subject=self.google_drive_subject,
            patience=self.lse_patience,
            folders_path=self.layout.data_dir / WORK_DIR / "drive_folders.json",
            acknowledge_abuse=self.google_drive_acknowledge_abuse,
        )

    @property
    def has_destination(self) -> bool:
        """Whether Google Drive or an object store is configured."""
        return bool(self.lse_archive_url or self.google_drive_folder_url)

    @property
    def has_search(self) -> bool:
        """Whether days are added to the search index."""
        return self.lse_search == "on"

    def require_search(self) -> None:
        """Raises SettingsError if days are not added to the search index."""
        if not self.has_search:
            hint = "Set LSE_SEARCH=on, then add the days to the index: lse archive index"
            raise SettingsError("the search is off", why="LSE_SEARCH is off", hint=hint)

    @property
    def lake_url(self) -> str | None:
        """The URL or the absolute directory of the lake; None if there is none."""
        if not self.lse_lake_url or "://" in self.lse_lake_url:
            return self.lse_lake_url or None
        return str(absolute_path(Path(self.lse_lake_url)))

    @property
    def object_store(self) -> dict[str, str]:
        """The S3 settings that are set, by obstore's names."""
        found = {"region": self.aws_region, "endpoint": self.aws_endpoint_url}
        for name, secret in (
            ("access_key_id", self.aws_access_key_id),
            ("secret_access_key", self.aws_secret_access_key),
        ):
            found[name] = secret.get_secret_value() if secret else None
        return {name: value for name, value in found.items() if value}

    def as_environment(self) -> dict[str, str]:
        """The settings as environment variables, for a child process of the same home."""
        values = os.environ | {
            "LSE_HOME": str(self.home),
            "LSE_DATA_DIR": str(self.layout.data_dir),
            "LSE_ARCHIVE_DIR": str(self.layout.archive_dir),
            "LSE_PROJECTS_FILE": str(self.projects_file),
        }
        if self.lake_url:
            values["LSE_LAKE_URL"] = self.lake_url
        return values


# Paths need not be UTF-8.
_PATHS = {name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)}
