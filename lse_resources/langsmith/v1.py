"""API version 1: `POST /runs/query`, for deployments without v2."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from lse_archive.days import Window, format_time
from lse_archive.runs.scanner import NotARunError, check_json, load_as, members
from lse_resources.langsmith.settings import LangSmithSettings
from lse_resources.langsmith.v2 import filter_of

MAX_PAGE = 100
# The selection of the SDK (client.py, `list_runs`), and below the empty line the fields that it leaves out.
# `share_token` makes the run public: it is not requested.
_FIELDS = tuple(
    """
    app_path completion_cost completion_tokens dotted_order end_time error events extra feedback_stats
    first_token_time id inputs name outputs parent_run_id parent_run_ids prompt_cost prompt_tokens
    reference_example_id run_type session_id start_time status tags total_cost total_tokens trace_id

    inputs_preview outputs_preview inputs_s3_urls outputs_s3_urls serialized manifest_id thread_id in_dataset
    last_queued_at prompt_token_details completion_token_details prompt_cost_details completion_cost_details
    price_model_id reference_dataset_id s3_urls trace_tier ttl_seconds trace_first_received_at
    """.split()  # noqa: SIM905 - as a list it would take forty lines
)
_OFFLOADED = {"inputs": "inputs_s3_urls", "outputs": "outputs_s3_urls"}

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class MissingPayloadError(NotARunError):
    """A payload of a run was not served, or is not JSON.

    Attributes:
        rest: The run without the payload and without links, and the payload if that is not JSON.
    """

    def __init__(self, why: str, rest: list[bytes]) -> None:
        super().__init__(why)
        self.rest = rest


class V1:
    """Queries of one project in API version 1.

    Args:
        download: Fetches a presigned link, without the API key.
    """

    name = "v1"
    max_page = MAX_PAGE
    link_member = "s3_urls"
    link_prefix = "attachment."

    def __init__(self, settings: LangSmithSettings, project_id: str, download: Callable[[str], bytes]) -> None:
        self.url = settings.v1_url("/runs/query")
        self._project_id = project_id
        self._download = download

    def query(
        self, window: Window, *, cursor: str | None = None, size: int, ids: list[str] | None = None, ids_only: bool
    ) -> dict[str, Any]:
        """The body of the request for one page.

        `end_time` is never part of it: it filters on the run's end, and would drop pending and late runs.
        """
        body: dict[str, Any] = {
            "session": [self._project_id],
            "start_time": format_time(window.start),
            "filter": filter_of(window),
            "limit": size,
            "order": "desc",
            "select": ["id", "start_time"] if ids_only else _FIELDS,
        }
        if cursor is not None:
            body["cursor"] = cursor
        if ids is not None:
            body["id"] = ids
        return body

    def is_partial(self, run: bytes) -> bool:
        """Whether the run may have payloads outside of it (offloaded to object storage)."""
        return b'"presigned_url"' in run

    def complete(self, run: bytes) -> bytes:
        """Replaces the links by the offloaded payloads; all other values keep their bytes.

        Raises:
            MissingPayloadError: A payload is refused or is not JSON.
            NotARunError: The run is not JSON.
        """
        if not self.is_partial(run):
            return run
        try:
            fields = {key: bytes(value) for key, value in _object_decoder.decode(run).items()}
        except (msgspec.DecodeError, RecursionError):
            fields = members(run)
        offloaded = {key: links for key, links in _OFFLOADED.items() if self.is_partial(fields.get(links, b""))}
        if not offloaded:
            return run
        why, payloads = "", []
        for key, links in offloaded.items():
            found = fields.pop(links)  # the links are secrets that expire
            if fields.get(key, b"null") != b"null":
                continue
            payload = None
            try:
                payload = self._download(_root_link(found))
                fields[key] = check_json(payload)
            except NotARunError as error:
                why = str(error)
                payloads += [payload] if payload else []
        run = b"{" + b",".join(json.dumps(key).encode() + b":" + value for key, value in fields.items()) + b"}"
        if why:
            raise MissingPayloadError(why, [run, *payloads])
        return run


def _root_link(links: bytes) -> str:
    root = (load_as(links, dict) or {}).get("ROOT")
    link = root.get("presigned_url") if isinstance(root, dict) else None
    if not isinstance(link, str):
        raise NotARunError("it has no link to an offloaded payload")
    return link
