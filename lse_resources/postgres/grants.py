"""Rights in the database: a role for the application with the least rights, and a read-only role."""

from __future__ import annotations

from typing import Literal

import psycopg
from psycopg import sql

from lse_resources.postgres.database import Database

Access = Literal["application", "reader"]

_VIEWS = "run_facts, trace_facts, daily_facts, feedback_facts, thread_facts"
_APPLICATION = (
    "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON runs, replaced_runs, run_search, feedback, attachments, loads, days,"
    " erasures, tombstones TO {role}",
    f"GRANT SELECT ON alembic_version, {_VIEWS} TO {{role}}",
    "GRANT EXECUTE ON FUNCTION lse_ensure_month(date) TO {role}",
)
_READER = (
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT ON alembic_version, runs, run_search, feedback, attachments, loads, days, erasures, tombstones,"
    f" {_VIEWS} TO {{role}}",
)


def grant(database: Database, role: str, access: Access, *, password: str | None = None) -> bool:
    """Grants a role its rights, and creates the role if it does not exist. Returns whether it was created.

    Needs the owner of the tables; creating a role needs CREATEROLE.

    Args:
        access: `application` loads and verifies, and cannot change the schema; `reader` selects.
        password: New password of the role, sent as a SCRAM verifier. None: the password stays unchanged.

    Raises:
        DatabaseError: Postgres cannot be reached, or the current role may not grant.
    """
    with database.session(f"cannot grant {role} its rights") as connection, connection.transaction():
        created = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None
        name = sql.Identifier(role)
        if created:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
            if access == "reader":
                connection.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(name))
        if password is not None:
            verifier = sql.Literal(_verifier(connection, role, password))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, verifier))
        [(schema,)] = connection.execute("SELECT current_schema()").fetchall()
        for statement in _APPLICATION if access == "application" else _READER:
            connection.execute(
                sql.SQL(statement).format(
                    database=sql.Identifier(connection.info.dbname), schema=sql.Identifier(schema), role=name
                )
            )
    return created


def _verifier(connection: psycopg.Connection, role: str, password: str) -> str:
    encoding = connection.info.encoding
    verifier = connection.pgconn.encrypt_password(password.encode(encoding), role.encode(encoding), b"scram-sha-256")
    return verifier.decode(encoding)
