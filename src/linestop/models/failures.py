"""Translates errors into ``ModelFailed``: one table for HTTP statuses, one for the error names of providers.

Whether a failed request may be billed is decided here too, in case of doubt with yes: only where the provider cannot
have begun (no connection, a client error, an explicit overload) is the reservation released.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import cast

import httpx2
import msgspec

from linestop import clock
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import FailureClass, ModelFailed

MESSAGE_CHARS_MAX = 500
OVERLOADED = 529

_FILTERED = frozenset({"content_filter", "content_policy_violation"})
_UNBILLED_ERRORS = frozenset({503, OVERLOADED})
_BY_STATUS: dict[int, FailureClass] = {
    408: "availability",
    409: "availability",
    425: "availability",
    429: "rate_limit",
    499: "cancelled",
}
_BY_NAME: dict[str, tuple[FailureClass, int]] = {
    "overloaded_error": ("availability", OVERLOADED),
    "api_error": ("availability", 500),
    "server_error": ("availability", 500),
    "timeout_error": ("availability", 504),
    "rate_limit_error": ("rate_limit", 429),
    "rate_limit_exceeded": ("rate_limit", 429),
    "insufficient_quota": ("rate_limit", 429),
    "invalid_request_error": ("permanent", 400),
    "authentication_error": ("permanent", 401),
    "billing_error": ("permanent", 402),
    "permission_error": ("permanent", 403),
    "not_found_error": ("permanent", 404),
    "request_too_large": ("permanent", 413),
}

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_TRANSPORT = (httpx2.HTTPError, httpx2.StreamError, OSError)
_CAUSES_MAX = 4
_ENVELOPES_MAX = 4
_REASONS = ("error", "message", "detail", "msg", "error_message", "error_description", "errors", "reason", "title")
"""Fields that hold the reason, in this order; seen with OpenAI, Anthropic, vLLM, FastAPI, llama.cpp and gateways."""

_WRONG_SETUP = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
ERRORS_TO_CLASSIFY = (
    httpx2.HTTPError,
    httpx2.StreamError,
    msgspec.MsgspecError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Errors that the SDKs raise besides their own: for a cut stream, a body that is not JSON, or a too deep one."""


def class_of_status(status_code: int) -> FailureClass:
    """Classify an HTTP status that is not a success. Unlisted client errors and redirects are permanent."""
    return _BY_STATUS.get(status_code) or ("availability" if status_code >= 500 else "permanent")


def failure_of_error(error: Exception, requested_model: str, *, has_response: bool) -> ModelFailed:
    """Turn an exception of an SDK, of its transport or of linestop's decoding into the failure that it means.

    ``has_response`` tells whether the response had begun: until then a ``ValueError`` is about the request.
    """
    if (failure := _cause_of_kind(error, (ModelFailed,))) is not None:
        return cast("ModelFailed", failure)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _failure_of_response(error, status, requested_model)
    # The SDKs sometimes wrap the error of the transport, which wraps that of the layer below.
    cause = _cause_of_kind(error, _TRANSPORT)
    if isinstance(cause, _NEVER_SENT):
        return ModelFailed(
            "availability", f"{requested_model} cannot be reached ({_error_text(cause)}); check base_url."
        )
    if isinstance(cause, _WRONG_SETUP):
        return ModelFailed(
            "permanent", f"{requested_model} cannot be asked ({_error_text(cause)}); check base_url and key."
        )
    if cause is not None:
        sentence = f"{requested_model} broke off before the answer was whole ({_error_text(cause)})."
        return ModelFailed("availability", sentence, possibly_billed=True)
    if has_response:
        sentence = f"{requested_model} answered with something that is not its protocol ({_error_text(error)})."
        return ModelFailed("malformed", sentence, possibly_billed=True)
    return ModelFailed("permanent", f"The request to {requested_model} cannot be written ({_error_text(error)}).")


def reworded(failed: ModelFailed, sentence: str, kind: FailureClass | None = None) -> ModelFailed:
    """The same failure with another sentence, and perhaps another class."""
    return ModelFailed(
        kind or failed.kind,
        sentence,
        status=failed.status,
        retry_after_s=failed.retry_after_s,
        usage=failed.usage,
        possibly_billed=failed.possibly_billed,
        begun=failed.begun,
    )


def failure_of_error_body(error: object, requested_model: str) -> ModelFailed:
    """Turn an error that came inside a successful response (in a stream, or as a 200) into its failure."""
    text = str(error)
    fields = cast("JsonObject", error) if isinstance(error, dict) else {}
    kind: FailureClass = "unknown"
    status: int | None = None
    code = fields.get("code")
    names = (fields.get("type"), code)
    for name in names:
        if isinstance(name, str) and name in _BY_NAME:
            kind, status = _BY_NAME[name]
            break
    else:
        if isinstance(code, int) and 400 <= code < 600:
            kind, status = class_of_status(code), code
    sentence = f"{requested_model} broke off with an error: {_provider_message(fields or text)}"
    return ModelFailed(kind, sentence, status=status, possibly_billed=kind != "permanent")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read the wait that the provider asks for (seconds, milliseconds or a date), in seconds; never capped here."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            seconds = _seconds_until(text)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _seconds_until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - clock.now().timestamp())
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _cause_of_kind(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    for _ in range(_CAUSES_MAX):
        if error is None or isinstance(error, kinds):
            return error
        error = error.__cause__
    return None


def _failure_of_response(error: Exception, status: int, requested_model: str) -> ModelFailed:
    response = getattr(error, "response", None)
    headers = cast("Mapping[str, str]", getattr(response, "headers", {}))
    body = cast("object", getattr(error, "body", None))
    kind: FailureClass = "refusal" if getattr(error, "code", None) in _FILTERED else class_of_status(status)
    return ModelFailed(
        kind,
        f"{requested_model} answered {status}: {_provider_message(body)}",
        status=status,
        retry_after_s=retry_after_s(headers),
        possibly_billed=status == 408 or (status >= 500 and status not in _UNBILLED_ERRORS),
    )


def _provider_message(body: object) -> str:
    """The message of the provider without its envelope, bounded."""
    reason: object = body
    for _ in range(_ENVELOPES_MAX):
        if isinstance(reason, list):
            reason = cast("list[object]", reason)[0] if reason else None
        elif isinstance(reason, dict):
            fields = cast("dict[str, object]", reason)
            inner = next((fields[key] for key in _REASONS if fields.get(key)), None)
            if inner is None:
                break
            reason = inner
    if reason is None or reason in ("", {}):
        return "no reason given"
    try:
        text = reason if isinstance(reason, str) else json.dumps(reason, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):
        return "a reason that cannot be read"
    # Python's JSON decoder accepts unpaired surrogates, which an event cannot hold.
    return text[:MESSAGE_CHARS_MAX].encode(errors="replace").decode()


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:MESSAGE_CHARS_MAX]}".removesuffix(": ")
