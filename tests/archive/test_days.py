"""UTC days, windows and timestamps, to the microsecond."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_archive.days import (
    Window,
    compact_time,
    day_of,
    day_window,
    days_between,
    format_time,
    parse_day,
    parse_time,
    require_past,
    to_micros,
    today,
)
from lse_archive.errors import UsageError

DAY = date(2026, 1, 2)
MOMENTS = st.datetimes(timezones=st.just(UTC))


def test_a_day_is_half_open():
    window = day_window(DAY)
    assert window.start in window
    assert window.end - 1 in window
    assert window.start - 1 not in window
    assert window.end not in window
    assert (format_time(window.start), format_time(window.end)) == (
        "2026-01-02T00:00:00.000000Z",
        "2026-01-03T00:00:00.000000Z",
    )


@given(st.dates(max_value=date(9999, 12, 30)))
def test_every_microsecond_is_in_one_day(day):
    window = day_window(day)
    assert window.end == day_window(day + timedelta(days=1)).start
    assert day_of(window.start) == day_of(window.end - 1) == day


@given(MOMENTS)
def test_a_formatted_time_is_parsed_to_the_same_time(moment):
    micros = to_micros(moment)
    assert parse_time(format_time(micros)) == micros
    assert parse_time(moment.isoformat()) == micros
    text = compact_time(micros)
    assert datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC) == moment


@given(MOMENTS, st.integers(-23, 23))
def test_a_time_zone_is_respected(moment, hours):
    zone = timezone(timedelta(hours=hours))
    try:
        text = moment.astimezone(zone).isoformat()
    except OverflowError:
        return
    assert parse_time(text) == to_micros(moment)


def test_a_time_without_a_zone_is_utc_and_nanoseconds_are_cut_off():
    assert parse_time("2026-01-02T00:00:00.123456") == parse_time("2026-01-02T00:00:00.123456789Z")
    assert parse_time("2026-01-02t00:00:00z") == parse_time("2026-01-02T00:00:00Z")


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60Z", "2016-12-31 23:59:60.7", "2017-01-01T05:29:60,5+05:30"])
def test_a_leap_second_stays_in_its_day(text):
    assert parse_time(text) == day_window(date(2017, 1, 1)).start - 1


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+05:00"])
def test_text_that_is_not_a_time_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@pytest.mark.parametrize("text", ["", "2026-1-2", "20260102", "2026-01-02 ", "２０２６-01-02"])
def test_malformed_days_are_refused(text):
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        parse_day(text)
    with pytest.raises(UsageError, match="no such day"):
        parse_day("2026-02-30")
    assert parse_day("2026-01-02") == DAY


def test_only_past_days_are_archived():
    yesterday = today() - timedelta(days=1)
    assert require_past(yesterday) == yesterday
    for day in (today() + timedelta(days=1), today() + timedelta(days=2)):
        with pytest.raises(UsageError, match="cannot be archived yet"):
            require_past(day)


def test_a_range_requires_both_ends():
    assert list(days_between(DAY, DAY + timedelta(days=2))) == [DAY, date(2026, 1, 3), date(2026, 1, 4)]
    assert list(days_between(DAY, DAY)) == [DAY]
    assert Window(1, 1).start not in Window(1, 1)
