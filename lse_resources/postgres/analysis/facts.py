"""What analysts read: runs, feedback and attachments, each with its view, columns and order."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from lse_resources.postgres.analysis.columns import ATTACHMENT_COLUMNS, COLUMNS, FEEDBACK_COLUMNS


@dataclass(frozen=True, slots=True)
class Facts:
    """One kind of facts.

    Attributes:
        noun: One of them, for messages.
        view: Where the columns are, with `project` and `run_date`.
        order: Of the rows of a project. What is not known comes last.
        documents: The rows with the column `data`, for a FROM clause; `key` is their id.
    """

    noun: str
    view: sql.Identifier
    columns: tuple[str, ...]
    order: sql.SQL
    documents: sql.SQL
    key: sql.Identifier


RUNS = Facts(
    "run",
    sql.Identifier("run_facts"),
    COLUMNS,
    sql.SQL("run_date, start_time, run_id"),
    sql.SQL("runs"),
    sql.Identifier("run_id"),
)
FEEDBACK = Facts(
    "feedback record",
    sql.Identifier("feedback_facts"),
    FEEDBACK_COLUMNS,
    sql.SQL("run_date, created_at, id"),
    sql.SQL(
        "(SELECT * FROM feedback"
        " WHERE (id, project, run_date) IN (SELECT id, project, run_date FROM feedback_facts)) AS feedback"
    ),
    sql.Identifier("id"),
)
ATTACHMENTS = Facts(
    "attachment",
    sql.Identifier("attachments"),
    ATTACHMENT_COLUMNS,
    sql.SQL('run_date, run_id, name COLLATE "C", id'),
    sql.SQL("attachments"),
    sql.Identifier("id"),
)
FACTS = {"runs": RUNS, "feedback": FEEDBACK, "attachments": ATTACHMENTS}
