"""Fast generator of realistic runs for benchmarks and fault tests: traces spread unevenly over a day."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from lse_demo.langsmith.runs import rfc3339

_DAY = 86_400_000_000  # microseconds
# Weight of each hour: few runs at night, many by day, and a third of the day's runs in one hour.
_HOURS = (1, 1, 1, 1, 1, 2, 3, 5, 8, 9, 9, 8, 7, 8, 60, 9, 8, 7, 5, 4, 3, 2, 2, 1)
_CHILDREN = (("LLM", "ChatModel"), ("TOOL", "search"), ("RETRIEVER", "documents"), ("CHAIN", "plan"))
_WORDS = (
    "order",
    "invoice",
    "refund",
    "delivery",
    "the",
    "customer",
    "asked",
    "when",
    "will",
    "it",
    "arrive",
    "thanks",
)
_ERROR = json.dumps('ValueError: no answer\n\nTraceback (most recent call last):\n  File "agent.py", line 7, in answer')
_FINE = ("SUCCESS", "null", "null")
_RUNTIME = '{"sdk":"langsmith-py","sdk_version":"0.15.0","library":"langsmith","runtime":"python","platform":"Linux"}'
_NO_MARKS = str.maketrans("", "", "-:.")
_FRAME = 2150  # bytes of a run without its payload
# Values in the order of `RunColumns`, and the run's v2 bytes.
GeneratedRun = tuple[tuple[Any, ...], bytes]


def generate_runs(
    day: date, *, runs: int, mean_bytes: int, seed: str, project_id: str, tenant_id: str
) -> Iterator[GeneratedRun]:
    """Yields `runs` runs that started on `day` (UTC), oldest first."""
    rng = random.Random(f"{seed}/{day}")
    text = " ".join(rng.choices(_WORDS, k=40_000))
    for plan in sorted(_plan(rng, day, runs)):
        yield _render(rng, text, plan, mean_bytes, project_id, tenant_id)


def _plan(rng: random.Random, day: date, runs: int) -> Iterator[tuple[int, str, tuple[str, ...], str]]:
    """Yields (start, id, ancestors root first, dotted order) of each run."""
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    left = runs
    while left:
        size = min(left, rng.choice((1, 3, 5, 8, 13)))
        left -= size
        hour = rng.choices(range(24), _HOURS)[0]
        at = midnight + hour * 3_600_000_000 + rng.randrange(3_600_000_000)
        trace: list[tuple[str, tuple[str, ...], str]] = []
        for _ in range(size):
            parent = trace[rng.randrange(len(trace))] if trace else None
            run_id = _uuid7(rng, at)
            dotted = f"{rfc3339(at).translate(_NO_MARKS)}{run_id}"
            ancestors = (*parent[1], parent[0]) if parent else ()
            trace.append((run_id, ancestors, f"{parent[2]}.{dotted}" if parent else dotted))
            yield at, *trace[-1]
            at = min(at + rng.randrange(1, 2_000_000), midnight + _DAY - 1)


def _uuid7(rng: random.Random, at: int) -> str:
    low = rng.getrandbits(74)
    text = f"{at // 1000:012x}7{low >> 62:03x}{(low & ((1 << 62) - 1)) | (1 << 63):016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _render(
    rng: random.Random,
    text: str,
    plan: tuple[int, str, tuple[str, ...], str],
    mean_bytes: int,
    project_id: str,
    tenant_id: str,
) -> GeneratedRun:
    start, run_id, ancestors, dotted = plan
    trace_id = ancestors[0] if ancestors else run_id
    run_type, name = rng.choice(_CHILDREN) if ancestors else ("CHAIN", "support agent")
    end = start + rng.randrange(5_000, 9_000_000)
    status, error, short = ("ERROR", _ERROR, '"ValueError: no answer"') if rng.random() < 0.03 else _FINE
    prompt, completion = (rng.randrange(50, 4000), rng.randrange(5, 900)) if run_type == "LLM" else (0, 0)
    prompt_cost, completion_cost = prompt * 15e-8, completion * 6e-7
    total_cost = prompt_cost + completion_cost
    size = max(0, int((mean_bytes - _FRAME) * rng.choice((0.2, 0.6, 1.0, 1.2, 2.0))))
    at = rng.randrange(max(1, len(text) - size))
    question, answer = text[at : at + size // 2], text[at + size // 2 : at + size]
    thread = f"thread-{start % 997}"
    metadata = f'{{"thread_id":"{thread}","ls_model_name":"scripted-mini","revision_id":"r7"}}'
    began = rfc3339(start)
    v2 = (
        f'{{"id":"{run_id}","name":"{name}","run_type":"{run_type}","status":"{status}","start_time":"{began}",'
        f'"end_time":"{rfc3339(end)}","latency_seconds":{(end - start) / 1e6},"first_token_time":null,"error":{error},'
        f'"error_preview":{short},"extra":{{"metadata":{metadata},"runtime":{_RUNTIME}}},"metadata":{metadata},'
        f'"events":[],"inputs":{{"messages":[{{"role":"user","content":"{question}"}}]}},"inputs_preview":"{question[:150]}",'
        f'"outputs":{{"role":"assistant","content":"{answer}"}},"outputs_preview":"{answer[:150]}","manifest":null,'
        f'"parent_run_ids":{json.dumps(ancestors)},"project_id":"{project_id}","trace_id":"{trace_id}",'
        f'"thread_id":"{thread}","dotted_order":"{dotted}","is_root":{"false" if ancestors else "true"},'
        f'"reference_example_id":null,"reference_dataset_id":null,"total_tokens":{prompt + completion},'
        f'"prompt_tokens":{prompt},"completion_tokens":{completion},"total_cost":{total_cost},'
        f'"prompt_cost":{prompt_cost},"completion_cost":{completion_cost},"prompt_token_details":{{"raw":{{}}}},'
        f'"completion_token_details":{{"raw":{{}}}},"prompt_cost_details":{{"raw":{{}}}},'
        f'"completion_cost_details":{{"raw":{{}}}},"price_model_id":null,"tags":["demo"],'
        f'"app_path":"/o/{tenant_id}/projects/p/{project_id}/r/{run_id}?trace_id={trace_id}&start_time={began}",'
        f'"thread_evaluation_time":null,"is_in_dataset":false,"last_queued_at":null,"feedback_stats":null,'
        f'"ls_user_id":null}}'
    )
    parent = ancestors[-1] if ancestors else None
    tokens = (prompt, completion, prompt + completion, prompt_cost, completion_cost, total_cost)
    return (run_id, trace_id, parent, start, end, name, run_type.lower(), status.lower(), *tokens), v2.encode()
