"""LangSmith's filter language, e.g. `and(gte(start_time, "…"), eq(is_root, true))`, compiled to an SQL condition.

Source of the language: https://docs.langchain.com/langsmith/trace-query-syntax#filter-query-language
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lse_demo.langsmith.runs import micros

_TOKEN = re.compile(r"""\s*(?:("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(-?\d+(?:\.\d+)?)|([A-Za-z_]\w*)|([(),\[\]]))""")
_WORDS = {"true": True, "false": False, "null": None}
_COMPARISONS = {"gte": ">=", "gt": ">", "lt": "<", "lte": "<=", "eq": "=", "neq": "<>"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of an SQL `WHERE` and the values of its placeholders."""

    sql: str
    values: tuple[Any, ...] = ()


class FilterError(ValueError):
    """The filter is invalid or not supported; the message says where."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str


def _time(value: Any) -> int:
    try:
        return micros(value)
    except (ValueError, TypeError) as error:
        raise FilterError(f"not a time: {value!r}") from error


def _lower(value: Any) -> str:
    return str(value).lower()


# Field -> (SQL expression, converter of its values)
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "start_time": ("start_us", _time),
    "end_time": ("end_us", _time),
    "id": ("id", _lower),
    "run_id": ("id", _lower),
    "trace_id": ("trace_id", _lower),
    "parent_run_id": ("parent_id", _lower),
    "is_root": ("(parent_id IS NULL)", bool),
    "name": ("name", str),
    "run_type": ("run_type", _lower),
    "status": ("status", _lower),
    "latency": ("((end_us - start_us) / 1e6)", float),
    "total_tokens": ("total_tokens", int),
    "total_cost": ("total_cost", float),
}


def compile_filter(text: str) -> Condition:
    """Compiles a filter to a condition. Raises FilterError."""
    tokens = _tokens(text)
    tree, rest = _parse(tokens, 0)
    if rest != len(tokens):
        raise FilterError(f"unexpected {tokens[rest]!r} after the filter's end")
    return _condition(tree)


def _tokens(text: str) -> list[Any]:
    tokens: list[Any] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise FilterError(f"cannot read the filter at character {at}")
        string, number, word, mark = match.groups()
        if string:
            tokens.append(("value", json.loads(string if string[0] == '"' else json.dumps(string[1:-1]))))
        elif number:
            tokens.append(("value", float(number) if "." in number else int(number)))
        elif word:
            tokens.append(("value", _WORDS[word]) if word in _WORDS else ("word", word))
        else:
            tokens.append((mark, mark))
        at = match.end()
    return tokens


def _parse(tokens: list[Any], at: int) -> tuple[Any, int]:
    """Parses one term at position `at`: a value, field, list or call `(name, [terms])`; returns it and its end."""
    if at >= len(tokens):
        raise FilterError("the filter ends too early")
    kind, value = tokens[at]
    if kind == "value":
        return value, at + 1
    if kind == "[":
        return _parse_many(tokens, at + 1, "]")
    if kind != "word":
        raise FilterError(f"unexpected {value!r} in the filter")
    if at + 1 < len(tokens) and tokens[at + 1][0] == "(":
        terms, end = _parse_many(tokens, at + 2, ")")
        return (value, terms), end
    return _Field(value), at + 1


def _parse_many(tokens: list[Any], at: int, closing: str) -> tuple[list[Any], int]:
    terms: list[Any] = []
    while True:
        if at < len(tokens) and tokens[at][0] == closing and not terms:
            return terms, at + 1
        term, at = _parse(tokens, at)
        terms.append(term)
        mark = tokens[at][0] if at < len(tokens) else "end"
        if mark == closing:
            return terms, at + 1
        if mark != ",":
            raise FilterError(f"expected a comma or {closing!r} in the filter")
        at += 1


def _condition(tree: Any) -> Condition:
    if not isinstance(tree, tuple):
        raise FilterError('a filter is a call such as eq(name, "x")')
    name, terms = tree
    if name in ("and", "or") and terms:
        parts = [_condition(term) for term in terms]
        sql = "(" + f" {name.upper()} ".join(part.sql for part in parts) + ")"
        return Condition(sql, tuple(value for part in parts for value in part.values))
    if name == "not" and len(terms) == 1:
        part = _condition(terms[0])
        return Condition(f"NOT {part.sql}", part.values)
    if len(terms) != 2 or not isinstance(terms[0], _Field) or terms[0].name not in _FIELDS:
        raise FilterError(f"{name}(…) with these terms is not understood")
    expression, read = _FIELDS[terms[0].name]
    if name == "in" and isinstance(terms[1], list):
        marks = ",".join("?" * len(terms[1]))
        return Condition(f"{expression} IN ({marks})", tuple(read(value) for value in terms[1]))
    if name not in _COMPARISONS or isinstance(terms[1], list | tuple | _Field):
        raise FilterError(f"{name}(…) is not understood")
    if terms[1] is None:
        return Condition(f"{expression} IS {'NOT ' if name == 'neq' else ''}NULL")
    return Condition(f"{expression} {_COMPARISONS[name]} ?", (read(terms[1]),))
