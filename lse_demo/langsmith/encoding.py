"""Splits JSON into members and elements without changing their bytes (lone surrogates and huge numbers included)."""

import json
from collections.abc import Container, Mapping
from typing import Any

import msgspec
import orjson

Members = dict[str, bytes]  # the members of a JSON object: name -> the value's bytes

_DECODER = json.JSONDecoder(strict=False)
_RAW_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


def split(raw: bytes, only: Container[str] | None = None) -> Members:
    """Returns the members of a JSON object, or only those in `only`. Raises ValueError."""
    try:
        found: Mapping[str, Any] = _RAW_MEMBERS.decode(raw)
    except (ValueError, RecursionError):
        # msgspec rejects lone surrogates, NaN and deep nesting, also in values that it does not decode.
        found = {_DECODER.decode(name.decode()): value for name, value in _cut(raw, b"{", b"}", named=True)}
    return {name: bytes(value) for name, value in found.items() if only is None or name in only}


def elements(raw: bytes) -> list[bytes]:
    """Returns the elements of a JSON array. Raises ValueError."""
    try:
        return [bytes(value) for value in _RAW_ELEMENTS.decode(raw)]
    except ValueError:
        return [value for _, value in _cut(raw, b"[", b"]", named=False)]


def _cut(raw: bytes, opening: bytes, closing: bytes, *, named: bool) -> list[tuple[bytes, bytes]]:
    # In Latin-1 every byte is one character, so the decoder's positions are byte positions.
    text = raw.decode("latin-1")
    found: list[tuple[bytes, bytes]] = []
    name = b""
    at = _expect(raw, 0, opening)
    if raw[at : at + 1] == closing:
        return found
    while True:
        if named:
            start, (_, at) = at, _scan(text, at)
            name = raw[start:at]
            at = _expect(raw, at, b":")
        start, (_, at) = at, _scan(text, at)
        found.append((name, raw[start:at]))
        at = _skip(raw, at)
        if raw[at : at + 1] == closing:
            return found
        at = _expect(raw, at, b",")


def _scan(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError(f"malformed JSON at byte {at}: nested too deeply") from None


def _skip(raw: bytes, at: int) -> int:
    while raw[at : at + 1] in (b" ", b"\t", b"\r", b"\n"):
        at += 1
    return at


def _expect(raw: bytes, at: int, mark: bytes) -> int:
    at = _skip(raw, at)
    if raw[at : at + 1] != mark:
        raise ValueError(f"malformed JSON at byte {at}: expected {mark.decode()}")
    return _skip(raw, at + 1)


def join(members: Mapping[str, bytes]) -> bytes:
    """Returns the JSON object with these members."""
    return b"{" + b",".join([b'"%s":%s' % (name.encode(), value) for name, value in members.items()]) + b"}"


def dump(value: Any) -> bytes:
    """Encodes `value` as JSON; escapes characters that UTF-8 cannot encode."""
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return json.dumps(value).encode()


def load(raw: bytes) -> Any:
    """Decodes `raw`; bytes that are not UTF-8 are replaced. Raises ValueError."""
    return json.loads(raw.decode("utf-8", "replace"), strict=False)
