"""Chat messages in inputs and outputs, in the shapes that LangChain and OpenAI write. What is not known is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lse_viewer.json_tree import value_text

_CLASSES = {
    "HumanMessage": "user",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessage": "system",
    "ToolMessage": "tool",
    "FunctionMessage": "tool",
}
_ROLES = {"human": "user", "ai": "assistant", "function": "tool"}
# Where messages are: members, in this order, of inputs and outputs.
_PLACES = ("messages", "input", "message", "generations", "choices", "output")
_LEVELS = 6


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asks for; `arguments` is any JSON value."""

    name: str
    arguments: Any

    @property
    def text(self) -> str:
        """The arguments: a text itself, everything else as JSON."""
        return value_text(self.arguments)


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation.

    Attributes:
        role: `user`, `assistant`, `system`, `tool`, or what the program wrote.
        text: Of all its parts; a part that is no text is named by its type in brackets.
    """

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    name: str = ""


def conversation(value: Any) -> list[Message]:
    """The messages in inputs or outputs; none if they are in no known place."""
    return _search(value, _LEVELS)


def _search(value: Any, levels: int) -> list[Message]:
    if not levels:
        return []
    if (message := _message(value)) is not None:
        return [message]
    if isinstance(value, list):
        found = [_search(item, levels - 1) for item in value]
        # A list with anything else is no conversation: nothing of it may be left out.
        return [message for messages in found for message in messages] if all(found) else []
    if isinstance(value, dict):
        for place in _PLACES:
            if place in value and (messages := _search(value[place], levels - 1)):
                return messages
    return []


def _message(value: Any) -> Message | None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return Message(_ROLES.get(value[0], value[0]), value[1]) if value[0] in _KNOWN else None
    if not isinstance(value, dict):
        return None
    identity = value.get("id")
    if isinstance(identity, list) and identity and isinstance(value.get("kwargs"), dict):
        role = _CLASSES.get(identity[-1] if isinstance(identity[-1], str) else "")
        return _made(role, value["kwargs"]) if role else None
    if isinstance(value.get("data"), dict) and value.get("type") in _KNOWN:
        return _made(_ROLES.get(value["type"], value["type"]), value["data"])
    role = value.get("role") or value.get("type")
    if not isinstance(role, str) or not ("content" in value or "tool_calls" in value):
        return None
    if "role" not in value and role not in _KNOWN:
        return None
    return _made(_ROLES.get(role, role), value)


_KNOWN = {*_ROLES, *_ROLES.values(), "system", "developer"}


def _made(role: str, fields: dict[str, Any]) -> Message:
    texts, calls = list[str](), list[ToolCall]()
    content = fields.get("content")
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict) and part.get("type") == "tool_use":
            calls.append(ToolCall(str(part.get("name") or "tool"), part.get("input")))
        elif part is not None:
            kind = part.get("type") if isinstance(part, dict) else None
            texts.append(f"[{kind if isinstance(kind, str) else 'JSON'}]")
    asked = fields.get("tool_calls")
    for call in asked if isinstance(asked, list) else ():
        if isinstance(call, dict):
            function = call.get("function") if isinstance(call.get("function"), dict) else call
            arguments = function.get("arguments", function.get("args"))
            made = ToolCall(str(function.get("name") or "tool"), arguments)
            if made not in calls:  # in the content, too
                calls.append(made)
    name = fields.get("name")
    return Message(role, "\n".join(texts), tuple(calls), name if isinstance(name, str) else "")
