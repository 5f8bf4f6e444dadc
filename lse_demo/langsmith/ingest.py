"""Parsers of the bodies in which the SDK sends runs: one run, a batch, or multipart. Values stay unchanged."""

import re

from lse_demo.langsmith.encoding import Members, elements, load, split
from lse_demo.langsmith.store import Operation

_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_NAME = re.compile(rb'name="([^"]*)"')
_TYPE = re.compile(rb"(?im)^content-type:\s*([^\r\n;]+)")


def read_one(kind: str, body: bytes, run_id: str | None = None) -> Operation:
    """Reads the run of `POST /runs` or `PATCH /runs/{id}`. Raises ValueError or KeyError."""
    members = split(body)
    return Operation(kind, (run_id or load(members["id"])).lower(), members)


def read_batch(body: bytes) -> list[Operation]:
    """Reads the runs of `POST /runs/batch`: `{"post": […], "patch": […]}`. Raises ValueError or KeyError."""
    batch = split(body)
    return [read_one(kind, run) for kind in ("post", "patch") for run in elements(batch.get(kind, b"[]"))]


def read_multipart(content_type: str, body: bytes) -> list[Operation]:
    """Reads the runs of `POST /runs/multipart`.

    Its parts are named `post.<id>` or `patch.<id>`, `post.<id>.inputs` and so on, `attachment.<id>.<name>`, and
    `feedback.<id>`.
    Raises ValueError for a body without a boundary.
    """
    found = _BOUNDARY.search(content_type)
    if not found:
        raise ValueError("a multipart body needs a boundary")
    runs: dict[tuple[str, str], Members] = {}
    files: dict[str, dict[str, tuple[str, bytes]]] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + found[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        kind, run_id, field = [*(name[1].decode() if name else "").split(".", 2), "", ""][:3]
        if kind in ("post", "patch", "feedback"):
            run = runs.setdefault((kind, run_id), {})
            run |= {field: content} if field else split(content)
        elif kind == "attachment":
            mime = _TYPE.search(head)
            files.setdefault(run_id, {})[field] = (mime[1].decode() if mime else "application/octet-stream", content)
    return [Operation(kind, run_id.lower(), run, files.pop(run_id, {})) for (kind, run_id), run in runs.items()]
