"""The tolerant scanner: one member of a run is cut out, and no other byte changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_archive.runs.scanner import NotARunError, cut_member

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["links", "a", '"links":null']), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("document", "rest", "value"),
    [
        (b'{"a":1,"links":{"x":"u"},"b":2}', b'{"a":1,"b":2}', b'{"x":"u"}'),
        (b'{"links":null}', b"{}", b"null"),
        (b'{"links":{} , "b":2}', b'{ "b":2}', b"{}"),
        (b'{ "b":{"links":null} ,\n "links" : null }', b'{ "b":{"links":null}  }', b"null"),
        (b'{"b":"\\"links\\":null","links":null}', b'{"b":"\\"links\\":null"}', b"null"),
        (b'{"links":1,"x":2,"links":2}', b'{"x":2}', b"2"),
        (b'{"links":1,"links":2}', b"{}", b"2"),
        (b'{"b":{"links":1}}', b'{"b":{"links":1}}', None),
        (b'{"b":"links"}', b'{"b":"links"}', None),
        # Documents that strict parsers reject.
        (b'{"b":"\\ud83d","links":{"a":"b"},"c":NaN}', b'{"b":"\\ud83d","c":NaN}', b'{"a":"b"}'),
        (b'{ "c":NaN ,\n "links" : null }', b'{ "c":NaN  }', b"null"),
        (b'{"c":"\x01","links":null}', b'{"c":"\x01"}', b"null"),
    ],
)
def test_one_member_is_cut(document: bytes, rest: bytes, value: bytes | None) -> None:
    assert cut_member(document, "links") == (rest, value)


@given(st.dictionaries(st.text(max_size=3), _VALUES), _VALUES, st.integers(0, 5), st.sampled_from([None, 1]))
def test_the_rest_is_the_document_without_the_member(
    fields: dict[str, object], value: object, at: int, indent: int | None
) -> None:
    items = [(key, one) for key, one in fields.items() if key != "links"]
    items.insert(at, ("links", value))
    document = json.dumps(dict(items), indent=indent).encode()
    rest, found = cut_member(document, "links")
    assert found == json.dumps(value, indent=indent).encode() or json.loads(found or b"") == value
    assert list(json.loads(rest).items()) == [item for item in items if item[0] != "links"]


def test_a_document_that_ends_too_early_is_refused() -> None:
    with pytest.raises(NotARunError):
        cut_member(b'{"links":{"a":"secret"', "links")
