"""Stopping all open runs that a scope names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from linestop.client.result_types import StoppedRuns
from linestop.client.stop import DirectStop
from linestop.errors import LinestopError, PermissionDenied, Refused
from linestop.schemas.kill_switches import EVERYTHING
from linestop.schemas.messages import Control
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RunId, TenantId

if TYPE_CHECKING:
    from linestop.client.run_reader import RunReader

CONCURRENT_STOPS_MAX: Final = 32
"""How many runs are stopped concurrently."""

PASSES_MAX: Final = 3
"""How often the open runs are listed: a run that was being opened during the first pass is found in the second."""

Key = tuple[TenantId, RunId]


async def stop_scope(client: RunReader, scope: str, control: Control, *, tenant: TenantId | None) -> StoppedRuns:
    """Stop every open run of ``scope`` (see ``schemas.kill_switches``), of one tenant or of all."""
    stop = DirectStop(client.bus)
    stopped: list[str] = []
    failed: dict[str, str] = {}
    seen: set[Key] = set()
    over = 0

    async def stop_one(key: Key, limiter: anyio.Semaphore) -> None:
        nonlocal over
        try:
            state = await client.run(key[1], tenant=key[0])
            if not _is_in(state, scope):
                return
            if state.stopped is None and not state.done:
                await stop.stop_from(state, control)
                stopped.append(key[1])
            else:
                over += 1
        except PermissionDenied:
            raise
        except Refused:
            over += 1
        except LinestopError as error:
            failed[key[1]] = str(error)
        finally:
            limiter.release()

    for _ in range(PASSES_MAX):
        open_runs = [key for key in await client.bus.log().open_runs() if tenant in {None, key[0]} and key not in seen]
        if not open_runs:
            break
        seen.update(open_runs)
        limiter = anyio.Semaphore(CONCURRENT_STOPS_MAX)
        async with anyio.create_task_group() as tasks:
            for key in open_runs:
                await limiter.acquire()
                tasks.start_soon(stop_one, key, limiter)
    return StoppedRuns(stopped=tuple(sorted(stopped)), over=over, failed=failed)


def _is_in(state: Run, scope: str) -> bool:
    """Whether the scope includes this run. A run that is not opened yet matches only ``all`` and its tenant."""
    kind, _, name = scope.partition(":")
    if scope == EVERYTHING or (kind == "tenant" and name == state.tenant):
        return True
    opened = state.opened
    if opened is None:
        return False
    match kind:
        case "agent":
            return opened.agent.name == name
        case "user":
            return opened.task.user == name
        case "tool":
            return any(tool.name == name for tool in opened.tools)
        case _:
            return False
