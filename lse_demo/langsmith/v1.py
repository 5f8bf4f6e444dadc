"""Conversion of a v2 run to v1: lower case, times without a zone, costs as strings, large payloads as links."""

from collections.abc import Callable, Mapping

from lse_demo.langsmith.encoding import Members, dump, load

_NULL = b"null"
_COPIED_NAMES = (
    "id name error extra events inputs outputs tags parent_run_ids trace_id thread_id dotted_order "
    "reference_example_id reference_dataset_id prompt_tokens completion_tokens total_tokens feedback_stats app_path "
    "inputs_preview outputs_preview price_model_id last_queued_at"
)
_COPIED: tuple[str, ...] = tuple(_COPIED_NAMES.split())
_RENAMED = {"session_id": "project_id", "serialized": "manifest", "in_dataset": "is_in_dataset"}
_LOWERED = ("run_type", "status")
_TIMES = ("start_time", "end_time", "first_token_time")
_COSTS = ("prompt_cost", "completion_cost", "total_cost")
_DETAILS = ("prompt_token_details", "completion_token_details", "prompt_cost_details", "completion_cost_details")
_FIXED = {"child_run_ids": _NULL, "manifest_id": _NULL, "trace_tier": b'"shortlived"', "ttl_seconds": b"1209600"}
_OFFLOADED = ("inputs", "outputs")

_LINKS = ("s3_urls", "inputs_s3_urls", "outputs_s3_urls")

V1_FIELDS = frozenset(
    (*_COPIED, *_RENAMED, *_LOWERED, *_TIMES, *_COSTS, *_DETAILS, *_FIXED, *_LINKS, "parent_run_id"),
)


def to_v1(
    v2: Mapping[str, bytes], *, link: Callable[[str], str], offload: int | None, files: Mapping[str, str]
) -> Members:
    """Converts a v2 run to v1.

    Args:
        v2: The run's members.
        link: Returns the presigned URL of one of the run's parts: `inputs`, `outputs`, `attachment.<name>`.
        offload: Payloads larger than this many bytes become a link; None: never.
        files: The run's attachments, name -> media type.
    """

    def get(name: str) -> bytes:
        return v2.get(name, _NULL)

    run: Members = {name: get(name) for name in _COPIED}
    run |= {name: get(source) for name, source in _RENAMED.items()}
    run |= {name: get(name).lower() for name in _LOWERED}
    run |= {name: get(name).replace(b'Z"', b'"') for name in _TIMES}
    run |= {name: b'"%s"' % get(name) if get(name) != _NULL else _NULL for name in _COSTS}
    for name in _DETAILS:
        details = load(get(name))
        run[name] = dump({key: _cost(name, value) for key, value in details["raw"].items()}) if details else _NULL
    run |= _FIXED
    parents = load(get("parent_run_ids"))
    run["parent_run_id"] = dump(parents[-1] if parents else None)
    run["s3_urls"] = dump({f"attachment.{n}": _stored(link(f"attachment.{n}"), mime) for n, mime in files.items()})
    for name in _OFFLOADED:
        run[f"{name}_s3_urls"] = b"{}"
        if offload is not None and len(run[name]) > offload:
            run[name] = _NULL
            run[f"{name}_s3_urls"] = dump({"ROOT": _stored(link(name), "application/json")})
    return run


def _stored(url: str, mime: str) -> dict[str, str | None]:
    return {"presigned_url": url, "s3_url": None, "mime_type": mime}


def _cost(name: str, value: float) -> float | str:
    return str(value) if "cost" in name else value
