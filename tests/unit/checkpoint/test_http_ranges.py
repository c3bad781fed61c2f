"""Ranges over HTTP: what a server says of waiting, of moving, and of what it sends."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from moegrow.checkpoint import http_ranges
from moegrow.checkpoint.http_ranges import (
    LONGEST_ASKED,
    Again,
    Patience,
    _asked_wait,
    _check_range,
    _next_address,
)
from moegrow.errors import MoegrowError


def answer(status, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=named, request=httpx2.Request("GET", "https://host/x"))


def test_a_wait_is_asked_for_in_seconds_as_a_date_or_by_a_rate_limit():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert _asked_wait({"Retry-After": " 7 "}) == 7
    assert 90 < _asked_wait({"Retry-After": soon}) <= 100
    assert _asked_wait({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert _asked_wait({"ratelimit": '"resolvers";r=0;t=55'}) == 55
    for silent in ({}, {"Retry-After": "soon"}, {"ratelimit": '"resolvers";r=3;t=55'}):
        assert _asked_wait(silent) is None


def test_a_wait_that_is_too_long_is_not_begun():
    with pytest.raises(MoegrowError, match="asks to wait"):
        Patience().after(1, Again("host answers 429", LONGEST_ASKED + 1))


def test_a_host_that_is_not_there_is_given_up_soon_and_one_that_was_lost_is_not(monkeypatch):
    monkeypatch.setattr(http_ranges, "FIRST_WAIT", 0)
    for error, most in (
        (httpx2.ConnectError, http_ranges.CONTACTS),
        (httpx2.ReadError, http_ranges.TRIES),
    ):
        tries = []

        def call(error=error, tries=tries):
            tries.append(1)
            raise error("gone")

        with pytest.raises((error, MoegrowError)):
            Patience().insist(call)
        assert len(tries) == most


def test_a_redirect_never_leads_from_an_encrypted_connection_to_another():
    assert _next_address("https://hub/a/b", "/c") == "https://hub/c"
    assert _next_address("http://hub/a", "https://other/c?x=1") == "https://other/c?x=1"
    for location in ("http://other/c", "file:///etc/passwd", "ftp://other/c"):
        with pytest.raises(MoegrowError, match="not encrypted"):
            _next_address("https://hub/a", location)


@pytest.mark.parametrize(
    "given",
    [
        answer(206, Content_Range="bytes 10-19/100"),
        answer(206, Content_Range="bytes 10-12/100"),
        answer(206, Content_Range="bytes 10-19/*"),
    ],
)
def test_an_answer_may_be_shorter_than_what_was_asked_for(given):
    _check_range(given, 100, 10, 20)


@pytest.mark.parametrize(
    "given",
    [
        answer(206, Content_Range="bytes 0-19/100"),
        answer(206, Content_Range="bytes 10-19/101"),
        answer(206),
        answer(200, Content_Length="100"),
        answer(204),
        answer(206, Content_Range="bytes 10-19/100", Content_Encoding="gzip"),
    ],
)
def test_an_answer_of_something_else_is_refused(given):
    with pytest.raises(MoegrowError):
        _check_range(given, 100, 10, 20)


def test_a_whole_file_is_an_answer_where_its_beginning_was_asked_for():
    _check_range(answer(200, Content_Length="100"), 100, 0, 20)
    with pytest.raises(MoegrowError, match="it was listed"):
        _check_range(answer(200, Content_Length="99"), 100, 0, 20)
