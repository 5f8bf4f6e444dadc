"""Run documents and pages: unusual JSON is read and kept byte for byte."""

import contextlib
import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lse_archive.runs.header import read_header, unwrap
from lse_archive.runs.pages import cut_page
from lse_archive.runs.scanner import NotARunError, check_json, elements, members

ID = "0190f0a0-0000-7000-8000-000000000001"
TRACE = "0190f0a0-0000-7000-8000-000000000002"
RUN = f'{{"id":"{ID}","start_time":"2026-01-02T10:00:00.000001Z"'.encode()

# Any JSON that Python writes, lone surrogates, NaN and huge numbers included.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " : ")])


def same(one: object, other: object) -> bool:
    return json.dumps(one) == json.dumps(other)  # NaN is not equal to itself


@given(st.lists(JSON, max_size=5), SPACES, st.booleans(), st.sampled_from([None, "", "next"]))
def test_a_page_is_split_as_json_parses_it(items, spaces, ascii_only, cursor):
    text = json.dumps({"items": items, "next_cursor": cursor}, separators=spaces, ensure_ascii=ascii_only)
    cut, found = cut_page(text.encode("utf-8", "surrogatepass"))
    assert found == (cursor or None)
    assert [run.decode("utf-8", "surrogatepass") for run in cut] == [
        json.dumps(item, separators=spaces, ensure_ascii=ascii_only) for item in items
    ]


@given(st.dictionaries(st.text(), JSON, max_size=5), SPACES)
def test_members_equal_those_of_json(value, spaces):
    found = members(json.dumps(value, separators=spaces).encode())
    assert same({key: json.loads(part) for key, part in found.items()}, value)


@given(st.lists(JSON, max_size=5), SPACES)
def test_elements_equal_those_of_json(value, spaces):
    assert same([json.loads(part) for part in elements(json.dumps(value, separators=spaces).encode())], value)


@given(st.lists(JSON, min_size=1, max_size=3), st.data())
def test_a_truncated_page_is_an_error(items, data):
    body = json.dumps({"items": items, "next_cursor": "x"}).encode()
    end = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(NotARunError):
        cut_page(body[:end])


@given(st.binary(max_size=200))
@example(b"[]")
@example(b'{"items":null}')
@example(b'{"items":{}}')
@example(b'{"items":[{,}]}')
@example(b'{"items":["\xed\xa0\x80]}')
@example(b"<html>upstream error</html>")
def test_a_body_that_is_not_a_page_is_refused(body):
    with pytest.raises(NotARunError):
        cut_page(body)


def test_a_truncated_string_is_refused_quickly():
    began = time.process_time()
    with pytest.raises(NotARunError):
        cut_page(b'{"items":[{"id":"' + b"a" * 3_000_000)
    with pytest.raises(NotARunError):
        cut_page(b'{"items":[{"id":"' + b'\\"a' * 1_000_000)
    assert time.process_time() - began < 20  # backtracking over the string would take too long


def test_pages_of_both_api_versions_are_split():
    assert cut_page(b'{"items":[{"a":1}, {"b":2}],"next_cursor":"c"}') == ([b'{"a":1}', b'{"b":2}'], "c")
    assert cut_page(b'{"runs":[{"a":1}],"cursors":{"next":"c","prev":null}}') == ([b'{"a":1}'], "c")
    assert cut_page(b'{"runs":[],"cursors":{"next":null}}') == ([], None)
    assert cut_page(b'{"items":[],"next_cursor":17}') == ([], None)


@pytest.mark.parametrize(
    "odd",
    [
        rb'"\ud800 \udfff\ud800"',
        rb'"\u0000"',
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"-0.0",
        b"9" * 5000,
        b'"\xff\xfe"',
        b'"tab\tand newline\n"',
        b"[" * 2000 + b"]" * 2000,
        b'{"a":1,"a":2}',
    ],
)
def test_unusual_documents_are_kept_with_their_page(odd):
    run = RUN + b',"inputs":' + odd + b"}"
    other = RUN + b',"inputs":{}}'
    assert cut_page(b'{"items":[%s, %s],"next_cursor":"c"}' % (run, other)) == ([run, other], "c")
    assert read_header(run) == read_header(other)
    assert check_json(run) == run


def test_a_page_with_a_run_that_is_not_json_is_split_on_request():
    odd = RUN + rb',"name":"\x"}'
    page = b'{"items":[%s,%s],"next_cursor":"c"}' % (odd, RUN + b"}")
    with pytest.raises(NotARunError):
        cut_page(page)
    assert cut_page(page, strict=False) == ([odd, RUN + b"}"], "c")
    for end in range(len(page)):
        with pytest.raises(NotARunError):
            cut_page(page[:end], strict=False)


@pytest.mark.parametrize(
    "end", [b'"Invalid date"', b'"10000-01-01T00:00:00Z"', b'"2026-01-02T24:00:00Z"', b"17", b"{}"]
)
def test_a_run_whose_end_cannot_be_read_has_ended(end):
    header = read_header(RUN + b',"end_time":' + end + b"}")
    assert header.end == header.start
    assert read_header(RUN + b',"end_time":null}').end is None
    assert read_header(RUN + b',"end_time":""}').end is None


def test_the_header_of_a_v2_run():
    header = read_header(
        RUN
        + f',"trace_id":"{TRACE.upper()}","end_time":"2026-01-03T00:00:00Z","status":"ERROR","is_root":false,'.encode()
        + f'"dotted_order":"20260101T235959999999Z{TRACE}.20260102T100000000001Z{ID}","total_tokens":12,'.encode()
        + f'"total_cost":0.5,"project_id":"{TRACE.upper()}"}}'.encode()
    )
    assert (header.run_id, header.trace_id) == (ID, TRACE)
    assert header.end is not None
    assert header.trace_start is not None
    assert header.end - header.start == 14 * 3600 * 1_000_000 - 1
    assert header.start - header.trace_start == 10 * 3600 * 1_000_000 + 2
    assert (header.is_root, header.failed, header.tokens, header.cost, header.project_id) == (
        False,
        True,
        12,
        0.5,
        TRACE,
    )


def test_the_header_of_a_v1_run():
    header = read_header(
        f'{{"id":"{ID}","start_time":"2026-01-02T10:00:00","parent_run_id":"{TRACE}","status":"success",'.encode()
        + f'"total_cost":"0.25","error":null,"session_id":"{TRACE}"}}'.encode()
    )
    assert (header.trace_id, header.end, header.is_root, header.failed) == (ID, None, False, False)
    assert (header.cost, header.project_id) == (0.25, TRACE)
    assert read_header(RUN + b',"error":"boom"}').failed
    assert read_header(RUN + b',"session_id":"the project"}').project_id is None


@pytest.mark.parametrize("number", [b'"much"', b"NaN", b"1e999", b"{}", b"true"])
def test_unusable_numbers_count_as_zero(number):
    header = read_header(RUN + b',"total_tokens":' + number + b',"total_cost":' + number + b"}")
    assert (header.tokens, header.cost) == (0, 0.0)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"id":"' + ID.encode() + b'"}',
        RUN,
        b'{"id":"../x","start_time":"2026-01-02T10:00:00Z"}',
        b'{"id":"' + ID.encode() + b'","start_time":"soon"}',
        b'{"id":7,"start_time":"2026-01-02T10:00:00Z"}',
        b"\x00\x01",
    ],
)
def test_a_document_that_is_not_a_run_is_refused(document):
    with pytest.raises(NotARunError):
        read_header(document)


def test_the_wrapper_of_older_tools_is_removed():
    inner = RUN + b', "odd": "\\ud800" }'
    assert unwrap(b'{"trace": ' + inner + b', "exported": 1}')[0] == inner
    assert unwrap(inner)[0] == inner
    assert unwrap(b"\xef\xbb\xbf" + RUN + b"}")[1].run_id == ID


# All fields of a header but those that filing needs.
NOT_NEEDED = ["end_time", "status", "dotted_order", "is_root", "parent_run_id", "parent_run_ids"]
NOT_NEEDED += ["project_id", "session_id", "error", "total_tokens", "total_cost", "trace"]


@given(st.dictionaries(st.sampled_from(NOT_NEEDED), JSON))
@example({"end_time": "0001-01-01T00:00:00+05:00", "dotted_order": "20161231T235960999999Z"})
@example({"end_time": "\ud800", "project_id": "\ud800", "dotted_order": "\ud800", "status": "\ud800"})
def test_a_field_that_filing_does_not_need_never_stops_filing(fields):
    document = RUN + b"".join(b",%s:%s" % (encoded(key), encoded(value)) for key, value in fields.items())
    header = read_header(document + b"}")
    assert (header.run_id, header.trace_id, header.start) == (ID, ID, read_header(RUN + b"}").start)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@example(b'"\x80"', "status")
@given(st.binary(max_size=60), st.sampled_from(["id", "status", "trace_id", "start_time", "end_time", "trace"]))
def test_bytes_of_a_field_are_read_or_refused(content, field):
    with contextlib.suppress(NotARunError):
        read_header(b'{"%s":%s,"id":"%s","start_time":"2026-01-02"}' % (field.encode(), content, ID.encode()))


@given(JSON)
def test_the_header_does_not_depend_on_the_payload(payload):
    document = RUN + b',"inputs":' + json.dumps(payload).encode() + b"}"
    assert read_header(document).run_id == ID
    assert check_json(document) == document
