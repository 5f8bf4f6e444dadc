"""Answers to run queries: the runs of a page in the format of v2 or v1, presigned links, and statistics."""

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urlencode

from lse_demo.langsmith.encoding import Members, dump, join, split
from lse_demo.langsmith.runs import V2_FIELDS, rfc3339
from lse_demo.langsmith.store import LangSmithStore, Measures, StoredRun
from lse_demo.langsmith.v1 import to_v1

LISTING = frozenset(("id", "start_time"))
"""The fields of a query that only lists runs."""

_ALL_FIELDS = frozenset(V2_FIELDS)


class Links:
    """Presigned links to parts of runs (`inputs`, `outputs`, `attachment.<name>`), valid for `seconds`."""

    def __init__(self, secret: str, root: str, seconds: float) -> None:
        self._secret, self._root, self._seconds = secret.encode(), root, seconds

    def make(self, run_id: str, part: str) -> str:
        """Returns a link; it is relative if the root is empty."""
        path = f"/storage/{run_id}/{quote(part, safe='')}"
        expires = f"{time.time() + self._seconds:.0f}"
        return f"{self._root}{path}?{urlencode({'expires': expires, 'signature': self._sign(path, expires)})}"

    def read(self, path: str, query: Mapping[str, str]) -> tuple[str, str] | None:
        """Returns run id and part of a link; None if its signature is wrong or it has expired."""
        expires = query.get("expires", "")
        valid = hmac.compare_digest(query.get("signature", ""), self._sign(path, expires))
        if not valid or float(expires) < time.time():
            return None
        _, _, run_id, part = path.split("/", 3)
        return run_id, unquote(part)

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), hashlib.sha256).hexdigest()


def v2_items(
    store: LangSmithStore, runs: Sequence[StoredRun], selects: frozenset[str], links: Links, app: str
) -> list[bytes]:
    """Returns the v2 runs with the properties of `selects`; the stored bytes unchanged if all are selected."""
    files = store.files([run.id for run in runs]) if "attachments" in selects else {}
    runs = _with_feedback(store, runs)
    items = []
    for run in runs:
        extra: Members = {}
        if run.id in files:
            extra["attachments"] = dump({name: links.make(run.id, f"attachment.{name}") for name in files[run.id]})
        if run.share and "share_url" in selects:
            extra["share_url"] = dump(f"{app}/public/{run.share}/r")
        if selects >= _ALL_FIELDS:
            items.append(run.v2.rstrip()[:-1] + b"," + join(extra)[1:] if extra else run.v2)
        elif selects == {"id"}:
            items.append(b'{"id":"%s"}' % run.id.encode())
        else:
            items.append(join(_members(run, selects) | extra))
    return items


def _with_feedback(store: LangSmithStore, runs: Sequence[StoredRun]) -> Sequence[StoredRun]:
    """Returns the runs with the statistics of their feedback; the bytes of a run without feedback are unchanged."""
    found = store.feedback.of_runs([run.id for run in runs])
    return [_with_stats(run, found[run.id]) if run.id in found else run for run in runs] if found else runs


def _with_stats(run: StoredRun, stats: bytes) -> StoredRun:
    try:
        v2 = join(split(run.v2) | {"feedback_stats": stats})
        v1 = join(split(run.v1) | {"feedback_stats": stats}) if run.v1 is not None else None
    except ValueError:  # stored by `put_raw`, and not JSON
        return run
    return replace(run, v2=v2, v1=v1)


def _members(run: StoredRun, selects: frozenset[str] | None = None) -> Members:
    try:
        return split(run.v2, selects)
    except ValueError:  # stored by `put_raw`, and not JSON
        return {"id": dump(run.id), "start_time": dump(rfc3339(run.start))}


def v1_items(
    store: LangSmithStore, runs: Sequence[StoredRun], selects: frozenset[str], links: Links, offload: int | None
) -> list[bytes]:
    """Returns the v1 runs with the fields of `selects`."""
    files = store.files([run.id for run in runs])
    runs = _with_feedback(store, runs)
    items = []
    for run in runs:
        if run.v1 is not None and selects > LISTING:
            items.append(run.v1)
            continue
        shaped = to_v1(
            _members(run),
            link=lambda part, run=run: links.make(run.id, part),
            offload=offload,
            files=files.get(run.id, {}),
        )
        items.append(join({name: value for name, value in shaped.items() if name in selects}))
    return items


def stored_part(store: LangSmithStore, run_id: str, part: str) -> tuple[str, bytes] | None:
    """Returns media type and content of a link's target; None if there is none."""
    if part.startswith("attachment."):
        return store.file(run_id, part.removeprefix("attachment."))
    run = store.run(run_id)
    return ("application/json", split(run.v2)[part]) if run else None


def statistics_of(runs: Measures) -> dict[str, Any]:
    """Returns the answer of `/runs/stats`; times are seconds, costs are US dollars."""
    count = len(runs.start_us)
    ended = zip(runs.start_us, runs.end_us, strict=True)
    latencies = [(end - start) / 1e6 for start, end in ended if end is not None]
    return {
        "run_count": count,
        "latency_p50": _quantile(latencies, 50),
        "latency_p99": _quantile(latencies, 99),
        "first_token_p50": None,
        "first_token_p99": None,
        "total_tokens": sum(runs.total_tokens),
        "prompt_tokens": sum(runs.prompt_tokens),
        "completion_tokens": sum(runs.completion_tokens),
        "median_tokens": _quantile(runs.total_tokens, 50),
        "last_run_start_time": rfc3339(max(runs.start_us)).rstrip("Z") if count else None,
        "feedback_stats": {},
        "run_facets": [],
        "error_rate": runs.status.count("error") / count if count else None,
        "streaming_rate": 0.0,
        "total_cost": sum(runs.total_cost),
        "prompt_cost": sum(runs.prompt_cost),
        "completion_cost": sum(runs.completion_cost),
        "cost_p50": _quantile(runs.total_cost, 50),
        "cost_p99": _quantile(runs.total_cost, 99),
    }


def _quantile(values: Sequence[float], percent: int) -> float | None:
    return sorted(values)[len(values) * percent // 100] if values else None
