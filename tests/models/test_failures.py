"""Statuses, headers and error bodies become failures."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx2
import pytest

from linestop.models.failures import class_of_status, failure_of_error, failure_of_error_body, retry_after_s
from linestop.schemas.model_messages import FailureClass


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "permanent") for status in (302, 400, 401, 402, 403, 404, 405, 413, 422)),
        *((status, "availability") for status in (408, 409, 425, 500, 502, 503, 504, 529)),
        (429, "rate_limit"),
        (499, "cancelled"),
    ],
)
def test_a_status_has_one_class(status: int, kind: FailureClass) -> None:
    """Only a failure that may pass by itself is worth another attempt."""
    assert class_of_status(status) == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "9999999"}, 9_999_999.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_but_never_capped(headers: dict[str, str], seconds: float | None) -> None:
    """The planner decides the longest wait; an unreadable header counts as absent."""
    assert retry_after_s(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    """A date means the time from now until then, and zero when it has passed."""
    waited = retry_after_s({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert waited is not None
    assert 90 < waited <= 100
    assert retry_after_s({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "availability", 529),
        ({"type": "rate_limit_error", "message": "slow"}, "rate_limit", 429),
        ({"type": "invalid_request_error", "message": "no"}, "permanent", 400),
        ({"code": 502, "message": "upstream"}, "availability", 502),
        ({"code": "insufficient_quota"}, "rate_limit", 429),
        ({"type": "never_heard_of"}, "unknown", None),
        ("plain text", "unknown", None),
        (None, "unknown", None),
    ],
)
def test_an_error_inside_a_good_response_is_classified_by_name(
    error: object, kind: FailureClass, status: int | None
) -> None:
    """Providers report faults within a stream too; an unknown fault has the class ``unknown``."""
    failed = failure_of_error_body(error, "openai/x")
    assert (failed.kind, failed.status) == (kind, status)


def test_only_what_cannot_have_begun_is_not_billed() -> None:
    """A refused connection costs nothing; a broken one may."""
    refused = failure_of_error(httpx2.ConnectError("refused"), "openai/x", has_response=False)
    broken = failure_of_error(httpx2.RemoteProtocolError("cut"), "openai/x", has_response=True)
    assert (refused.kind, refused.possibly_billed) == ("availability", False)
    assert (broken.kind, broken.possibly_billed) == ("availability", True)


def test_a_request_that_cannot_be_written_is_permanent() -> None:
    """Once the answer has begun, the same exception means malformed."""
    before = failure_of_error(ValueError("surrogates not allowed"), "openai/x", has_response=False)
    after = failure_of_error(ValueError("not JSON"), "openai/x", has_response=True)
    assert (before.kind, before.possibly_billed) == ("permanent", False)
    assert (after.kind, after.possibly_billed) == ("malformed", True)
    illegal = failure_of_error(httpx2.LocalProtocolError("illegal header"), "openai/x", has_response=False)
    assert illegal.kind == "permanent"


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "model not loaded"}},
        {"message": "model not loaded"},
        {"detail": "model not loaded"},
        {"detail": [{"loc": ["body"], "msg": "model not loaded"}]},
        {"error": "model not loaded"},
        "model not loaded",
        {"errors": ["model not loaded"]},
        {"code": 400, "error": {"code": 400, "message": "model not loaded"}},
    ],
)
def test_the_providers_own_words_are_given_without_their_envelope(error: object) -> None:
    """For every server, a person reads a sentence and not a data structure."""
    assert str(failure_of_error_body(error, "openai/m")) == "openai/m broke off with an error: model not loaded"


@pytest.mark.parametrize(("error", "words"), [({"code": 7, "x": {"y": 1}}, '{"code": 7, "x": {"y": 1}}'), ({}, "{}")])
def test_an_error_without_words_is_shown_as_it_came(error: object, words: str) -> None:
    """An operator may know what it means."""
    assert str(failure_of_error_body(error, "openai/m")).endswith(words)
