"""A JSON value as a folding tree: small parts at once, the rest when it is opened.

A node is found again by the positions on the way to it: a key may be of any length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lse_resources.postgres.analysis.json_values import jsonb_text

CHILDREN = 100
"""Children of a node that are shown at once."""
CUT = 1000
"""Characters of a text that are shown at once."""
_LEVELS = 3
_NODES = 150
_MAX_KEY = 200

Path = tuple[int, ...]


@dataclass(slots=True)
class Node:
    """A value of a document.

    Attributes:
        path: Positions from the document's own value.
        label: Its key or its place in an array; None for the first node.
        kind: `object`, `array`, `text`, or `value` (a number, true, false or null).
        size: Number of children, or characters of a text.
        text: The value, cut.
        children: None: not made; they are requested when the node is opened.
        following: The position of the first child that is not in `children`; None: there is none.
    """

    path: Path
    label: str | None
    kind: str
    size: int
    text: str = ""
    children: list[Node] | None = None
    following: int | None = None

    @property
    def is_cut(self) -> bool:
        return self.kind == "text" and self.size > CUT

    @property
    def place(self) -> str:
        """The path in an address."""
        return path_text(self.path)


@dataclass(slots=True)
class _Budget:
    nodes: int = field(default=_NODES)


def tree(value: Any, path: Path = (), label: str | None = None, begin: int = 0) -> Node:
    """The node of a value, its children from `begin` on, and theirs as far as they are few."""
    node = _node(value, path, label)
    if isinstance(value, dict | list):
        _open(node, value, _LEVELS, _Budget(), begin)
    return node


def follow(value: Any, path: Path) -> tuple[Any, str | None] | None:
    """The value at a path, and its label; None: there is none."""
    label = None
    for position in path:
        if not isinstance(value, dict | list) or not 0 <= position < len(value):
            return None
        if isinstance(value, dict):
            label = list(value)[position]
            value = value[label]
        else:
            label = str(position)
            value = value[position]
    return value, label


def path_text(path: Path) -> str:
    """The path in an address: `0.3.12`."""
    return ".".join(map(str, path))


def parse_path(text: str) -> Path:
    """The path of an address.

    Raises:
        ValueError: It is malformed.
    """
    return tuple(int(part) for part in text.split(".")) if text else ()


def value_text(value: Any) -> str:
    """A text itself, and every other value as JSON: numbers with all their digits."""
    if isinstance(value, dict | list):
        return jsonb_text(value)
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return format(Decimal(value), "f")


def _node(value: Any, path: Path, label: str | None) -> Node:
    if label is not None and len(label) > _MAX_KEY:
        label = f"{label[:_MAX_KEY]}…"
    if isinstance(value, dict | list):
        return Node(path, label, "object" if isinstance(value, dict) else "array", len(value))
    text = value_text(value)
    kind = "text" if isinstance(value, str) or len(text) > CUT else "value"
    return Node(path, label, kind, len(text), text[:CUT])


def _open(node: Node, value: dict[str, Any] | list[Any], levels: int, budget: _Budget, begin: int = 0) -> None:
    """Makes the children of a node, and opens those for which levels and nodes are left."""
    end = begin + CHILDREN
    items = list(value.items())[begin:end] if isinstance(value, dict) else list(enumerate(value[begin:end], begin))
    node.children = []
    for position, (label, child) in enumerate(items, begin):
        made = _node(child, (*node.path, position), str(label))
        node.children.append(made)
        budget.nodes -= 1
        if isinstance(child, dict | list) and levels > 1 and budget.nodes > len(child):
            _open(made, child, levels - 1, budget)
    node.following = end if end < len(value) else None
