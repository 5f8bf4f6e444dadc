"""A tolerant JSON scanner: it checks only the structure, and accepts documents that stricter parsers reject."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import TypeVar

import msgspec

NULL = b"null"
_BOM = b"\xef\xbb\xbf"
_T = TypeVar("_T")
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


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


def cut_member(document: bytes, name: str) -> tuple[bytes, bytes | None]:
    """Removes a member of a JSON object and one comma; every other byte stays.

    Returns:
        The rest, and the value (of a repeated member the last one); the document itself and None if it has none.

    Raises:
        NotARunError: It is not an object, or not complete.
    """
    key = json.dumps(name).encode()
    if key not in document:
        return document, None
    try:
        fields = _object_decoder.decode(document)
    except (msgspec.DecodeError, RecursionError):
        fields = {}
    if value := fields.pop(name, None):
        # The member is where the rest, without it, has exactly the other values.
        pattern = re.escape(key) + rb"\s*:\s*" + re.escape(bytes(value))
        for found in re.finditer(pattern, document):
            with contextlib.suppress(msgspec.DecodeError):
                rest = _without(document, found.start(), found.end())
                if _object_decoder.decode(rest) == fields:
                    return rest, bytes(value)
    return _cut_tolerantly(document, name)


def _cut_tolerantly(document: bytes, name: str) -> tuple[bytes, bytes | None]:
    body = document.removeprefix(_BOM)
    found = None
    for begin, end in reversed(list(_spans(body, b"{"))):
        part = body[begin:end]
        begin, end = begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())
        key, colon, value = _split_member(part.strip())
        if colon and key == name:
            document = body = _without(body, begin, end)
            found = value if found is None else found
    return document, found


def _without(document: bytes, begin: int, end: int) -> bytes:
    """The object without the member from `begin` to `end`, and without the comma before it, or else after it."""
    before, after = document[:begin], document[end:]
    if (head := before.rstrip()).endswith(b","):
        return head[:-1] + after
    if (tail := after.lstrip()).startswith(b","):
        return before + tail[1:]
    return before + after


def _split_member(part: bytes) -> tuple[str, bool, bytes]:
    match = _TOKEN.match(part)
    rest = part[match.end() :].lstrip() if match else b""
    if not match or not rest.startswith(b":"):
        return "", False, b""
    key = load_as(match.group(), str)
    return (key if key is not None else repr(match.group())), True, rest[1:].strip()


def _parts(document: bytes, opening: bytes) -> Iterator[bytes]:
    for begin, end in _spans(document, opening):
        yield document[begin:end].strip()


def _spans(document: bytes, opening: bytes) -> Iterator[tuple[int, int]]:
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
                if document[begin : match.start()].strip():
                    yield begin, match.start()
        elif token == ord(",") and depth == 1:
            yield begin, match.start()
            begin = match.end()
    if not complete:
        raise NotARunError("it is not JSON (it ends too early)")
