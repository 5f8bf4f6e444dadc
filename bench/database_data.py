"""Run files for the benchmark of the database: like LangSmith's in shape and size, as compressible as English."""

from __future__ import annotations

import itertools
import json
import random
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

DAY = date(2026, 1, 31)
PROJECT = "bench"
_RUNS_IN_TRACE = 8


def write_runs(folder: Path, count: int, seed: int = 1, day: date = DAY) -> int:
    """Fills a folder with run files of about 5 KB, one in five hundred of them of 100 KB; returns their bytes."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    folder.mkdir(parents=True)
    chance = random.Random(seed)
    words = _Words(chance)
    trace = parent = ""
    size = 0
    for number in range(count):
        start = midnight + timedelta(seconds=86_399 * number / count)
        run_id = str(
            uuid.UUID(int=(int(start.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62))
        )
        if number % _RUNS_IN_TRACE == 0:
            trace = parent = run_id
        document = json.dumps(_run(chance, words, run_id, trace, parent, start), ensure_ascii=False).encode()
        (folder / f"{run_id}_{start:%Y%m%dT%H%M%S%fZ}.json").write_bytes(document)
        size += len(document)
    return size


def change_some(folder: Path, share: float) -> int:
    """Changes the name of every n-th run; returns how many."""
    every = round(1 / share)
    chosen = list(itertools.islice(sorted(folder.glob("*.json")), 0, None, every))
    for path in chosen:
        path.write_bytes(path.read_bytes().replace(b'"name": "', b'"name": "again ', 1))
    return len(chosen)


def _run(chance: random.Random, words: _Words, run_id: str, trace: str, parent: str, start: datetime) -> dict[str, Any]:
    letters = 100_000 if chance.random() < 0.002 else chance.randint(400, 6_600)
    end = start + timedelta(seconds=chance.expovariate(0.3))
    return {
        "id": run_id,
        "trace_id": trace,
        "project_id": "0b8ff7b2-6b8f-4f5a-9a51-4d0d7f0d6b11",
        "name": chance.choice(["ChatOpenAI", "RunnableSequence", "retriever", "tool: search", "LangGraph"]),
        "run_type": chance.choice(["LLM", "CHAIN", "TOOL", "RETRIEVER"]),
        "status": "ERROR" if chance.random() < 0.03 else "SUCCESS",
        "start_time": f"{start:%Y-%m-%dT%H:%M:%S.%fZ}",
        "end_time": f"{end:%Y-%m-%dT%H:%M:%S.%fZ}",
        "is_root": run_id == trace,
        "parent_run_ids": [] if run_id == trace else [parent],
        "dotted_order": f"{start:%Y%m%dT%H%M%S%fZ}{trace}" + ("" if run_id == trace else f".{run_id}"),
        "prompt_tokens": chance.randint(50, 4000),
        "completion_tokens": chance.randint(10, 900),
        "total_tokens": chance.randint(60, 4900),
        "total_cost": chance.random() / 100,
        "inputs": {
            "messages": [
                {"role": "system", "content": words.text(letters // 4)},
                {"role": "user", "content": words.text(letters // 4)},
            ],
            "temperature": 0.2,
        },
        "outputs": {
            "generations": [{"text": words.text(letters // 2), "finish_reason": "stop"}],
            "logprobs": [round(-chance.random(), 6) for _ in range(12)],
        },
        "metadata": {"ls_provider": "openai", "ls_model_name": "gpt-4o", "thread_id": trace, "revision": "1f3c9ab"},
        "extra": {
            "runtime": {"sdk": "langsmith-py", "sdk_version": "0.4.1", "platform": "Linux-6.1", "python": "3.12"}
        },
        "tags": ["production", "seq:step:2"],
        "error": None,
    }


class _Words:
    """Text with the word frequencies of English (Zipf)."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        syllables = [
            a + b
            for a in ["b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "st", "tr"]
            for b in ["a", "e", "i", "o", "u", "er", "in", "on"]
        ]
        self._words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(8000)]
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, 8001)))

    def text(self, letters: int) -> str:
        drawn = self._chance.choices(self._words, cum_weights=self._weights, k=letters // 5)
        return " ".join(drawn)[:letters]
