"""Other ways to load a day, for comparison: a bare COPY, executemany, and dlt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from database_data import DAY, PROJECT
from psycopg.types.json import Jsonb

_COLUMNS = "run_id, trace_id, project, run_date, data, file_sha256"
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def write_copy_file(folder: Path, target: Path) -> None:
    """Prepares all rows in COPY's text format."""
    with target.open("w") as file:
        for content in _contents(folder):
            run = json.loads(content)
            digest = hashlib.sha256(content).hexdigest()
            text = content.decode().translate(_ESCAPES)
            file.write(f"{run['id']}\t{run['trace_id']}\t{PROJECT}\t{DAY}\t{text}\t\\\\x{digest}\n")


def copy_file(url: str, file: Path) -> None:
    """`COPY … FROM` a file of the server, on one connection; from the client if the role lacks the right."""
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(f"COPY runs ({_COLUMNS}) FROM '{file}'".encode())
        except psycopg.errors.InsufficientPrivilege:
            statement = f"COPY runs ({_COLUMNS}) FROM STDIN".encode()
            with connection.cursor().copy(statement) as copy, file.open("rb") as rows:
                while part := rows.read(1 << 18):
                    copy.write(part)


def copy_twice(url: str, file: Path) -> None:
    """The maximum of the server: the prepared rows from memory, over two connections."""
    statement = f"COPY runs ({_COLUMNS}) FROM STDIN".encode()

    def send(rows: bytes) -> None:
        with psycopg.connect(url, autocommit=True) as connection, connection.cursor().copy(statement) as copy:
            for start in range(0, len(rows), 1 << 18):
                copy.write(rows[start : start + (1 << 18)])

    _over_two(send, file)


def staged_load(url: str, file: Path) -> None:
    """The other way to write a batch: `COPY` into a staging table, and from there into the table, with the hash."""

    def send(rows: bytes) -> None:
        lines = rows.splitlines(keepends=True)
        with psycopg.connect(url) as connection:
            connection.execute(f"CREATE TEMP TABLE staging AS SELECT {_COLUMNS} FROM runs LIMIT 0".encode())
            for start in range(0, len(lines), 500):
                with connection.cursor().copy(f"COPY staging ({_COLUMNS}) FROM STDIN".encode()) as copy:
                    copy.write(b"".join(lines[start : start + 500]))
                connection.execute(
                    f"INSERT INTO runs ({_COLUMNS}, row_sha256) SELECT {_COLUMNS},"
                    " sha256(convert_to(data::text, 'UTF8')) FROM staging ON CONFLICT DO NOTHING".encode()
                )
                connection.execute("TRUNCATE staging")
                connection.commit()

    _over_two(send, file)


def _over_two(send: Callable[[bytes], None], file: Path) -> None:
    rows = file.read_bytes()
    middle = rows.index(b"\n", len(rows) // 2) + 1
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, (rows[:middle], rows[middle:])))


def naive_load(url: str, folder: Path) -> None:
    """The simplest way: `executemany` of an upsert, a hundred files at a time."""
    statement = (
        f"INSERT INTO runs ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (run_id, run_date) DO UPDATE SET data = excluded.data, file_sha256 = excluded.file_sha256"
    ).encode()
    batch: list[tuple[Any, ...]] = []
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for content in _contents(folder):
            run = json.loads(content)
            digest = hashlib.sha256(content).digest()
            batch.append((run["id"], run["trace_id"], PROJECT, DAY, Jsonb(run), digest))
            if len(batch) == 100:
                cursor.executemany(statement, batch)
                connection.commit()
                batch.clear()
        cursor.executemany(statement, batch)
        connection.commit()


def dlt_load(url: str, folder: Path) -> None:
    """dlt, merging by the run's id, with the run in one JSON column."""
    import dlt  # ty: ignore[import-not-found] - measured where it is installed

    @dlt.resource(name="runs", write_disposition="merge", primary_key="run_id", columns={"data": {"data_type": "json"}})
    def runs() -> Iterator[dict[str, Any]]:
        for content in _contents(folder):
            run = json.loads(content)
            yield {"run_id": run["id"], "trace_id": run["trace_id"], "project": PROJECT, "run_date": DAY, "data": run}

    pipelines = folder.parent / "dlt"
    with psycopg.connect(url) as connection:
        info = connection.info
        server = f"localhost:{info.port}/{info.dbname}?host={info.host}"
        credentials = f"postgresql://{info.user}:{info.password or 'none'}@{server}"
    dlt.pipeline(
        "bench",
        pipelines_dir=str(pipelines),
        destination=dlt.destinations.postgres(credentials),
        dataset_name="dlt_runs",
    ).run(runs())


def _contents(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.json")):
        yield path.read_bytes()
