"""From what went wrong to ``ModelFailed``: one table for HTTP statuses, one for providers' error names.

Whether a failed call may be billed is decided here too, always against us: only where the provider cannot
have begun (no connection, a client error, an explicit overload) does the reservation come back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx2
import msgspec

from linestop import clock
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
"""Where servers put their reason, in this order; seen with OpenAI, Anthropic, vLLM, FastAPI, llama.cpp and gateways."""

_WRONG_SETUP = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
CAUGHT = (
    httpx2.HTTPError,
    httpx2.StreamError,
    msgspec.MsgspecError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the SDKs let through besides their own errors: a cut stream, a body that is not JSON, a deep one."""


def of_status(status: int) -> FailureClass:
    """Classify an HTTP status that is not a success. Unlisted client errors and redirects are permanent."""
    return _BY_STATUS.get(status) or ("availability" if status >= 500 else "permanent")


def of_error(error: Exception, who: str, *, answering: bool) -> ModelFailed:
    """Turn an exception of an SDK, of its transport or of our own decoding into the failure it means.

    ``answering`` says whether the response had begun: until then a ``ValueError`` is about the request.
    """
    if (found := _caused_by(error, (ModelFailed,))) is not None:
        return cast("ModelFailed", found)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _of_answer(error, status, who)
    # The SDKs wrap the transport's own error sometimes, and it wraps that of the layer below.
    cause = _caused_by(error, _TRANSPORT)
    if isinstance(cause, _NEVER_SENT):
        return ModelFailed("availability", f"{who} cannot be reached ({_named(cause)}); check base_url.")
    if isinstance(cause, _WRONG_SETUP):
        return ModelFailed("permanent", f"{who} cannot be asked ({_named(cause)}); check base_url and key.")
    if cause is not None:
        sentence = f"{who} broke off before the answer was whole ({_named(cause)})."
        return ModelFailed("availability", sentence, possibly_billed=True)
    if answering:
        sentence = f"{who} answered with something that is not its protocol ({_named(error)})."
        return ModelFailed("malformed", sentence, possibly_billed=True)
    return ModelFailed("permanent", f"The request to {who} cannot be written ({_named(error)}).")


def retold(failed: ModelFailed, sentence: str, kind: FailureClass | None = None) -> ModelFailed:
    """The same failure in other words, perhaps of another class."""
    return ModelFailed(
        kind or failed.kind, sentence, status=failed.status, retry_after_s=failed.retry_after_s,
        usage=failed.usage, possibly_billed=failed.possibly_billed, begun=failed.begun,
    )  # fmt: skip


def of_body(error: object, who: str) -> ModelFailed:
    """Turn an error that came inside a successful response (in a stream, or as a 200) into its failure."""
    text = str(error)
    fields = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
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
            kind, status = of_status(code), code
    sentence = f"{who} broke off with an error: {_sentence(fields or text)}"
    return ModelFailed(kind, sentence, status=status, possibly_billed=kind != "permanent")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read how long the provider asks us to wait: seconds, milliseconds or a date; never capped here."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            seconds = _until(text)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - clock.now().timestamp())
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    for _ in range(_CAUSES_MAX):
        if error is None or isinstance(error, kinds):
            return error
        error = error.__cause__
    return None


def _of_answer(error: Exception, status: int, who: str) -> ModelFailed:
    response = getattr(error, "response", None)
    headers = cast("Mapping[str, str]", getattr(response, "headers", {}))
    body = cast("object", getattr(error, "body", None))
    kind: FailureClass = "refusal" if getattr(error, "code", None) in _FILTERED else of_status(status)
    return ModelFailed(
        kind,
        f"{who} answered {status}: {_sentence(body)}",
        status=status,
        retry_after_s=retry_after_s(headers),
        possibly_billed=status == 408 or (status >= 500 and status not in _UNBILLED_ERRORS),
    )


def _sentence(body: object) -> str:
    """The provider's own words, without the envelope, bounded."""
    found: object = body
    for _ in range(_ENVELOPES_MAX):
        if isinstance(found, list):
            found = cast("list[object]", found)[0] if found else None
        elif isinstance(found, dict):
            fields = cast("dict[str, object]", found)
            inner = next((fields[key] for key in _REASONS if fields.get(key)), None)
            if inner is None:
                break
            found = inner
    if found is None or found in ("", {}):
        return "no reason given"
    try:
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):
        return "a reason that cannot be read"
    # Python's own JSON reader lets halves of characters through, which no event could hold.
    return text[:MESSAGE_CHARS_MAX].encode(errors="replace").decode()


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:MESSAGE_CHARS_MAX]}".removesuffix(": ")
