"""Laws 1 and 2 for feedback: nothing shrinks by itself, and nothing new means nothing written."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langsmith_fixtures import START, Cloud, file_states, local_cloud

from lse_archive.days import format_time
from lse_archive.folder.late_feedback import add_late_feedback
from lse_archive.runs.feedback import FEEDBACK, FEEDBACK_APART
from lse_demo.faults import Fault, on

RUNS = 3
GIVEN = START + 10**12
_number = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("give"), _number),
        st.tuples(st.just("edit"), _number),
        st.tuples(st.just("delete"), _number),
        st.tuples(st.just("expire"), st.integers(0, RUNS - 1)),
        st.tuples(st.just("late"), _number),
        st.tuples(st.just("fetch"), _number),
    ),
    min_size=3,
    max_size=14,
)


class Model:
    """A day in LangSmith, and what its archive must hold."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.runs = [cloud.put(START + number) for number in range(RUNS)]
        self.served = set(self.runs)
        self.steps = 0
        self.archived: dict[str, dict[str, Any]] = {}

    def do(self, step: str, number: int) -> None:
        self.steps += 1
        feedback, ids = self.cloud.store.feedback, sorted(self.stored())
        now = format_time(GIVEN + self.steps)
        one = ids[number % len(ids)] if ids else ""
        if step == "give":
            run = self.runs[number % RUNS]
            if run in self.served:
                feedback.create({"run_id": run, "key": f"k{number % 2}", "created_at": now})
        elif step == "edit" and one:
            feedback.change(one, score=self.steps, modified_at=now)
        elif step == "delete" and one:
            feedback.delete(one)
        elif step == "expire":
            run = self.runs[number]
            self.cloud.store.delete([run])
            self.served.discard(run)
            for record in self.stored().values():
                if record["run_id"] == run:
                    feedback.delete(record["id"])
        elif step == "late":
            run = [None, "00000000-0000-4000-8000-000000000009", *self.runs][number % 5]
            record = {"id": f"late {number}", "run_id": run, "modified_at": now}
            add_late_feedback(self.cloud.paths, [json.dumps(record).encode()])
        elif step == "fetch":
            self.fetch()

    def stored(self) -> dict[str, dict[str, Any]]:
        rows = self.cloud.store._db.execute("SELECT body FROM feedback").fetchall()
        return {one["id"]: one for one in (json.loads(body) for (body,) in rows)}

    def fetch(self) -> None:
        before = self.archived
        result = self.cloud.fetch()
        main, apart = self.read(FEEDBACK), self.read(FEEDBACK_APART)
        self.archived = main | apart
        assert not main.keys() & apart.keys()
        assert (result.feedback, result.feedback_apart, result.feedback_differs) == (len(main), len(apart), [])
        assert result.feedback_deleted == sum("lse_deleted_at" in one for one in main.values())
        assert self.archived.keys() >= before.keys()  # nothing shrinks
        stored = self.stored()
        for identity, record in self.archived.items():
            deleted, former = record.get("lse_deleted_at"), before.get(identity, {})
            is_served = record["run_id"] in self.served
            if identity in stored:
                assert record == stored[identity]
            elif is_served:
                assert deleted is not None
            else:
                assert deleted == former.get("lse_deleted_at")
            if "lse_deleted_at" in former and identity not in stored and former["modified_at"] == record["modified_at"]:
                assert deleted == former["lse_deleted_at"]
            assert record["modified_at"] >= former.get("modified_at", "")
        assert {one for one, record in stored.items() if record["run_id"] in self.served} <= main.keys()
        files = file_states(self.cloud.paths.folder)
        self.cloud.server.faults.add(Fault("shuffle", on("GET", "/feedback")))
        assert self.cloud.fetch().outcome == "unchanged"
        self.cloud.server.faults.clear()
        assert file_states(self.cloud.paths.folder) == files

    def read(self, name: str) -> dict[str, dict[str, Any]]:
        path = self.cloud.paths.folder / name
        found = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        assert [one["id"] for one in found] == sorted({one["id"] for one in found})
        return {one["id"]: one for one in found}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(STEPS)
def test_feedback_never_shrinks_and_is_written_only_if_it_changed(steps):
    with local_cloud() as cloud:
        model = Model(cloud)
        for step, number in [*steps, ("fetch", 0)]:
            model.do(step, number)
