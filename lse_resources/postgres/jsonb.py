"""Renders documents that JSONB cannot store unchanged.

The run file keeps the exact bytes. The row holds the document itself if JSONB can store it, else a rendering of it,
with every reason in the column `mark`:

=================== ================================================================ ===============================
mark                in the document                                                  in the row
=================== ================================================================ ===============================
`nul`               `\\u0000` in a string or key                                      U+FFFD
`lone_surrogate`    half a surrogate pair, such as `\\ud800`                          U+FFFD
`invalid_utf8`      bytes that are not UTF-8                                         U+FFFD, one for each byte
`control_character` an unescaped control character in a string                       the same character
`bom`               a byte order mark at the start                                   nothing
`duplicate_key`     a key twice in one object                                        the last value
`negative_zero`     `-0`, `-0.0`, `-0e7`                                             `0`, `0.0`
`number_range`      a number from 1e131072 on, or with over 16383 fractional digits  its text, as a string
`not_a_number`      `NaN`, `Infinity`, `-Infinity`                                   the word, as a string
`depth`             nesting beyond 2,000 levels                                      the JSON below, as a string
`not_json`          a document of which only the outer structure can be read         its text, as a string
`refused`           a document whose rendering PostgreSQL refuses too, for its size  no content (NULL)
=================== ================================================================ ===============================

Limits: PostgreSQL manual, "JSON Types" and "Numeric Types"; measured on 15 and 18. The order of keys, white space and
the notation of a number (`1e2` for `100`) are not part of the content: they are not marked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import msgspec

REFUSED = "refused"
"""The mark of a row without content. `render` never sets it: only the server can refuse a rendering."""

# PostgreSQL refuses at about 6,000 levels with its default max_stack_depth of 2 MB.
_MAX_DEPTH = 2000
# PostgreSQL manual, table "Numeric Types": digits before and after the decimal point.
_MAX_INTEGER_DIGITS = 131072
_MAX_FRACTION_DIGITS = 16383
_BOM = b"\xef\xbb\xbf"
_REPLACEMENT = "\ufffd"

# Does not match -0.5 or a date, which are frequent and can be stored.
_NEGATIVE_ZERO = re.compile(rb"-0(?:\.0*)?(?:[eE][+-]?\d+)?(?=[\s,\]}]|\Z)")
_TOKEN = re.compile(r'[ \t\n\r]*+("(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^ \t\n\r{}\[\],:"]++)', re.DOTALL)
_NUMBER = re.compile(r"(-?)(0|[1-9]\d*+)(?:\.(\d++))?(?:[eE]([+-]?\d++))?")
_UNSAFE_IN_STRING = re.compile("[\\\\\x00-\x1f\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS = frozenset(("true", "false", "null"))
_NOT_NUMBERS = frozenset(("NaN", "Infinity", "-Infinity"))
_CLOSING = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Rendering:
    """The content of a row: JSON for JSONB (None: none), and the reasons why it is not the document itself."""

    data: bytes | None
    mark: tuple[str, ...] = ()


def render(document: bytes, *, closely: bool = False) -> Rendering:
    """Returns the document itself if JSONB can store it unchanged, else its marked rendering.

    Args:
        document: The JSON of a run.
        closely: Read every token. Without it, a quick test accepts most documents; it misses only some cases of
            `number_range`, which PostgreSQL refuses.
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
    """Whether JSONB certainly stores the document unchanged; False means that a close look is needed.

    Parsing and writing again drops repeated keys, each with at least two quotes, and keeps all other quotes except
    those written as `\\u0022`. So if the counts of quotes are equal, no key is repeated.
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
    """The text is not valid JSON."""


class _Renderer:
    """Rewrites a text token by token, without recursion: only memory limits the depth."""

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
        """Returns the next token, "" at the end of the text."""
        if match := _TOKEN.match(self._text, self._position):
            self._position = match.end()
            return match.group(1)
        if self._text[self._position :].strip(" \t\n\r"):
            raise _NotJsonError
        return ""

    def _value(self, token: str) -> str:
        """Writes a value, or an array or object up to the start of its first scalar; returns the token after that."""
        while True:
            if token in ("{", "["):
                if len(self._open) == _MAX_DEPTH:
                    self._out.append(self._container_as_string())
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
        # Escapes allow several spellings of one key.
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
        if not _UNSAFE_IN_STRING.search(token):
            return token
        if _SURROGATE.search(token):  # the decoder's result for a byte that is not UTF-8
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
        # Seven characters are enough for every exponent in range, with its sign.
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

    def _container_as_string(self) -> str:
        """Returns the text of the array or object that was just opened, as a JSON string."""
        start, depth = self._position - 1, 1
        while depth:
            token = self._next()
            if not token:
                raise _NotJsonError
            depth += (token in ("{", "[")) - (token in ("}", "]"))
        self._mark.add("depth")
        return _quote_raw(self._text[start : self._position])


def _quote_raw(text: str) -> str:
    return json.dumps(_SURROGATE.sub(_REPLACEMENT, text).replace("\x00", _REPLACEMENT), ensure_ascii=False)


def render_refused(document: bytes, tried: Rendering) -> Rendering | None:
    """Returns the next rendering after a refused one: first a close one, then no content, then None."""
    if tried.data is None:
        return None
    closer = render(document, closely=True)
    return closer if closer != tried else Rendering(None, (*closer.mark, REFUSED))
