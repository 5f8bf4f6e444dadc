"""Compiler of Drive's search language (`q` of files.list) to predicates over file resources."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Predicate = Callable[[Mapping[str, Any]], bool]

_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')|(?P<word>[A-Za-z]+)|(?P<sign><=|>=|!=|[=<>(){}]))")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class BadQueryError(ValueError):
    """The query is not valid in Drive's search language."""


def compile_query(text: str) -> Predicate:
    """Compiles a query to a predicate. Raises BadQueryError.

    The language: https://developers.google.com/workspace/drive/api/guides/ref-search-terms
    """
    parser = _Parser(_tokens(text))
    predicate = parser.disjunction()
    if parser.rest:
        raise BadQueryError(text)
    return predicate


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise BadQueryError(text)
        kind, value = found.lastgroup or "", found[found.lastgroup or 0]
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        tokens.append((kind, value))
        position = found.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.rest = tokens

    def take(self, kind: str, *values: str) -> str:
        if not self.rest or self.rest[0][0] != kind or (values and self.rest[0][1] not in values):
            raise BadQueryError(f"expected {values or kind}")
        return self.rest.pop(0)[1]

    def next_is(self, kind: str, value: str) -> bool:
        if self.rest[:1] == [(kind, value)]:
            self.rest.pop(0)
            return True
        return False

    def disjunction(self) -> Predicate:
        parts = [self.conjunction()]
        while self.next_is("word", "or"):
            parts.append(self.conjunction())
        return lambda file: any(part(file) for part in parts)

    def conjunction(self) -> Predicate:
        parts = [self.one()]
        while self.next_is("word", "and"):
            parts.append(self.one())
        return lambda file: all(part(file) for part in parts)

    def one(self) -> Predicate:
        if self.next_is("word", "not"):
            inner = self.one()
            return lambda file: not inner(file)
        if self.next_is("sign", "("):
            inner = self.disjunction()
            self.take("sign", ")")
            return inner
        if self.rest[:1] and self.rest[0][0] == "text":
            return self.member()
        return self.term()

    def member(self) -> Predicate:
        value = self.take("text")
        self.take("word", "in")
        field = self.take("word", "parents", "owners")
        if field == "parents":
            return lambda file: value in file.get("parents", ())
        return lambda file: any(owner.get("emailAddress") == value for owner in file.get("owners", ()))

    def term(self) -> Predicate:
        field = self.take("word")
        if field in ("name", "mimeType"):
            return self.text(field)
        if field in ("trashed", "starred", "sharedWithMe"):
            test, wanted = _COMPARE[self.take("sign", "=", "!=")], self.take("word", "true", "false") == "true"
            return lambda file: test(bool(file.get(field)), wanted)
        if field in ("createdTime", "modifiedTime"):
            test, value = _COMPARE[self.take("sign", *_COMPARE)], self.take("text")
            return lambda file: test(file[field][:19], value[:19])
        if field in ("properties", "appProperties"):
            self.take("word", "has")
            self.take("sign", "{")
            pair = self.pair("key"), (self.take("word", "and"), self.pair("value"))[1]
            self.take("sign", "}")
            return lambda file: file.get(field, {}).get(pair[0]) == pair[1]
        raise BadQueryError(field)

    def pair(self, name: str) -> str:
        self.take("word", name)
        self.take("sign", "=")
        return self.take("text")

    def text(self, field: str) -> Predicate:
        if self.next_is("word", "contains"):
            start = self.take("text").casefold()
            if field == "mimeType":
                return lambda file: start in file[field].casefold()
            # In names, Drive matches the beginnings of words only.
            return lambda file: bool(re.search(rf"(?<!\w){re.escape(start)}", file[field].casefold()))
        # Drive ignores case when it compares names.
        test, value = _COMPARE[self.take("sign", "=", "!=")], self.take("text").casefold()
        return lambda file: test(file[field].casefold(), value)
