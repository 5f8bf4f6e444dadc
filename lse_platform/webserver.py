"""GraphQL requests to the running webserver."""

from __future__ import annotations

import json
import urllib.request
from datetime import date
from typing import Any

from lse_archive.errors import ArchiveError

_RELOAD = 'mutation { reloadRepositoryLocation(repositoryLocationName: "lse") { __typename } }'
_BACKFILL = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
    ... on InvalidSubsetError { message }
    ... on PartitionKeysNotFoundError { message }
  }
}
"""


def reload_code(url: str) -> None:
    """Reloads the definitions in the webserver.

    Raises:
        ArchiveError: It does not respond.
    """
    _post(url, _RELOAD, {})


def launch_backfill(url: str, asset_keys: list[tuple[str, ...]], days: list[date], title: str) -> str:
    """Submits a backfill of assets to the daemon: one run per day. Returns its id.

    Raises:
        ArchiveError: The webserver does not respond, or refuses.
    """
    parameters = {
        "assetSelection": [{"path": list(key)} for key in asset_keys],
        "partitionNames": [str(day) for day in days],
        "title": title,
    }
    answer = _post(url, _BACKFILL, {"params": parameters})["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise ArchiveError(
            "the backfill was refused",
            why=answer.get("message", answer["__typename"]).partition("\n")[0],
            hint="Does the project's first day come later? See lse projects list",
        )
    return answer["backfillId"]


def _post(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            document = json.load(answer)
    except (OSError, ValueError) as error:
        raise ArchiveError("the platform does not respond", why=str(error), hint="Is it up? lse up") from error
    if document.get("errors"):
        raise ArchiveError("the platform refused", why=document["errors"][0].get("message", "no reason given"))
    return document["data"]
