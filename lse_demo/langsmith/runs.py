"""Conversion of a run from the SDK's format to that of v2; the values' bytes stay unchanged."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from lse_demo.langsmith.encoding import Members, dump, load, split

# The properties of a v2 run (langsmith `types/run_select_field.py`), without the two that are links.
_V2_NAMES = (
    "id name run_type status start_time end_time latency_seconds first_token_time error error_preview extra metadata "
    "events inputs inputs_preview outputs outputs_preview manifest parent_run_ids project_id trace_id thread_id "
    "dotted_order is_root reference_example_id reference_dataset_id total_tokens prompt_tokens completion_tokens "
    "total_cost prompt_cost completion_cost prompt_token_details completion_token_details prompt_cost_details "
    "completion_cost_details price_model_id tags app_path thread_evaluation_time is_in_dataset last_queued_at "
    "feedback_stats ls_user_id"
)
V2_FIELDS: tuple[str, ...] = tuple(_V2_NAMES.split())
V2_LINKS = ("attachments", "share_url")
RUN_TYPES = frozenset(("tool", "chain", "llm", "retriever", "embedding", "prompt", "parser"))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NULL = b"null"
_COPIED = ("name", "error", "extra", "events", "inputs", "outputs", "tags", "reference_example_id")
# US dollars per million tokens in and out, by `ls_model_name`.
_PRICES = {"scripted-mini": (Decimal("0.15"), Decimal("0.60")), "scripted-large": (Decimal("2.5"), Decimal("10"))}


def micros(text: str) -> int:
    """Returns the microseconds since 1970 of an ISO time; a time without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def rfc3339(at: int) -> str:
    """Formats microseconds since 1970 as an RFC 3339 time in UTC, with microseconds."""
    moment = _EPOCH + timedelta(microseconds=at)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06d}Z"


@dataclass(frozen=True, slots=True)
class RunColumns:
    """The columns by which the store sorts and filters. Times are microseconds since 1970, costs are US dollars."""

    id: str
    trace_id: str
    parent_id: str | None
    start: int
    end: int | None
    name: str
    run_type: str
    status: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cost: float
    completion_cost: float
    total_cost: float


def columns_of(members: Mapping[str, bytes]) -> RunColumns:
    """Returns the columns of a v2 run. Raises KeyError or ValueError if it has no id or start time."""

    def get(name: str) -> Any:
        return load(members.get(name, _NULL))

    run_id, parents, end = get("id"), get("parent_run_ids"), get("end_time")
    return RunColumns(
        id=run_id,
        trace_id=get("trace_id") or run_id,
        parent_id=parents[-1] if parents else None,
        start=micros(load(members["start_time"])),
        end=micros(end) if end else None,
        name=str(get("name") or "").encode("utf-8", "replace").decode(),
        run_type=str(get("run_type") or "chain").lower(),
        status=str(get("status") or "pending").lower(),
        prompt_tokens=get("prompt_tokens") or 0,
        completion_tokens=get("completion_tokens") or 0,
        total_tokens=get("total_tokens") or 0,
        prompt_cost=get("prompt_cost") or 0.0,
        completion_cost=get("completion_cost") or 0.0,
        total_cost=get("total_cost") or 0.0,
    )


def merge(old: Mapping[str, bytes], sent: Mapping[str, bytes], *, project_id: str, tenant_id: str) -> Members:
    """Returns the v2 run after `sent` (a `POST` or `PATCH` of the SDK) was merged into `old` (empty: a new run).

    Raises ValueError or KeyError if `sent` is not a run.
    """
    run: Members = dict(old) or dict.fromkeys(V2_FIELDS, _NULL)
    sent = {name: value for name, value in sent.items() if value != _NULL}
    run |= {name: sent[name] for name in _COPIED if name in sent}
    if "serialized" in sent:
        run["manifest"] = sent["serialized"]
    for name in ("start_time", "end_time"):
        if name in sent:
            run[name] = dump(rfc3339(micros(load(sent[name]))))
    if "run_type" in sent:
        run_type = str(load(sent["run_type"])).lower()
        run["run_type"] = dump((run_type if run_type in RUN_TYPES else "chain").upper())
    if not old:
        run |= _identity_fields(sent, run, project_id, tenant_id)
    return run | _derived_fields(run)


def _identity_fields(sent: Mapping[str, bytes], run: Mapping[str, bytes], project_id: str, tenant_id: str) -> Members:
    run_id = str(uuid.UUID(load(sent["id"])))
    dotted = load(sent["dotted_order"]) if "dotted_order" in sent else _dotted_order(load(run["start_time"]), run_id)
    ancestors = [part[-36:] for part in dotted.split(".")[:-1]]
    parent = load(sent.get("parent_run_id", _NULL))
    if parent and not ancestors:
        ancestors = [parent]
    trace_id = load(sent["trace_id"]) if "trace_id" in sent else (ancestors or [run_id])[0]
    path = f"/o/{tenant_id}/projects/p/{project_id}/r/{run_id}?trace_id={trace_id}&start_time={load(run['start_time'])}"
    return {
        "id": dump(run_id),
        "project_id": dump(project_id),
        "trace_id": dump(trace_id),
        "parent_run_ids": dump(ancestors),
        "is_root": dump(not parent),
        "dotted_order": dump(dotted),
        "app_path": dump(path),
        "is_in_dataset": b"false",
        "inputs": run["inputs"] if run["inputs"] != _NULL else b"{}",
    }


def _dotted_order(start_time: str, run_id: str) -> str:
    return start_time.replace("-", "").replace(":", "").replace(".", "") + run_id


def _derived_fields(run: Mapping[str, bytes]) -> Members:
    start, end = load(run["start_time"]), load(run["end_time"])
    error = load(run["error"])
    extra = split(run["extra"]) if run["extra"] != _NULL else {}
    metadata_raw = extra.get("metadata", b"{}")
    metadata, outputs, inputs = load(metadata_raw), load(run["outputs"]), load(run["inputs"])
    thread = next((metadata[key] for key in ("thread_id", "session_id", "conversation_id") if metadata.get(key)), None)
    first_token = next((e.get("time") for e in load(run["events"]) or [] if e.get("name") == "new_token"), None)
    return {
        "status": dump("ERROR" if error else "SUCCESS" if end else "PENDING"),
        "latency_seconds": dump((micros(end) - micros(start)) / 1e6 if end else None),
        "first_token_time": dump(rfc3339(micros(first_token)) if first_token else None),
        "error_preview": dump(error[:150] if error else None),
        "inputs_preview": dump(_preview(inputs)),
        "outputs_preview": dump(_preview(outputs)),
        "metadata": metadata_raw,
        "thread_id": dump(thread),
        **_usage(metadata, outputs),
    }


def _preview(value: Any) -> str | None:
    while isinstance(value, dict | list) and value:
        value = value[-1] if isinstance(value, list) else value.get("content") or next(iter(value.values()))
    return value[:150] if isinstance(value, str) else None


def _usage(metadata: Mapping[str, Any], outputs: Any) -> Members:
    usage = metadata.get("usage_metadata") or (outputs.get("usage_metadata") if isinstance(outputs, dict) else None)
    if not isinstance(usage, dict):
        return {}
    prompt, completion = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    model = metadata.get("ls_model_name", "")
    price_in, price_out = _PRICES.get(model, (Decimal(0), Decimal(0)))
    prompt_cost = Decimal(str(usage.get("input_cost", prompt * price_in / 1_000_000)))
    completion_cost = Decimal(str(usage.get("output_cost", completion * price_out / 1_000_000)))
    total_cost = Decimal(str(usage.get("total_cost", prompt_cost + completion_cost)))
    values = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": usage.get("total_tokens", prompt + completion),
        "prompt_cost": float(prompt_cost),
        "completion_cost": float(completion_cost),
        "total_cost": float(total_cost),
        "prompt_token_details": {"raw": usage.get("input_token_details", {})},
        "completion_token_details": {"raw": usage.get("output_token_details", {})},
        "prompt_cost_details": {"raw": usage.get("input_cost_details", {})},
        "completion_cost_details": {"raw": usage.get("output_cost_details", {})},
        "price_model_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, model)) if model in _PRICES else None,
    }
    return {name: dump(value) for name, value in values.items()}
