"""Call a tool's function once and turn whatever comes back into a ``Reply``.

This runs wherever the function runs (event loop, thread, child process); what the reply means for the run is
decided in ``perform``, in one place.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any

import httpx2
import msgspec

from linestop.sandbox.context import Context
from linestop.sandbox.egress import EgressClient
from linestop.sandbox.failures import EgressFailed, ToolFailed, ToolUnknown
from linestop.sandbox.tool import AnyTool
from linestop.schemas.limits import BLOB_BYTES_MAX
from linestop.schemas.redact import DEPTH_MAX
from linestop.schemas.tools import Egress, ToolError

_REQUEST_TIMEOUT = 408
_TOO_MANY_REQUESTS = 429
_TOO_DEEP = f"its result is nested deeper than {DEPTH_MAX} levels: return a flatter one"
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_RUNS = re.compile(rb"\[+|\]+")
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_PEELED = 16
"""Innermost levels taken off at once, each over the whole text: what is left has few runs of brackets to count."""

_LONG = 1_000_000
"""A result of more bytes is checked in a thread: that takes tens of milliseconds."""
_LONG_MESSAGE = 2_000
"""A message is cut here at once and to its final length after redaction, so that no half secret remains."""


class Reply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one invocation gave: ``value`` as JSON, or ``error``.

    ``meant``: the tool said so itself, so it is believed. ``unknown``: nobody can say what took effect.
    ``egress`` and ``effect_sent`` are filled by a child process, which has an HTTP client of its own.
    """

    value: msgspec.Raw = msgspec.Raw(b"")
    error: ToolError | None = None
    meant: bool = False
    unknown: bool = False
    egress: tuple[Egress, ...] = ()
    effect_sent: bool = False


class _Unfit(Exception):  # noqa: N818 - carries one sentence to _failed
    """Raised for a result that the contract does not allow; the call itself was made."""


async def invoke_async(tool: AnyTool, ctx: Context, kwargs: dict[str, Any]) -> Reply:
    """Await the function. Cancellation passes through; everything else becomes a reply."""
    try:
        encoded = _encoded(await tool.fn(ctx, **kwargs))
        if len(encoded) > _LONG:
            return await asyncio.to_thread(_succeeded, tool, encoded)
        return _succeeded(tool, encoded)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled this task: the tool awaited something that was cancelled.
        return _failed(tool, error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a tool may raise anything
        return _failed(tool, error)


def invoke_plain(tool: AnyTool, ctx: Context, kwargs: dict[str, Any]) -> Reply:
    """Call the function; whatever it raises becomes a reply."""
    try:
        return _succeeded(tool, _encoded(tool.fn(ctx, **kwargs)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a tool may raise anything
        return _failed(tool, error)


def with_egress(reply: Reply, http: EgressClient) -> Reply:
    """Add what the HTTP client of a child process did."""
    return msgspec.structs.replace(reply, egress=http.requests, effect_sent=http.effect_sent)


def _encoded(value: Any) -> bytes:  # noqa: ANN401 - what a tool returned
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise _Unfit("it returned something to be awaited; declare it with async def")
    if isinstance(value, httpx2.Response):
        encoded = _body(value)
    else:
        try:
            encoded = msgspec.json.encode(value)
        except RecursionError:
            raise _Unfit(_TOO_DEEP) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise _Unfit(f"its result cannot be written as JSON ({error})") from None
    if len(encoded) > BLOB_BYTES_MAX:
        raise _Unfit(f"its result has {len(encoded)} bytes; at most {BLOB_BYTES_MAX}: return less")
    return encoded


def _succeeded(tool: AnyTool, encoded: bytes) -> Reply:
    try:
        msgspec.json.decode(encoded, type=tool.returns)
    except RecursionError:
        raise _Unfit(_TOO_DEEP) from None
    except msgspec.DecodeError as error:
        raise _Unfit(f"its result does not fit the declared return type: {error}") from None
    if too_deep(encoded):
        raise _Unfit(_TOO_DEEP)
    return Reply(value=msgspec.Raw(encoded))


def too_deep(encoded: bytes) -> bool:
    """Whether valid JSON is nested deeper than ``DEPTH_MAX``: found where the tool ran, so that nobody chokes on it."""
    if encoded.count(b"[") + encoded.count(b"{") <= DEPTH_MAX:
        return False
    brackets = _STRINGS.sub(b"", encoded).translate(_SQUARE, _NO_BRACKETS)
    for _ in range(_PEELED):
        brackets = brackets.replace(b"[]", b"")
    depth = _PEELED
    for found in _RUNS.finditer(brackets):
        start, end = found.span()
        if brackets[start] != ord("["):
            depth -= end - start
        elif (depth := depth + end - start) > DEPTH_MAX:
            return True
    return False


def _body(response: httpx2.Response) -> bytes:
    """The JSON body of an answer that a tool returned as it came; the status decides whether it failed."""
    status = response.status_code
    message = f"{response.request.url.host} answered {status}"
    if status == _TOO_MANY_REQUESTS:
        after = response.headers.get("retry-after", "")
        wait = float(after) if after.isdecimal() and len(after) < 7 else None
        raise ToolFailed(message, type="rate_limit", retry_safe=True, retry_after_s=wait)
    if status >= 500 or status == _REQUEST_TIMEOUT:
        # It may have taken effect before it broke, so the guard's record decides, not the tool's word.
        raise EgressFailed(message, type="transient")
    if status >= 300:
        raise ToolFailed(message, type="permanent")
    if not response.content:
        return b"null"
    if "json" in response.headers.get("content-type", ""):
        return response.content
    return msgspec.json.encode(response.text)


def _failed(tool: AnyTool, error: BaseException) -> Reply:
    if isinstance(error, ToolUnknown):
        return Reply(error=ToolError(type="transient", message=_message(error)), unknown=True)
    if isinstance(error, ToolFailed):
        told = ToolError(
            type=error.type,
            message=_message(error),
            retry_safe=error.retry_safe,
            retry_after_s=error.retry_after_s,
        )
        return Reply(error=told, meant=not isinstance(error, EgressFailed))
    if isinstance(error, _Unfit):
        message = f"tool {tool.name}: {_message(error)}"
    else:
        message = f"tool {tool.name} raised {type(error).__name__}: {_message(error)}"
    return Reply(error=ToolError(type="permanent", message=message))


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide that the tool failed
        text = "(no message)"
    return text[:_LONG_MESSAGE]
