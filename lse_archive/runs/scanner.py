"""A tolerant JSON scanner: it checks only the structure, and accepts documents that stricter parsers reject."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TypeVar

NULL = b"null"
_BOM = b"\xef\xbb\xbf"
_T = TypeVar("_T")


class NotARunError(ValueError):
    """The bytes are not the JSON of a run; the text is the reason."""


def load_as(value: bytes, kind: type[_T]) -> _T | None:
    """The value if it is JSON of that type, else None."""
    try:
        loaded = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, kind) else None


# Possessive quantifiers: an unfinished string must fail without backtracking.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_OPEN, _CLOSE = frozenset(b"{["), frozenset(b"}]")


def check_json(document: bytes) -> bytes:
    """Returns the document if it is JSON. The check is as tolerant as possible, but rejects broken documents.

    Raises:
        NotARunError: It is not JSON.
    """
    try:
        text = document.removeprefix(_BOM).decode("utf-8", "surrogateescape")
        json.loads(text, strict=False, parse_int=str, parse_float=str)  # int() rejects more than 4,300 digits
    except RecursionError:
        # Too deep for the parser: its brackets at least must match.
        elements(document) if document.lstrip().startswith(b"[") else members(document)
    except ValueError as error:
        raise NotARunError(f"it is not JSON ({error})") from None
    return document


def one_line(document: bytes) -> bytes:
    """The document without line breaks: white space that holds one is removed, and within a string it is escaped."""
    if b"\n" not in document and b"\r" not in document:
        return document
    parts, after = [], 0
    for match in _TOKEN.finditer(document):
        space = document[after : match.start()]
        parts.append(b"" if b"\n" in space or b"\r" in space else space)
        parts.append(match.group().replace(b"\n", b"\\n").replace(b"\r", b"\\r"))
        after = match.end()
    return b"".join(parts)


def members(document: bytes) -> dict[str, bytes]:
    """The values of a JSON object's own keys, as bytes, of any depth. A repeated key: the last wins.

    Raises:
        NotARunError: It is not an object, or not complete.
    """
    found: dict[str, bytes] = {}
    for part in _parts(document.removeprefix(_BOM), b"{"):
        key, colon, value = _split_member(part)
        if not colon:
            raise NotARunError("it is not JSON (a key without a value)")
        found[key] = value
    return found


def elements(document: bytes) -> list[bytes]:
    """The elements of a JSON array, as bytes.

    Raises:
        NotARunError: It is not an array, or not complete.
    """
    return list(_parts(document, b"["))


def _split_member(part: bytes) -> tuple[str, bool, bytes]:
    match = _TOKEN.match(part)
    rest = part[match.end() :].lstrip() if match else b""
    if not match or not rest.startswith(b":"):
        return "", False, b""
    key = load_as(match.group(), str)
    return (key if key is not None else repr(match.group())), True, rest[1:].strip()


def _parts(document: bytes, opening: bytes) -> Iterator[bytes]:
    depth, begin, complete, after = 0, 0, False, 0
    for match in _TOKEN.finditer(document):
        if complete or (depth == 0 and match.group() != opening):
            raise NotARunError(f"it is not JSON (no single {'object' if opening == b'{' else 'array'})")
        if document[after : match.start()].strip():
            break  # a string without an end
        after = match.end()
        token = document[match.start()]
        if token in _OPEN:
            depth += 1
            begin = match.end() if depth == 1 else begin
        elif token in _CLOSE:
            depth -= 1
            if depth == 0:
                complete = True
                if last := document[begin : match.start()].strip():
                    yield last
        elif token == ord(",") and depth == 1:
            yield document[begin : match.start()].strip()
            begin = match.end()
    if not complete:
        raise NotARunError("it is not JSON (it ends too early)")
