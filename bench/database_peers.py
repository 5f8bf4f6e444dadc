"""What the load is measured against: a bare COPY, the naive way, and dlt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
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
    """`COPY … FROM` the server's own file, on one connection; where that needs a right we lack, from the client."""
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(f"COPY runs ({_COLUMNS}) FROM '{file}'".encode())
        except psycopg.errors.InsufficientPrivilege:
            statement = f"COPY runs ({_COLUMNS}) FROM STDIN".encode()
            with connection.cursor().copy(statement) as copy, file.open("rb") as rows:
                while part := rows.read(1 << 18):
                    copy.write(part)


def copy_twice(url: str, file: Path) -> None:
    """The most that the server takes: the prepared rows from memory, over two connections at once."""
    rows = file.read_bytes()
    middle = rows.index(b"\n", len(rows) // 2) + 1
    statement = f"COPY runs ({_COLUMNS}) FROM STDIN".encode()

    def send(part: memoryview) -> None:
        with psycopg.connect(url, autocommit=True) as connection, connection.cursor().copy(statement) as copy:
            for start in range(0, len(part), 1 << 18):
                copy.write(part[start : start + (1 << 18)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, (memoryview(rows)[:middle], memoryview(rows)[middle:])))


def naive_load(url: str, folder: Path) -> None:
    """What one writes first: read the files, `executemany` of an upsert, a hundred at a time."""
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
