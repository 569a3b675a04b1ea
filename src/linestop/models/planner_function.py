"""A planner that is a function, called in a thread, so that a slow function or a long plan never blocks the loop."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

import anyio
import msgspec

from linestop.daemon_threads import AllBusyError, DaemonThreads, NoThreadError
from linestop.schemas.defaults import ARGUMENTS_BYTES_MAX
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import Message, ModelFailed, ModelReply, ModelRequest, ToolCall, Usage
from linestop.schemas.text.value_size import OversizedError, json_size

PREFIX: Final = "python:"
PLAN_BYTES_MAX: Final = ARGUMENTS_BYTES_MAX
"""The largest plan as JSON: the same size as all arguments of one answer of a model."""

_AROUND_BYTES: Final = 1024 * 1024
"""An upper bound for the names and brackets around the counted texts."""

CALLS_AT_ONCE_MAX: Final = 64
"""Threads for planner functions. A function that never returns keeps its thread until the process ends."""

_threads = DaemonThreads("linestop planner function", threads_max=CALLS_AT_ONCE_MAX)


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The return value of a planner function: an answer, or calls as (tool, arguments)."""

    answer: str = ""
    calls: tuple[tuple[str, JsonObject], ...] = ()


PlannerFunction = Callable[[tuple[Message, ...]], Plan]
"""A pure function of the conversation so far: the same messages must give the same plan."""


async def call_function(name: str, function: PlannerFunction, request: ModelRequest) -> ModelReply:
    """Return the plan of the function as the answer of a model.

    Raises:
        ModelFailed: the function fails, returns no plan or a too large one, or takes longer than the request may.
    """
    try:
        with anyio.fail_after(request.deadline_s):
            return await _in_thread(lambda: _reply(name, function, request))
    except TimeoutError:
        sentence = f"The planner function has not returned within {request.deadline_s:g} s; a plan is computed quickly."
        raise ModelFailed("permanent", sentence) from None


def _reply(name: str, function: PlannerFunction, request: ModelRequest) -> ModelReply:
    try:
        returned = function(request.messages)
        # Measured before encoding, because encoding is one C call that nothing can interrupt.
        json_size(returned, bytes_max=PLAN_BYTES_MAX + _AROUND_BYTES)
        plan = msgspec.convert(msgspec.to_builtins(returned), Plan)
        calls = tuple(
            ToolCall(id=f"plan-{len(request.messages)}-{index}", name=tool, args=msgspec.json.encode(args).decode())
            for index, (tool, args) in enumerate(plan.calls)
        )
        size = len(plan.answer.encode()) + sum(len(call.name) + len(call.args.encode()) for call in calls)
    except OversizedError as error:
        raise ModelFailed("permanent", f"The plan that the planner function returned {error}.") from None
    except BaseException as error:
        # SystemExit is a mistake of the function, and must not end the process with all its runs.
        raise ModelFailed("permanent", f"The planner function failed: {type(error).__name__}.") from error
    if size > PLAN_BYTES_MAX:
        raise ModelFailed(
            "permanent",
            f"The plan that the planner function returned has too many bytes as JSON; at most {PLAN_BYTES_MAX}: "
            "return less, for instance the name of a file that a tool has written.",
        )
    return ModelReply(
        text=plan.answer,
        calls=calls,
        stop_reason="calls" if calls else "end",
        usage=Usage(),
        usage_reported=True,
        model=name,
    )


async def _in_thread(work: Callable[[], ModelReply]) -> ModelReply:
    """Return the result of ``work``; if the wait is cancelled, ``work`` continues and its plan is dropped."""
    try:
        return await _threads.run(work)
    except AllBusyError:
        sentence = f"{CALLS_AT_ONCE_MAX} planner functions have not returned: restart the planner."
        raise ModelFailed("permanent", sentence) from None
    except NoThreadError as error:
        raise ModelFailed("unknown", f"No thread could be started ({error}).") from None


def load_planner(name: str) -> PlannerFunction:
    """Import ``python:<module>.<function>``.

    Raises:
        ModelFailed: the module or function does not exist.
    """
    module, _, function = name.removeprefix(PREFIX).rpartition(".")
    try:
        function_object: PlannerFunction = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:
        # A module may raise anything while it is imported.
        sentence = f"The planner '{name}' cannot be imported ({type(error).__name__}: {error})."
        raise ModelFailed("permanent", sentence) from error
    if not callable(function_object):
        raise ModelFailed("permanent", f"The planner '{name}' is not a function.")
    return function_object
