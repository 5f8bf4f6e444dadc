"""The words of runs: the one tokenizer with which the search index is made, queries are read, and hits are checked.

A text is cut into words: letters, digits and the marks on them, of any script, compared as NFKC and case folding of
Unicode make them equal. Everything else separates words, `_` too. Where a script does not separate words (Chinese,
Japanese, Thai and others), every character with its marks is a word, and the index also has each two that follow one
another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from lse_archive.errors import UsageError

VALUE_CHARACTERS = 100_000
"""Of a longer value, the first characters are searched."""
RUN_CHARACTERS = 1_000_000
"""Of a run with longer values in all, the first characters are searched."""
WORD_CHARACTERS = 64
"""Words with the same first characters are equal."""
QUERY_CHARACTERS = 1_000
_BEFORE, _AFTER = 60, 200
"""Characters of an excerpt before and after the start of the first hit in it."""

Place = Literal["name", "error", "inputs", "outputs"]

# The blocks that have marks: up to the symbols, and the variation selectors.
_MARKS = "".join(
    char
    for char in map(chr, (*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)))
    if unicodedata.category(char)[0] == "M"
)
# Scripts that do not separate words: Thai, Lao, Myanmar, Khmer, Tai Le to Balinese, Javanese, Han, Kana, Bopomofo.
_UNSEPARATED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a00-\u1aaf\u1b00-\u1b7f\u2e80-\u2fff\u3005-\u3007"
    "\u3021-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U0001aff0-\U0001b16f"
    "\U00020000-\U0003ffff"
)
# Texts without any of these have no word of such a script, after NFKC too.
_MAY_BE_UNSEPARATED = re.compile("[\u0e00-\u1cff\u2e80-\ufdff\uff66-\uff9f\U0001aff0-\U0001b2ff\U00020000-\U0003ffff]")
# Parts of a text that hold its words whole. They may hold more, between the marks beyond the Basic Multilingual Plane:
# a class of single ones would be slow.
_BMP_MARKS = "".join(mark for mark in _MARKS if mark < "\U00010000")
_CHUNK = re.compile(rf"[\w{_BMP_MARKS}\U00010a00-\U0001e94f\U000e0100-\U000e01ef]+")
_ASCII_CHUNK = re.compile(r"\w+", re.ASCII)
_WORD = re.compile(rf"[{_UNSEPARATED}][{_MARKS}]*|(?![{_UNSEPARATED}])[^\W_](?:(?![{_UNSEPARATED}])[^\W_]|[{_MARKS}])*")
_BEGINS_UNSEPARATED = re.compile(f"[{_UNSEPARATED}]")
_TERM = re.compile(r'"([^"]*)"?|[^\s"]+')
_QUOTES = str.maketrans("“”„‟«»", '""""""')
# Around words: no text has it in a word.
_EDGE = "\0"


def words(text: str) -> Iterator[str]:
    """Yields the words of a text in their order."""
    for chunk in _chunk(text).findall(text):
        yield from _words_of(chunk)


def index_words(texts: Iterable[str]) -> set[str]:
    """The words of texts under which the index has a run, with the pairs of words of scripts that do not separate them.

    A run whose texts match a query has all `Query.index_words`.
    """
    found: set[str] = set()
    for text in texts:
        if text.isascii() or not _MAY_BE_UNSEPARATED.search(text):
            for chunk in set(_chunk(text).findall(text)):
                found.update(_words_of(chunk))
        else:
            in_order = list(words(text))
            found.update(in_order, map("".join, filter(_is_pair, pairwise(in_order))))
    return found


def run_texts(name: str | None, error: str | None, inputs: Any, outputs: Any) -> tuple[list[tuple[Place, str]], bool]:
    """The texts of a run that are searched, and whether some of them are cut.

    These are the name, the error, and the texts and whole numbers in the inputs and outputs, without keys of objects.
    The order of an object's keys makes no difference.

    Args:
        inputs, outputs: As `load_json` gives them.
    """
    texts: list[tuple[Place, str]] = []
    left, is_cut = RUN_CHARACTERS, False
    sources: tuple[tuple[Place, Any], ...] = (
        ("name", name),
        ("error", error),
        ("inputs", inputs),
        ("outputs", outputs),
    )
    for place, source in sources:
        for text in _values(source):
            kept = text[: min(VALUE_CHARACTERS, left)]
            is_cut = is_cut or len(kept) < len(text)
            left -= len(kept)
            if kept:
                texts.append((place, kept))
            elif is_cut:
                return texts, True
    return texts, is_cut


@dataclass(frozen=True, slots=True)
class Query:
    """Words and phrases that a run must have, all of them; each phrase within one text.

    Attributes:
        text: As the user wrote it.
        terms: The words of each phrase; a word by itself is a phrase of one.
    """

    text: str
    terms: tuple[tuple[str, ...], ...]

    @property
    def index_words(self) -> set[str]:
        """Words that `index_words` has for every run that matches."""
        found: set[str] = set()
        for term in self.terms:
            pairs = {first + second for first, second in pairwise(term) if _is_pair((first, second))}
            in_pairs = {word for pair in pairwise(term) if _is_pair(pair) for word in pair}
            found |= pairs | (set(term) - in_pairs)
        return found

    def excerpt(self, texts: Sequence[tuple[Place, str]]) -> Excerpt | None:
        """The part of a run's texts with the first hit in the text that has most terms; None: it does not match."""
        phrases = [_bounded(term) for term in self.terms]
        best, most, missing = 0, 0, set(phrases)
        for number, (_, text) in enumerate(texts):
            bounded = _bounded(words(text))
            hits = {phrase for phrase in phrases if phrase in bounded}
            missing -= hits
            if len(hits) > most:
                best, most = number, len(hits)
        return None if missing else _excerpt(*texts[best], self.terms)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A hit in its context, on one line.

    Attributes:
        parts: Pieces of the text in their order, and whether each is a hit.
    """

    place: Place
    parts: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(part for part, _ in self.parts)


def read_query(text: str) -> Query:
    """Reads words and "exact phrases". What has several words without quotes, such as `order_id`, is a phrase too.

    Raises:
        UsageError: The query has no word, or is too long.
    """
    if len(text) > QUERY_CHARACTERS:
        raise UsageError(
            "the query is too long", why=f"it has {len(text):,} characters", hint=f"{QUERY_CHARACTERS:,} are allowed"
        )
    found = (tuple(words(term[0])) for term in _TERM.finditer(text.translate(_QUOTES)))
    if not (terms := tuple(dict.fromkeys(filter(None, found)))):
        raise UsageError("the query has no word", why="only letters and digits are searched", hint="Give it a word")
    return Query(text, terms)


def _chunk(text: str) -> re.Pattern[str]:
    return _ASCII_CHUNK if text.isascii() else _CHUNK


def _words_of(chunk: str) -> tuple[str, ...]:
    return _cached(chunk) if len(chunk) <= WORD_CHARACTERS else _split(chunk)


def _split(chunk: str) -> tuple[str, ...]:
    return tuple(word[:WORD_CHARACTERS] for word in _WORD.findall(_fold(chunk)))


_cached = lru_cache(1 << 16)(_split)  # of chunks whose length is bounded


def _fold(chunk: str) -> str:
    if chunk.isascii():
        return chunk.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", chunk).casefold())


def _is_pair(pair: tuple[str, str]) -> bool:
    return all(map(_BEGINS_UNSEPARATED.match, pair))


def _values(source: Any) -> Iterator[str]:
    """Yields the texts and whole numbers of a JSON value, without recursion."""
    stack = [source]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            stack += [value[key] for key in sorted(value, reverse=True)]
        elif isinstance(value, list):
            stack += reversed(value)
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**WORD_CHARACTERS:
            yield str(value)


def _bounded(found: Iterable[str]) -> str:
    return f"{_EDGE}{_EDGE.join(found)}{_EDGE}"


def _excerpt(place: Place, text: str, terms: Sequence[tuple[str, ...]]) -> Excerpt:
    spans = list(_spans(text))
    in_order = [word for word, _, _ in spans]
    starts: dict[str, list[tuple[str, ...]]] = {}
    for term in terms:
        starts.setdefault(term[0], []).append(term)
    hits = [
        (spans[at][1], spans[at + len(term) - 1][2])
        for at, word in enumerate(in_order)
        for term in starts.get(word, ())
        if tuple(in_order[at : at + len(term)]) == term
    ]
    first = hits[0][0]
    begin, end = max(0, first - _BEFORE), min(len(text), first + _AFTER)
    parts = [("… " if begin else "", False)]
    position = begin
    for start, stop in hits:
        if start >= end:
            break
        start, stop = max(start, position), min(stop, end)
        if start < stop:
            parts += [(text[position:start], False), (text[start:stop], True)]
            position = stop
    parts += [(text[position:end], False), (" …" if end < len(text) else "", False)]
    return Excerpt(place, tuple((re.sub(r"\s+", " ", part), is_hit) for part, is_hit in parts if part))


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Yields the words of a text with where they begin and end in it."""
    for chunk in _chunk(text).finditer(text):
        if len(only := _words_of(chunk[0])) == 1:
            yield only[0], *chunk.span()
            continue
        folded = _fold(chunk[0])
        exact = len(folded) == len(chunk[0])  # otherwise a word's place is that of its chunk
        for word in _WORD.finditer(folded):
            start, end = word.span() if exact else (0, len(chunk[0]))
            yield word[0][:WORD_CHARACTERS], chunk.start() + start, chunk.start() + end
