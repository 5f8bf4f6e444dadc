"""Run configuration of the assets, set in the UI's launchpad or by the command line."""

import dagster as dg
from pydantic import Field

from lse_resources.postgres.load.batches import BATCH_SIZE


class FetchConfig(dg.Config):
    """How a day is fetched."""

    ask_count: bool = True
    allow_shrink: bool = False
    feedback: bool = True
    attachments: bool = True


class ZipConfig(dg.Config):
    """How a day is zipped. Default of `output_dir`: the archive directory of the settings."""

    allow_shrink: bool = False
    output_dir: str | None = None


class UploadConfig(dg.Config):
    """How a day is uploaded."""

    allow_shrink: bool = False


class LakeConfig(dg.Config):
    """How a day is written to the lake."""

    allow_shrink: bool = False


class LoadConfig(dg.Config):
    """How a day is loaded. Run files replace rows that differ: they were compared with LangSmith before."""

    overwrite: bool = True
    batch_size: int = BATCH_SIZE


class VerifyConfig(dg.Config):
    """What is verified, and what is repaired from the files."""

    detailed: bool = False
    fix_missing: bool = False
    fix: bool = False
    skip: list[str] = Field(default_factory=list)
