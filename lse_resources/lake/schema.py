"""The tables of the lake: their columns, files and keys. docs/lake.md documents what is here.

A column may be added; its type never changes. `SCHEMA` grows with every change, and older days are built again.
"""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from lse_archive.names import project_folder

SCHEMA = 1
"""The version of the schema, which each manifest names."""
MANIFEST = "_manifest.json"
COST_SCALE = 24
"""Fractional digits of a cost; more are rounded."""
COST_LIMIT = 10**9
"""A cost of so many USD or more is NULL: a sum of costs must not overflow 38 digits."""

_TIME = pa.timestamp("us", tz="UTC")
_COST = pa.decimal128(38, COST_SCALE)
_TEXTS = pa.list_(pa.string())
_WORKSPACE = ("workspace", pa.string())

RUNS = pa.schema(
    [
        _WORKSPACE,
        ("run_id", pa.string()),
        ("trace_id", pa.string()),
        ("parent_run_id", pa.string()),
        ("depth", pa.int32()),
        ("is_root", pa.bool_()),
        ("name", pa.string()),
        ("run_type", pa.string()),
        ("status", pa.string()),
        ("start_time", _TIME),
        ("end_time", _TIME),
        ("latency_seconds", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("total_tokens", pa.int64()),
        ("prompt_cost", _COST),
        ("completion_cost", _COST),
        ("total_cost", _COST),
        ("error", pa.string()),
        ("model", pa.string()),
        ("tags", _TEXTS),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("thread_id", pa.string()),
        ("mark", _TEXTS),
        ("file_sha256", pa.binary(32)),
        ("inputs", pa.string()),
        ("outputs", pa.string()),
        ("extra", pa.string()),
    ]
)
FEEDBACK = pa.schema(
    [
        _WORKSPACE,
        ("id", pa.string()),
        ("run_id", pa.string()),
        ("trace_id", pa.string()),
        ("key", pa.string()),
        ("score", pa.float64()),
        ("value", pa.string()),
        ("comment", pa.string()),
        ("correction", pa.string()),
        ("source_type", pa.string()),
        ("created_at", _TIME),
        ("modified_at", _TIME),
        ("deleted", pa.bool_()),
        ("mark", _TEXTS),
    ]
)
ATTACHMENTS = pa.schema(
    [
        _WORKSPACE,
        ("run_id", pa.string()),
        ("name", pa.string()),
        ("media_type", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("file", pa.string()),
        ("mark", _TEXTS),
    ]
)
RAW = pa.schema([("file", pa.string()), ("part", pa.int32()), ("run_id", pa.string()), ("content", pa.binary())])
TABLES: dict[str, pa.Schema] = {"runs": RUNS, "feedback": FEEDBACK, "attachments": ATTACHMENTS, "raw": RAW}
"""The tables of each day, in the order in which they are written."""
CONTENTS = frozenset(("inputs", "outputs", "extra", "error", "comment", "value", "correction", "content"))
"""Columns whose values seldom repeat: they have no dictionary and no statistics, which would be further copies."""


def day_folder(table: str, project: str, day: date) -> str:
    """The folder of a table's day in the lake: `runs/project=PROJECT/run_date=YYYY-MM-DD`.

    Engines that know Hive's layout decode the percent escapes of the project.
    """
    return f"{table}/project={project_folder(project)}/run_date={day}"


def table_key(table: str, project: str, day: date) -> str:
    """The one file of a table's day."""
    return f"{day_folder(table, project, day)}/{table}.parquet"


def manifest_key(project: str, day: date) -> str:
    """The manifest of a day, beside its runs."""
    return f"{day_folder('runs', project, day)}/{MANIFEST}"
