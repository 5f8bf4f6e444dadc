"""A small support agent with a scripted model, traced by the real LangSmith SDK with times in past days."""

import random
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import orjson
from langsmith import Client
from langsmith.run_trees import RunTree

_HOURS = (1, 1, 1, 1, 1, 2, 3, 5, 8, 9, 9, 8, 7, 8, 20, 9, 8, 7, 5, 4, 3, 2, 2, 1)
_QUESTIONS = (
    "Where is my order?",
    "I was charged twice – can I get a refund?",
    "¿Puedo cambiar la dirección de entrega?",
    "Mein Paket ist beschädigt 📦",
    "Can you send the invoice again?",
)
_ANSWERS = (
    "It left our warehouse this morning and arrives tomorrow.",
    "The second charge was reserved only, and returns within three days.",
    "Sí, hasta que el paquete salga.",
    "Es tut uns leid! Ein Ersatz ist unterwegs.",
    "The invoice is on its way to your inbox.",
)
_LARGE = 1_000_000  # bytes of the one large run
RunType = Literal["tool", "chain", "llm", "retriever", "embedding", "prompt", "parser"]


def fill(
    client: Client,
    project: str,
    day: date,
    traces: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Creates `traces` traces of the agent on `day` (UTC), and waits until LangSmith has all runs.

    The same arguments create the same runs, ids included. The first six traces are edge cases for an archive: an emoji
    and slashes in a name, a NUL, a lone surrogate, a run of 1 MB, a run that never ends, a trace across midnight. Two
    of them have attachments: an image that both have, and a text. Some of the other traces get feedback: scores,
    comments, a correction.

    Args:
        progress: Called with (runs so far) after each trace.

    Returns:
        The number of runs created.
    """
    rng = random.Random(f"{seed}/{project}/{day}")
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    conversation: list[dict[str, str]] = []
    thread, runs = _uuid7(rng, midnight), 0
    answered: list[UUID] = []
    for number in range(traces):
        if number % 4 == 0:
            conversation, thread = [], _uuid7(rng, midnight)
        start = midnight + timedelta(hours=rng.choices(range(24), _HOURS)[0], seconds=rng.randrange(3500))
        trace = _Trace(client, project, rng, start, str(thread))
        special = _SPECIAL.get(number)
        if special:
            special(trace)
        else:
            _answer(trace, conversation)
            answered += [trace.root] if trace.root else []
        runs += trace.runs
        if progress:
            progress(runs)
    client.flush()
    _give_feedback(client, project, answered, random.Random(f"{seed}/{project}/{day}/feedback"))
    return runs


def _give_feedback(client: Client, project: str, roots: list[UUID], rng: random.Random) -> None:
    if not roots:
        return
    project_id = client.read_project(project_name=project).id
    for number, root in enumerate(roots):
        if number % 3 == 0:
            is_good = rng.random() < 0.7
            comment = None if is_good else "The answer does not help.\nMy order number was ignored 😕"
            client.create_feedback(root, "thumbs", score=is_good, comment=comment, trace_id=root, session_id=project_id)
        if number % 4 == 0:
            client.create_feedback(
                root,
                "helpfulness",
                score=round(rng.random(), 2),
                feedback_source_type="model",
                trace_id=root,
                session_id=project_id,
            )
    client.create_feedback(
        roots[0], "tone", value="cold", correction={"tone": "friendly"}, trace_id=roots[0], session_id=project_id
    )
    client.flush()


def give_late_feedback(client: Client, project: str, run_id: str) -> None:
    """Gives a thumbs-down to a run that is archived already."""
    client.create_feedback(
        run_id,
        "thumbs",
        score=False,
        comment="The parcel never arrived.",
        session_id=client.read_project(project_name=project).id,
    )


@dataclass(slots=True)
class _Trace:
    """Begins and ends the runs of one trace, with a simulated clock."""

    client: Client
    project: str
    rng: random.Random
    now: datetime
    thread: str
    runs: int = 0
    root: UUID | None = None
    tags: list[str] = field(default_factory=lambda: ["support", "v2"])

    def begin(
        self,
        parent: RunTree | None,
        name: str,
        run_type: RunType,
        inputs: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
        attachments: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> RunTree:
        self.now += timedelta(microseconds=self.rng.randrange(300, 40_000))
        run_id = _uuid7(self.rng, self.now)
        self.runs += 1
        if parent is None:
            self.root = run_id
            metadata = {"thread_id": self.thread, "customer": f"c-{self.rng.randrange(1000)}", "revision_id": "r7"}
            run = RunTree(
                name=name,
                run_type=run_type,
                id=run_id,
                inputs=dict(inputs),
                start_time=self.now,
                project_name=self.project,
                ls_client=self.client,
                tags=self.tags,
                extra={"metadata": metadata},
                attachments=dict(attachments or {}),
            )
        else:
            run = parent.create_child(
                name, run_type, run_id=run_id, inputs=dict(inputs), start_time=self.now, extra=dict(extra or {})
            )
        run.post()
        return run

    def end(self, run: RunTree, outputs: dict[str, Any] | None = None, error: str | None = None) -> None:
        self.now += timedelta(microseconds=self.rng.randrange(20_000, 900_000))
        run.end(outputs=outputs, error=error, end_time=self.now)
        run.patch()

    def call_model(self, parent: RunTree, messages: list[dict[str, str]], answer: str) -> None:
        """Adds a call of the scripted model, with tokens and costs."""
        model = self.rng.choice(("scripted-mini", "scripted-large"))
        extra = {
            "metadata": {"ls_provider": "scripted", "ls_model_name": model, "ls_model_type": "chat"},
            "invocation_params": {"model": model, "temperature": 0.2},
        }
        run = self.begin(parent, "ScriptedChatModel", "llm", {"messages": messages}, extra)
        first = self.now + timedelta(milliseconds=self.rng.randrange(20, 200))
        run.add_event({"name": "new_token", "time": first.isoformat(), "kwargs": {"token": answer.split()[0]}})
        sent = sum(len(message["content"]) for message in messages) // 4 + 40
        got = len(answer) // 4 + 3
        usage = {
            "input_tokens": sent,
            "output_tokens": got,
            "total_tokens": sent + got,
            "input_token_details": {"cache_read": sent // 3},
        }
        self.end(run, {"messages": [{"role": "assistant", "content": answer}], "usage_metadata": usage})

    def search(self, parent: RunTree, query: Any, text: str = "Returns are free for 30 days.") -> None:
        """Adds a search for documents."""
        run = self.begin(parent, "help centre", "retriever", {"query": query})
        documents = [{"page_content": text, "metadata": {"source": f"faq/{n}", "score": 0.9 - n / 10}} for n in (1, 2)]
        self.end(run, {"documents": documents})

    def call_tool(self, parent: RunTree, *, fail: bool = False) -> None:
        """Adds a lookup of an order; if it fails, the run has a traceback."""
        order = self.rng.randrange(10_000, 99_999)
        run = self.begin(parent, "lookup_order", "tool", {"order": order})
        if fail:
            error = f"TimeoutError('order {order}: no answer from the shop')"
            where = '  File "agent.py", line 88, in lookup_order\n    return shop.get(order)\n'
            self.end(run, error=f"{error}\n\nTraceback (most recent call last):\n{where}{error}")
        else:
            self.end(run, {"order": order, "state": "shipped", "total": "42.90"})


def _answer(trace: _Trace, conversation: list[dict[str, str]], name: str = "support agent") -> None:
    """Adds one turn (plan, research, answer); appends two messages to the conversation."""
    choice = trace.rng.randrange(len(_QUESTIONS))
    question, answer = _QUESTIONS[choice], _ANSWERS[choice]
    conversation.append({"role": "user", "content": question})
    root = trace.begin(None, name, "chain", {"messages": list(conversation)})
    plan = trace.begin(root, "plan", "chain", {"question": question})
    prompt = trace.begin(plan, "plan prompt", "prompt", {"question": question})
    trace.end(prompt, {"text": f"Which tools help with: {question}"})
    trace.call_model(plan, [*conversation], "lookup_order, help centre")
    trace.end(plan, {"tools": ["lookup_order", "help centre"]})
    failing = trace.rng.random() < 0.12
    if trace.rng.random() < 0.7:
        research = trace.begin(root, "research", "chain", {"question": question})
        trace.search(research, question)
        trace.call_tool(research, fail=failing)
        trace.end(research, {"found": not failing})
    if failing and trace.rng.random() < 0.5:
        trace.end(root, error="RuntimeError('the order could not be found')")
    else:
        trace.call_model(root, [*conversation], answer)
        trace.end(root, {"answer": answer})
    conversation.append({"role": "assistant", "content": answer})


def _odd_name(trace: _Trace) -> None:
    _answer(trace, [], name='🤖 agent/"v2"/../<support> \\ 100%')


def _nul(trace: _Trace) -> None:
    files = {"page 1 📄": ("image/png", _picture()), "letter": ("text/plain", b"Dear Sirs, my order is late")}
    root = trace.begin(None, "read a scanned letter", "chain", {"file": "letter.pdf"}, attachments=files)
    trace.end(root, {"text": "Dear Sirs,\u0000\u0000 my order is late", "pages": 2**70})


def _lone_surrogate(trace: _Trace) -> None:
    root = trace.begin(None, "shorten", "chain", {"limit": 12})
    # Programs that cut UTF-16 text inside an emoji send this. The SDK removes it from strings, but not from JSON
    # that is already serialized.
    trace.search(root, orjson.Fragment(b'"my parcel \\ud83d"'))
    trace.end(root, {"text": "my parcel"})


def _large(trace: _Trace) -> None:
    files = {"cover": ("image/png", _picture())}
    root = trace.begin(None, "read the manual", "chain", {"pages": 400}, attachments=files)
    trace.search(root, "warranty", text="All parts are covered for two years. " * (_LARGE // 2 // 37))
    trace.end(root, {"answer": "Two years."})


def _pending(trace: _Trace) -> None:
    root = trace.begin(None, "wait for the customer", "chain", {"question": "Which colour?"})
    trace.search(root, "colours")


def _across_midnight(trace: _Trace) -> None:
    trace.now = trace.now.replace(hour=23, minute=59, second=59, microsecond=900_000)
    root = trace.begin(None, "night shift", "chain", {"question": _QUESTIONS[0]})
    for _ in range(3):
        trace.now += timedelta(milliseconds=100)
        trace.call_tool(root)
    trace.end(root, {"answer": _ANSWERS[0]})


_SPECIAL: Mapping[int, Callable[[_Trace], None]] = dict(
    enumerate((_odd_name, _nul, _lone_surrogate, _large, _pending, _across_midnight))
)


def _picture() -> bytes:
    """Returns a PNG of 32 x 32 grey levels (RFC 2083)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(4 * (x + y) for x in range(32)) for y in range(32))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _uuid7(rng: random.Random, at: datetime) -> UUID:
    """Returns a UUID of version 7 for a time; its random part is from `rng`."""
    milliseconds = int(at.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62))
