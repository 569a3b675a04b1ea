"""Call a tool's function once and turn whatever comes back into a ``FunctionReply``.

This runs wherever the function runs (event loop, thread, child process); what the reply means for the run is
decided in ``perform_call`` alone. A returned value is kept, whatever is wrong with it: the effect took place, and an
unreadable result does not undo it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast, get_args

import httpx2
import msgspec

from linestop.off_loop import OFF_LOOP_BYTES, off_loop
from linestop.sandbox.http.egress_client import EgressClient
from linestop.sandbox.http.egress_guard import READ_METHODS
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool
from linestop.sandbox.tools.failures import EgressFailed, NotBegun, ToolFailed, ToolUnknown, WorkspaceError
from linestop.schemas.defaults import BLOB_BYTES_MAX
from linestop.schemas.json_values import JsonValue
from linestop.schemas.text.redaction import DEPTH_MAX
from linestop.schemas.text.value_size import RESULT_CONTAINERS_MAX, OversizedError, beginning, json_size, shown
from linestop.schemas.tool_contracts import Egress, ErrorType, ToolError

_REQUEST_TIMEOUT = 408
_TOO_MANY_REQUESTS = 429
_TOO_DEEP = f"its result is nested deeper than {DEPTH_MAX} levels: return a flatter one"
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BRACKET_RUNS = re.compile(rb"\[+|\]+")
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_INNER_LEVELS = 16
"""Number of innermost levels that are first removed from the whole text; few runs of brackets are left to count."""

_MENDED_BYTES_MAX = 4 * 1024 * 1024
"""Largest value that is mended if it is not JSON (each odd part becomes text); the limit bounds the time."""

_EXCERPT_BYTES_MAX = 65_536
"""How much of a result that is too long, too deep or not JSON is kept as text."""
_ERROR_TYPES = frozenset(get_args(ErrorType))
_RAISED_BY_CONTEXT = (EgressFailed, WorkspaceError)
"""Kinds of ``ToolFailed`` that ``ctx`` raises in a tool; they leave open what the tool had done before."""
_LONG_WAIT_S = 1e9
_MESSAGE_CHARS_MAX = 2_000
"""A message is cut to this length first, and to its final length after redaction, so that no half secret remains."""


class FunctionReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The outcome of one invocation: ``value`` as JSON with ``findings`` about it, or ``error``.

    ``unknown``: the function was interrupted, or reported that it does not know what took effect. ``begun`` is false if
    the worker was too busy to call it. ``cut_off``: the function did not return. ``egress`` and ``effect_sent`` are
    filled by a child process, which has its own HTTP client.
    """

    value: msgspec.Raw = msgspec.Raw(b"")
    findings: tuple[str, ...] = ()
    error: ToolError | None = None
    unknown: bool = False
    cut_off: bool = False
    egress: tuple[Egress, ...] = ()
    effect_sent: bool = False
    begun: bool = True


class _NotAResult(Exception):
    """Raised for a result that is only a promise (a coroutine, a generator): it is unknown what took effect."""


def not_begun(error: ToolFailed) -> FunctionReply:
    """The reply to a call whose function was never called."""
    return FunctionReply(error=_tool_error(error, known_by="not_begun"), begun=not isinstance(error, NotBegun))


async def in_own_task(call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - whatever a tool returns
    """Await ``call()`` in a new task, so that code that cancels its own task cancels no other.

    Its exceptions are raised here and nowhere else; some of them would end the event loop.
    """

    async def value_or_error() -> tuple[Any, BaseException | None]:
        try:
            return await call(), None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again outside of the task
            return None, error

    value, error = await asyncio.create_task(value_or_error())
    if error is not None:
        raise error
    return value


async def invoke_async(tool: AnyTool, ctx: Context, kwargs: dict[str, Any]) -> FunctionReply:
    """Await the function. Cancellation passes through; everything else becomes a reply."""
    try:
        value = await in_own_task(lambda: tool.fn(ctx, **kwargs))
        return await off_loop(_work_bytes(value), lambda: _value_reply(tool, value, ctx))
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # This task was not cancelled: the tool awaited something that was.
        return _error_reply(tool, error)
    except BaseException as error:  # noqa: BLE001 - a tool may raise anything, and none of it may end this process
        return _error_reply(tool, error)


def invoke_sync(tool: AnyTool, ctx: Context, kwargs: dict[str, Any]) -> FunctionReply:
    """Call the function; whatever it raises becomes a reply."""
    try:
        return _value_reply(tool, tool.fn(ctx, **kwargs), ctx)
    except BaseException as error:  # noqa: BLE001 - a tool may raise anything, and none of it may end this process
        return _error_reply(tool, error)


def with_egress(reply: FunctionReply, http: EgressClient) -> FunctionReply:
    """Add the requests that the HTTP client of a child process made."""
    return msgspec.structs.replace(reply, egress=http.requests, effect_sent=http.effect_sent)


def _work_bytes(value: object) -> int:
    """Estimate how many bytes there are to write, read and check, in a few milliseconds for any value."""
    if isinstance(value, httpx2.Response):
        return len(value.content)
    try:
        return json_size(value, bytes_max=OFF_LOOP_BYTES)
    except Exception:  # noqa: BLE001 - a value may have code of its own, which raises anything
        return OFF_LOOP_BYTES + 1


def _value_reply(tool: AnyTool, value: JsonValue, ctx: Context) -> FunctionReply:
    """The reply for a returned value."""
    encoded, finding = _json_of(value, ctx)
    if not finding:
        try:
            msgspec.json.decode(encoded, type=tool.returns)
        except RecursionError:
            finding = _TOO_DEEP
        except Exception as error:  # noqa: BLE001 - a declared type may have code of its own, which raises anything
            finding = f"its result does not fit the declared return type: {message_of(error)}"
    if too_deep(encoded):
        encoded, finding = _excerpt(encoded), _TOO_DEEP
    return FunctionReply(value=msgspec.Raw(encoded), findings=(f"tool {tool.name}: {finding}",) if finding else ())


def _json_of(value: JsonValue, ctx: Context) -> tuple[bytes, str]:
    """The value as JSON, whole or as much of it as can be kept, and a finding about it, or ""."""
    if inspect.isawaitable(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
        if inspect.iscoroutine(value) or inspect.isgenerator(value):
            value.close()
        hint = "declare it with async def" if inspect.isawaitable(value) else "return a list"
        raise _NotAResult(f"it returned a {type(value).__name__}, which is not a result: {hint}")
    if isinstance(value, httpx2.Response):
        encoded, finding = _response_json(value, ctx)
    else:
        try:
            # Measured before encoding, because encoding is one C call that nothing can interrupt.
            json_size(value, bytes_max=BLOB_BYTES_MAX)
            encoded, finding = msgspec.json.encode(value), ""
        except OversizedError as error:
            return _beginning(value), f"its result {error}"
        except RecursionError:
            return _beginning(value), _TOO_DEEP
        except Exception as error:  # noqa: BLE001 - a value may have code of its own, which raises anything
            return _storable(value), f"its result cannot be written as JSON ({message_of(error)})"
    if len(encoded) > BLOB_BYTES_MAX:
        return _excerpt(encoded), f"its result has {len(encoded)} bytes; at most {BLOB_BYTES_MAX}: return less"
    return encoded, finding


def _storable(value: JsonValue) -> bytes:
    """The value as JSON; each part that JSON cannot express is replaced by its ``repr``."""
    left = [_MENDED_BYTES_MAX]
    try:
        json_size(value, bytes_max=_MENDED_BYTES_MAX)
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=lambda each: _repr_text(each, left))
        json_text = json.dumps(plain, ensure_ascii=False, allow_nan=False, default=lambda each: _repr_text(each, left))
        # Decoded once more, as a reader of the log will do: what passes here can be stored.
        return msgspec.json.encode(msgspec.json.decode(json_text.encode("utf-8", "replace")))
    except Exception:  # noqa: BLE001 - whatever the error is, the rest of the value is lost
        return _beginning(value)


def _repr_text(value: object, left: list[int]) -> str:
    """The ``repr`` of a value; ``left`` holds how many characters all values together may still use."""
    text = replace_surrogates(shown(value, min(_EXCERPT_BYTES_MAX, left[0])))
    left[0] -= len(text)
    return text


def _beginning(value: object) -> bytes:
    """The beginning of a value's JSON, as a JSON string; the name of its class if it cannot be read at all."""
    try:
        text = beginning(value, _EXCERPT_BYTES_MAX)
    except Exception:  # noqa: BLE001 - a value may have code of its own, which raises anything
        text = f"a {type(value).__name__}"
    return msgspec.json.encode(text)


def _excerpt(encoded: bytes) -> bytes:
    """The beginning of encoded JSON, as a JSON string."""
    return msgspec.json.encode(encoded[:_EXCERPT_BYTES_MAX].decode(errors="ignore"))


def too_deep(encoded: bytes) -> bool:
    """Whether valid JSON is nested deeper than ``DEPTH_MAX``; checked where the tool ran, before any other reader."""
    if encoded.count(b"[") + encoded.count(b"{") <= DEPTH_MAX:
        return False
    brackets = _STRINGS.sub(b"", encoded).translate(_SQUARE, _NO_BRACKETS)
    for _ in range(_INNER_LEVELS):
        brackets = brackets.replace(b"[]", b"")
    depth = _INNER_LEVELS
    for found in _BRACKET_RUNS.finditer(brackets):
        start, end = found.span()
        if brackets[start] != ord("["):
            depth -= end - start
        elif (depth := depth + end - start) > DEPTH_MAX:
            return True
    return False


def _response_json(response: httpx2.Response, ctx: Context) -> tuple[bytes, str]:
    """The JSON body of an HTTP response that a tool returned as it came; the status decides whether the tool failed."""
    status = response.status_code
    message = f"{response.request.url.host} answered {status}"
    writes = sum(1 for request in ctx.http.requests if request.method not in READ_METHODS)
    if status >= 500 or status == _REQUEST_TIMEOUT or (status >= 300 and writes > 1):
        # This request, or one before it, may have taken effect, so the response does not prove that nothing did.
        raise EgressFailed(message, type="transient")
    if status == _TOO_MANY_REQUESTS:
        after = response.headers.get("retry-after", "")
        retry_after_s = float(after) if after.isdecimal() and len(after) < 7 else None
        raise ToolFailed(message, type="rate_limit", retry_safe=True, retry_after_s=retry_after_s)
    if status >= 300:
        raise ToolFailed(message, type="permanent")
    if not response.content:
        return b"null", ""
    if "json" not in response.headers.get("content-type", ""):
        return msgspec.json.encode(response.text), ""
    if _containers(response.content) > RESULT_CONTAINERS_MAX:
        finding = f"its result holds too many lists and objects; at most {RESULT_CONTAINERS_MAX}: return fewer"
        return _excerpt(response.content), finding
    try:
        msgspec.json.decode(response.content)
    except RecursionError:
        return _excerpt(response.content), _TOO_DEEP
    except (msgspec.DecodeError, ValueError) as error:
        return _excerpt(response.content), f"its result, the body of a response, cannot be read as JSON ({error})"
    return response.content, ""


def _containers(encoded: bytes) -> int:
    """The number of lists and objects in encoded JSON, or more if it is not JSON; brackets in strings do not count."""
    found = encoded.count(b"[") + encoded.count(b"{")
    if found <= RESULT_CONTAINERS_MAX:
        return found
    brackets = _STRINGS.sub(b"", encoded)
    return brackets.count(b"[") + brackets.count(b"{")


def _error_reply(tool: AnyTool, error: BaseException) -> FunctionReply:
    if isinstance(error, ToolUnknown):
        return FunctionReply(error=ToolError(type="transient", message=message_of(error)), unknown=True)
    if isinstance(error, ToolFailed):
        return FunctionReply(error=_tool_error(error, known_by="" if isinstance(error, _RAISED_BY_CONTEXT) else "tool"))
    if isinstance(error, _NotAResult):
        message = f"tool {tool.name}: {message_of(error)}"
        return FunctionReply(error=ToolError(type="permanent", message=message), unknown=True)
    message = f"tool {tool.name} raised {type(error).__name__}: {message_of(error)}"
    unknown = isinstance(error, asyncio.CancelledError)
    return FunctionReply(error=ToolError(type="permanent", message=message), unknown=unknown)


def _tool_error(error: ToolFailed, *, known_by: Literal["", "tool", "not_begun"]) -> ToolError:
    """The error with fields that the log can hold, whatever a subclass of ``ToolFailed`` put into them."""
    raised_type: Any = getattr(error, "type", "")
    kind: ErrorType = (
        cast("ErrorType", raised_type) if isinstance(raised_type, str) and raised_type in _ERROR_TYPES else "permanent"
    )
    retry_after_s: Any = getattr(error, "retry_after_s", None)
    is_usable = isinstance(retry_after_s, int | float) and 0 <= retry_after_s <= _LONG_WAIT_S
    return ToolError(
        type=kind,
        message=message_of(error),
        retry_safe=getattr(error, "retry_safe", False) is True,
        retry_after_s=float(retry_after_s) if is_usable else None,
        known_by=known_by,
    )


def message_of(error: BaseException) -> str:
    """The text of an error, cut to what an event can hold; the ``__str__`` of a tool's error may raise."""
    return replace_surrogates(shown(error, _MESSAGE_CHARS_MAX, show=str, otherwise="(no message)"))


def replace_surrogates(text: str) -> str:
    """``text`` without unpaired surrogates, which no event can hold."""
    return text.encode("utf-8", "replace").decode()
