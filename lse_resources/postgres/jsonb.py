"""What JSONB cannot hold: which documents PostgreSQL would refuse or change, and the rendering its rows hold instead.

The file keeps the exact bytes. Where JSONB can hold them, the row holds the document itself; where it cannot, the row
holds a rendering, and its `mark` column names every reason:

=================== ================================================================ ===============================
mark                what the document holds                                          what the row holds
=================== ================================================================ ===============================
`nul`               `\\u0000` in a string or key                                      U+FFFD
`lone_surrogate`    half a surrogate pair, such as `\\ud800`                          U+FFFD
`invalid_utf8`      bytes that are not UTF-8                                         U+FFFD, one for each byte
`control_character` an unescaped control character in a string                       the same character
`bom`               a byte order mark in front                                       nothing
`duplicate_key`     a key twice in one object                                        the last value
`negative_zero`     `-0`, `-0.0`, `-0e7`                                             `0`, `0.0`
`number_range`      a number from 1e131072 on, or with over 16383 fractional digits  a string of its digits
`not_a_number`      `NaN`, `Infinity`, `-Infinity`                                   a string of the word
`depth`             nesting beyond 2,000 levels                                      a string of the JSON below
`not_json`          a document of which only the outer structure can be read         a string of all of it
`refused`           what PostgreSQL refuses even so, by its limits of size           no content (NULL)
=================== ================================================================ ===============================

Limits: PostgreSQL manual, "JSON Types" and "Numeric Types"; measured on 15 and 18. The order of keys, white space and
the notation of a number (`1e2` for `100`) are not content: they are not marked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import msgspec

REFUSED = "refused"
"""The mark of a row without content, which `render` cannot foresee."""

# PostgreSQL refuses at about 6,000 levels with its default max_stack_depth of 2 MB.
_MAX_DEPTH = 2000
# PostgreSQL manual, table "Numeric Types": digits before and after the decimal point.
_MAX_INTEGER_DIGITS = 131072
_MAX_FRACTION_DIGITS = 16383
_BOM = b"\xef\xbb\xbf"
_REPLACEMENT = "\ufffd"

# Not -0.5 or a date, which are frequent and harmless.
_NEGATIVE_ZERO = re.compile(rb"-0(?:\.0*)?(?:[eE][+-]?\d+)?(?=[\s,\]}]|\Z)")
_TOKEN = re.compile(r'[ \t\n\r]*+("(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^ \t\n\r{}\[\],:"]++)', re.DOTALL)
_NUMBER = re.compile(r"(-?)(0|[1-9]\d*+)(?:\.(\d++))?(?:[eE]([+-]?\d++))?")
_ODD_IN_STRING = re.compile("[\\\\\x00-\x1f\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS = frozenset(("true", "false", "null"))
_NOT_NUMBERS = frozenset(("NaN", "Infinity", "-Infinity"))
_CLOSING = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a row holds of a document: JSON that JSONB takes (None: nothing), and why it is not the document itself."""

    data: bytes | None
    mark: tuple[str, ...] = ()


def render(document: bytes, *, closely: bool = False) -> Rendering:
    """The document itself where JSONB holds it unchanged, else its marked rendering.

    Args:
        document: The JSON of a run.
        closely: Read every token. Without it, documents that hold nothing suspicious are passed at once: all the
            marks are found but some cases of `number_range`, which PostgreSQL refuses, so that none goes unnoticed.
    """
    if not closely and _is_plain(document):
        return Rendering(document)
    text = document.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    mark = {"bom"} if document.startswith(_BOM) else set()
    try:
        rendered = _Renderer(text, mark).render()
    except _NotJsonError:
        mark.add("not_json")
        rendered = _quote_raw(text)
    return Rendering(rendered.encode(), tuple(sorted(mark))) if mark else Rendering(document)


def _is_plain(document: bytes) -> bool:
    """Whether JSONB surely holds the document; False means to look closer.

    Parsing and writing again drops repeated keys, each with at least the two quotes around it, and keeps all other
    quotes but those written as `\\u0022`. So with equal counts of quotes no key is repeated.
    """
    if b"\\u00" in document and (b"\\u0000" in document or b"\\u0022" in document):
        return False
    if _NEGATIVE_ZERO.search(document):
        return False
    try:
        again = msgspec.json.encode(msgspec.json.decode(document))
    except (ValueError, RecursionError):
        return False
    return again == document or again.count(b'"') == document.count(b'"')


class _NotJsonError(Exception):
    """The text breaks JSON's grammar."""


class _Renderer:
    """Rewrites a text token by token, without recursion: its depth is bounded by memory alone."""

    def __init__(self, text: str, mark: set[str]) -> None:
        self._text = text
        self._mark = mark
        self._position = 0
        self._out: list[str] = []
        self._open: list[str] = []
        self._keys: list[set[str]] = []

    def render(self) -> str:
        token = self._value(self._next())
        while self._open or token:
            token = self._after_value(token)
        return "".join(self._out)

    def _next(self) -> str:
        """The next token, "" at the end of the text."""
        if match := _TOKEN.match(self._text, self._position):
            self._position = match.end()
            return match.group(1)
        if self._text[self._position :].strip(" \t\n\r"):
            raise _NotJsonError
        return ""

    def _value(self, token: str) -> str:
        """Writes the value that starts with a token, an array or object only as far as its first value is open."""
        while True:
            if token in ("{", "["):
                if len(self._open) == _MAX_DEPTH:
                    self._out.append(self._below())
                    return self._next()
                self._out.append(token)
                self._open.append(token)
                self._keys.append(set())
                first = self._next()
                if first == _CLOSING[token]:
                    return first
                token = self._key(first) if token == "{" else first
                continue
            self._out.append(self._scalar(token))
            return self._next()

    def _after_value(self, token: str) -> str:
        if not self._open:
            raise _NotJsonError
        container = self._open[-1]
        if token == _CLOSING[container]:
            self._out.append(token)
            self._open.pop()
            self._keys.pop()
            return self._next()
        if token != ",":
            raise _NotJsonError
        self._out.append(token)
        return self._value(self._key(self._next()) if container == "{" else self._next())

    def _key(self, token: str) -> str:
        """Writes a key and its colon; returns the token after them."""
        if not token.startswith('"'):
            raise _NotJsonError
        key = self._string(token)
        keys = self._keys[-1]
        # Two spellings of one key are one key.
        plain = json.loads(key) if "\\" in key else key[1:-1]
        if plain in keys:
            self._mark.add("duplicate_key")
        keys.add(plain)
        if self._next() != ":":
            raise _NotJsonError
        self._out += (key, ":")
        return self._next()

    def _scalar(self, token: str) -> str:
        if token.startswith('"'):
            return self._string(token)
        if token in _WORDS:
            return token
        if token in _NOT_NUMBERS:
            self._mark.add("not_a_number")
            return f'"{token}"'
        if number := _NUMBER.fullmatch(token):
            return self._number(token, *number.groups(""))
        raise _NotJsonError

    def _string(self, token: str) -> str:
        if not _ODD_IN_STRING.search(token):
            return token
        if _SURROGATE.search(token):  # what the decoder made of a byte that is not UTF-8
            self._mark.add("invalid_utf8")
            token = _SURROGATE.sub(_REPLACEMENT, token)
        if _CONTROL.search(token):
            self._mark.add("control_character")
        try:
            text = json.loads(token, strict=False)
        except ValueError:
            raise _NotJsonError from None
        if "\x00" in text:
            self._mark.add("nul")
            text = text.replace("\x00", _REPLACEMENT)
        if _SURROGATE.search(text):
            self._mark.add("lone_surrogate")
            text = _SURROGATE.sub(_REPLACEMENT, text)
        return json.dumps(text, ensure_ascii=False)

    def _number(self, token: str, sign: str, integer: str, fraction: str, exponent: str) -> str:
        # Seven characters hold any exponent that could pass, with its sign.
        power = int(exponent or "0") if len(exponent) <= 7 else None
        digits = (integer + fraction).lstrip("0")
        if (
            power is None
            or abs(power) > _MAX_INTEGER_DIGITS
            or len(digits) - len(fraction) + power > _MAX_INTEGER_DIGITS
            or len(fraction) - power > _MAX_FRACTION_DIGITS
        ):
            self._mark.add("number_range")
            return f'"{token}"'
        if sign and not digits:
            self._mark.add("negative_zero")
        return token

    def _below(self) -> str:
        """The JSON text of the array or object that was just opened, as a string."""
        begin, depth = self._position - 1, 1
        while depth:
            token = self._next()
            if not token:
                raise _NotJsonError
            depth += (token in ("{", "[")) - (token in ("}", "]"))
        self._mark.add("depth")
        return _quote_raw(self._text[begin : self._position])


def _quote_raw(text: str) -> str:
    return json.dumps(_SURROGATE.sub(_REPLACEMENT, text).replace("\x00", _REPLACEMENT), ensure_ascii=False)


def render_refused(document: bytes, tried: Rendering) -> Rendering | None:
    """What to try after PostgreSQL refused a rendering: a closer one, then no content; None: there is nothing left."""
    if tried.data is None:
        return None
    closer = render(document, closely=True)
    return closer if closer != tried else Rendering(None, (*closer.mark, REFUSED))
