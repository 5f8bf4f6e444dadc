"""Text from outside (names, answers of servers, paths), made harmless for terminals, mails and web pages."""

from __future__ import annotations

import re

HIDDEN = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"
"""The characters beyond U+001F that a terminal executes or that reorder a line, for a regular expression: DEL, C1,
line separators, and the controls of Unicode's bidirectional algorithm (UAX #9)."""

_UNSAFE = re.compile(f"[\x00-\x1f{HIDDEN}\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# The start of a link's or an image's target, and of a tag or an address in angle brackets (CommonMark 0.31).
_MARKUP = re.compile(r"\](?=[(\[])|<(?=[A-Za-z/!?])")


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8: not if bytes of a path or an argument were none (PEP 383)."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def printable(text: str) -> str:
    """Returns one line without control characters: they, and bytes that are not UTF-8, become escapes such as \\x1b.

    Every other text is returned unchanged.
    """
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def markdown(text: str) -> str:
    """Returns printable text that Markdown shows without a link, an image or a tag. Dagster renders descriptions."""
    return _MARKUP.sub(r"\g<0> ", printable(text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path or an argument (PEP 383)
        code -= 0xDC00
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
