"""Fetches of large runs: a page that exceeds the limit of bytes is requested smaller, and the day is complete."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langsmith_fixtures import START, Cloud, local_cloud

from lse_resources.langsmith import source

pytestmark = pytest.mark.slow

PAGE = 25


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        cloud.generate(120)
        for start in (START, START, START + 1):
            cloud.put(start)
        yield cloud


@pytest.mark.parametrize("limit", [40_000, 1_000], ids=["several runs a page", "no two runs fit"])
@pytest.mark.parametrize(("api", "offload"), [("v2", None), ("v1", None), ("v1", 100)])
def test_pages_above_the_limit_of_bytes_are_requested_smaller(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, api: str, offload: int | None, limit: int
) -> None:
    monkeypatch.setattr(source, "_PAGE_BYTES", limit)
    cloud.use_api(api)
    cloud.server.behavior.offload_bytes = offload

    result = cloud.fetch(page_size=PAGE)

    assert (result.count_check, result.api, result.runs) == ("equal", api, 123)
    assert set(cloud.published()) == set(cloud.served())
    sizes = [entry.details["page_size"] for entry in cloud.queries() if entry.status == 200]
    assert min(sizes) == 1 if limit == 1_000 else min(sizes) < PAGE


def test_large_pages_are_fetched_one_after_another(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_MEMORY_BYTES", 1)
    assert cloud.fetch(page_size=PAGE).count_check == "equal"
    assert cloud.published() == cloud.served()
