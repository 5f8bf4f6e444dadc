"""JSON values as PostgreSQL's jsonb gives them back: of any depth, and with numbers of any length."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import msgspec

from lse_archive.runs.scanner import members

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]]|[^\s{}\[\],:"]++', re.DOTALL)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def load_json(text: str | bytes) -> Any:
    """Parses JSON. A number without fractional digits is an int, as in jsonb's own text (`1e2` is 100), else a float.

    Raises:
        ValueError: It is not JSON.
    """
    return _load(text, _plain_decoder)


def load_exact_json(text: str | bytes) -> Any:
    """Parses JSON as `load_json` does, but keeps decimals exactly, as `Decimal`."""
    return _load(text, _exact_decoder)


def object_members(document: bytes) -> dict[str, bytes | msgspec.Raw]:
    """Returns the values of a JSON object's own keys, unparsed; nothing for another value."""
    if not document.lstrip().startswith(b"{"):
        return {}
    try:
        return dict(_members_decoder.decode(document))
    except (msgspec.DecodeError, RecursionError):
        return dict(members(document))


def jsonb_text(value: Any) -> str:
    """Returns the text of a value of `load_exact_json` as jsonb's output has it: sorted keys, plain decimals."""
    parts: list[str] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, _Text):
            parts.append(item)
        elif isinstance(item, list | dict):
            stack += reversed(_container_parts(item))
        else:
            parts.append(_scalar_text(item))
    return "".join(parts)


class _Text(str):
    """A part of the output, not a value."""

    __slots__ = ()


def _container_parts(container: list[Any] | dict[str, Any]) -> list[Any]:
    if isinstance(container, list):
        parts = [part for item in container for part in (_Text(", "), item)]
        return [_Text("["), *parts[1:], _Text("]")]
    parts = []
    for key in sorted(container, key=_jsonb_order):
        parts += (_Text(", "), _Text(f"{json.dumps(key, ensure_ascii=False)}: "), container[key])
    return [_Text("{"), *parts[1:], _Text("}")]


def _jsonb_order(key: str) -> tuple[int, bytes]:
    # PostgreSQL, jsonb_util.c, lengthCompareJsonbStringValue: shorter keys first.
    encoded = key.encode()
    return len(encoded), encoded


def _scalar_text(value: Any) -> str:
    if isinstance(value, str | bool | None):
        return json.dumps(value, ensure_ascii=False)
    number = Decimal(value)
    return format(number if number else abs(number), "f")


def _load(text: str | bytes, decoder: json.JSONDecoder) -> Any:
    text = text if isinstance(text, str) else text.decode()
    try:
        return decoder.decode(text)
    except RecursionError:
        return _load_deep(text, decoder)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # more digits than Python's limit for text (sys.get_int_max_str_digits)
        return int(Decimal(text))


def _plain_decimal(text: str) -> int | float:
    if "e" in text or "E" in text:
        number = Decimal(text)
        if number.same_quantum(number.to_integral_value()):  # without fractional digits
            return int(number)
    return float(text) + 0.0  # jsonb has no negative zero


# Made once: `json.loads` would make one for each call.
_plain_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_plain_decimal)
_exact_decoder = json.JSONDecoder(parse_int=_integer, parse_float=Decimal)


def _load_deep(text: str, decoder: json.JSONDecoder) -> Any:
    """Parses valid JSON without recursion."""
    outermost: list[Any] = []
    stack: list[Any] = [outermost]
    key = None
    for match in _TOKEN.finditer(text):
        token = match[0]
        container = stack[-1]
        if token in ("}", "]"):
            stack.pop()
            continue
        if isinstance(container, dict) and key is None:
            key = json.loads(token)
            continue
        value = {"{": dict, "[": list}[token]() if token in ("{", "[") else _load(token, decoder)
        if isinstance(container, dict):
            container[key] = value
            key = None
        else:
            container.append(value)
        if token in ("{", "["):
            stack.append(value)
    return outermost[0]
