"""Performs the executor's calls with the tools of a registry, all calls of a start at once."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator
from datetime import timedelta
from pathlib import Path

import anyio

from linestop import clock
from linestop.errors import NotFound
from linestop.sandbox.files.workspace import Workspace
from linestop.sandbox.http.egress_client import EgressClient
from linestop.sandbox.http.egress_guard import EgressPolicy
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool
from linestop.sandbox.tools.failures import ToolFailed
from linestop.sandbox.tools.perform_call import PerformLimits, perform, probe
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.performer_interfaces import CallWork
from linestop.schemas.tool_contracts import Contract, ErrorType, ToolError, ToolResult

PerformedCall = tuple[CallWork, ToolResult, float]
_log = logging.getLogger("linestop.tools")


class RegistryRunner:
    """Performs calls with the tools of ``registry``. ``workspaces`` is the folder that holds one folder per run."""

    def __init__(
        self,
        registry: Registry,
        workspaces: Path,
        *,
        egress: EgressPolicy | None = None,
        limits: PerformLimits | None = None,
    ) -> None:
        self._registry = registry
        self._workspaces = workspaces
        self._egress = egress or EgressPolicy()
        self._limits = limits or PerformLimits()
        self._calls_in_workspace: Counter[Path] = Counter()
        """How many calls use each workspace now."""

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[PerformedCall]:
        """Perform all calls at once; yield each with its result and its duration in seconds as it ends.

        Cancelling the iteration cancels or kills the running calls; the calls that had already ended are still yielded.
        """
        if len(works) == 1:
            yield await self._perform_timed(works[0])
            return
        send, receive = anyio.create_memory_object_stream[PerformedCall](len(works))

        async def perform_one(work: CallWork) -> None:
            send.send_nowait(await self._perform_timed(work))

        async with send, receive, anyio.create_task_group() as tasks:
            for work in works:
                tasks.start_soon(perform_one, work)
            for _ in works:
                try:
                    done = await receive.receive()
                except anyio.get_cancelled_exc_class():
                    for _ in range(receive.statistics().current_buffer_used):
                        yield receive.receive_nowait()
                    raise
                yield done

    async def _perform_timed(self, work: CallWork) -> PerformedCall:
        began = time.perf_counter()
        try:
            result = await self._perform(work)
        except Exception as error:  # noqa: BLE001 - an error of one call must not reach the others
            # A call that fails here must not cancel the calls beside it, whose outcome would then be unknown too.
            _log.exception("call %s of run %s could not be performed", work.call, work.run)
            result = _runner_error(work, error)
        return work, result, time.perf_counter() - began

    async def _perform(self, work: CallWork) -> ToolResult:
        if work.dry_run:
            description = {"dry_run": True, "tool": work.tool, "args_sha256": hashlib.sha256(work.args).hexdigest()}
            return ToolResult(outcome="succeeded", value=description)
        try:
            tool = self._registry.tool(work.tool)
        except NotFound:
            tool = None
        if tool is None:
            sentence = f"The tool '{work.tool}' is not here: deploy the one this run was opened with."
            return _not_begun(work, sentence, kind="permanent")
        if refused := _refused_by_grant(work, tool.contract):
            return refused
        with contextlib.ExitStack() as workspaces:
            try:
                workspace = workspaces.enter_context(self._workspace(work))
            except (OSError, ToolFailed) as error:
                _log.error("no workspace for call %s of run %s: %s", work.call, work.run, error)
                sentence = "The call was not begun: its workspace cannot be made; an operator must look at the disk."
                return _not_begun(work, sentence, kind="transient")
            return await self._perform_in_workspace(
                tool.with_contract(work.grant.applied_to(tool.contract)), work, workspace
            )

    @contextlib.contextmanager
    def _workspace(self, work: CallWork) -> Generator[Workspace]:
        """The workspace of the call's run; removed if no call of the run is left and it is empty."""
        workspace = Workspace.create(self._workspaces, work.tenant, work.run)
        self._calls_in_workspace[workspace.root] += 1
        try:
            yield workspace
        finally:
            self._calls_in_workspace[workspace.root] -= 1
            if not self._calls_in_workspace[workspace.root]:
                del self._calls_in_workspace[workspace.root]
                workspace.remove_if_empty()

    async def _perform_in_workspace(self, tool: AnyTool, work: CallWork, workspace: Workspace) -> ToolResult:
        deadline = clock.now() + timedelta(seconds=work.timeout_s)
        async with EgressClient(self._egress, deadline=deadline, start_by=work.start_by) as http:
            context = Context(
                tenant=work.tenant,
                run=work.run,
                call=work.call,
                attempt=work.attempt,
                key=work.key,
                user=work.user,
                start_by=work.start_by,
                deadline=deadline,
                workspace=workspace,
                http=http,
            )
            if work.probe:
                return await probe(tool, context, work.args, limits=self._limits)
            return await perform(tool, context, work.args, limits=self._limits)


def _refused_by_grant(work: CallWork, current: Contract) -> ToolResult | None:
    """The refusal of a call whose run was opened with another contract of the tool than the ``current`` one, or None.

    A probe changes nothing, and without one the outcome of its call would stay unknown: it may be made if the tool
    still has a probe.
    """
    if current.digest() == work.grant.contract_digest:
        return None
    if work.probe:
        no_probe_sentence = f"The tool '{work.tool}' has no probe any more."
        return None if current.probe else _not_begun(work, no_probe_sentence, kind="permanent")
    if wider := work.grant.widened_by(current):
        sentence = (
            f"The tool '{work.tool}' was not called: since this run was opened it may do more ({'; '.join(wider)}), "
            "which no person approved for this run."
        )
        return _not_begun(work, sentence, kind="permanent", widened=True)
    if errors := check_arguments(work.args, current).errors:
        sentence = f"The tool '{work.tool}' was changed since this run was opened and does not take these arguments: "
        return _not_begun(work, sentence + "; ".join(errors), kind="invalid")
    return None


def _not_begun(work: CallWork, why: str, *, kind: ErrorType, widened: bool = False) -> ToolResult:
    """The result of a call whose tool was not called; a probe that was not made leaves the outcome unknown."""
    if work.probe:
        return ToolResult(outcome="unknown", error=ToolError(type=kind, message=why))
    is_safe = kind in {"transient", "invalid"}
    error = ToolError(type=kind, message=why, retry_safe=is_safe, known_by="not_begun", widened=widened)
    return ToolResult(outcome="failed", error=error)


def _runner_error(work: CallWork, error: Exception) -> ToolResult:
    """The result of a call that failed in this process, not in its tool; the log of the process has the details."""
    is_safe = work.tier == "read" and not work.probe
    message = f"tool {work.tool} could not be performed to its end ({type(error).__name__}); an operator must look"
    tool_error = ToolError(type="permanent", message=message, retry_safe=is_safe)
    return ToolResult(outcome="failed" if is_safe else "unknown", error=tool_error, cost_micros=work.cost_max_micros)
