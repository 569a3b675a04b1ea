"""The asynchronous client: everything a person or a service can ask of linestop, over one connection.

The client keeps no state that matters: it folds a run from the run's log, and sends tasks and control messages on
subjects that any NATS client may use (``docs/any-client.md``).
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack, overload

import anyio
import msgspec

from linestop.bus.stop_run import fence_number, stop_number
from linestop.client.dead_letters import DeadLetters
from linestop.client.kill_switches import KillSwitchClient
from linestop.client.live_updates import RunFollower
from linestop.client.outcome import Outcome
from linestop.client.result_types import DeadLetter, Receipt, StoppedRuns, Submitted, pick_question, require_shown
from linestop.client.sender import Sender
from linestop.client.stop import DirectStop, is_stop_of, no_such_run
from linestop.client.stop_scope import stop_scope
from linestop.errors import InputError, NotFound, PermissionDenied, Refused, TimedOut
from linestop.schemas import events, subjects
from linestop.schemas.broker_defaults import REPLY_WAIT_S
from linestop.schemas.defaults import DEFAULT_TENANT
from linestop.schemas.json_values import JsonObject
from linestop.schemas.kill_switches import switch_name
from linestop.schemas.messages import Control, Reply, Task, Verb, shorten, unknown_field
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import AgentName, RunId, TenantId, tenant_id

T = TypeVar("T")
Resolution = Literal["retry", "done", "stop"]
StopMode = Literal["fence", "drain"]
STOP_MODES: Final[dict[StopMode, events.StopMode]] = {"fence": events.StopMode.FENCE, "drain": events.StopMode.DRAIN}

STOP_VISIBLE_WITHIN_S: Final = 5.0
"""How long a replica may take to show a stop that a role has appended."""


class TaskOptions(TypedDict, total=False):
    """The optional fields of a task; see ``linestop.schemas.messages.Task``."""

    material: str
    key: str
    run: str
    user: str
    submitter: str
    labels: dict[str, str]
    thread: str
    priority: int
    dry_run: bool
    scope: tuple[str, ...] | None
    limits: dict[str, float]


class DecisionOptions(TypedDict, total=False):
    """Who sends a control message, why, and about which tenant's run. ``by`` is by default the client's ``person``.

    ``shown`` is the digest of the question as it was shown (``OpenQuestion.shown``): if the question has changed since,
    the decision is refused. Without it, a decision is about the question at the moment of the decision.
    """

    by: str
    why: str
    tenant: str
    shown: str


class Client(RunFollower):
    """One connection to linestop. Use ``async with Client.connect(...) as client``."""

    @property
    def operator(self) -> bool:
        """Whether this client has the operator's credential."""
        return self.identity.credential.user == "operator"

    # --- tasks -------------------------------------------------------------------------------------------

    async def submit(
        self,
        agent: str,
        text: str,
        *,
        tenant: str = DEFAULT_TENANT,
        wait_opened: bool = True,
        **options: Unpack[TaskOptions],
    ) -> Submitted:
        """Give an agent a task. On return the broker has stored it: it will be done or refused, whatever crashes.

        ``key`` makes it idempotent: the same key with the same task is the same run. With
        ``wait_opened`` the status says whether the task was accepted; without, or if no validator replies within 10
        seconds, the status is ``kept``. ``scope`` and ``limits`` can only restrict what the agent may do.

        Raises:
            InputError: agent, tenant or run is not a valid name, or an option has the wrong type.
            Unreachable: the broker does not answer; submitting again with the same key is safe.
            PermissionDenied: this credential may not submit.
        """
        if unknown := unknown_field(options, Task):
            raise InputError(f"The task cannot be sent: {unknown}.")
        try:
            task = msgspec.convert({**options, "text": text}, Task)
        except msgspec.ValidationError as error:
            raise InputError(f"The task is not valid: {error}.") from None
        wait_s = REPLY_WAIT_S if wait_opened else 0.0
        return await self._connected_sender.send_task(TenantId(tenant), AgentName(agent), task, wait_s=wait_s)

    @overload
    async def execute(
        self,
        agent: str,
        text: str,
        *,
        output: type[T],
        timeout_s: float | None = None,
        tenant: str = DEFAULT_TENANT,
        **options: Unpack[TaskOptions],
    ) -> Outcome[T]: ...

    @overload
    async def execute(
        self,
        agent: str,
        text: str,
        *,
        timeout_s: float | None = None,
        tenant: str = DEFAULT_TENANT,
        **options: Unpack[TaskOptions],
    ) -> Outcome[Any]: ...

    async def execute(
        self,
        agent: str,
        text: str,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        tenant: str = DEFAULT_TENANT,
        **options: Unpack[TaskOptions],
    ) -> Outcome[Any]:
        """Give an agent a task and wait until its run is over: ``submit`` and ``outcome`` in one.

        ``output`` is the type of ``outcome.answer``. With ``key`` it may be called again after any error.

        Raises:
            Refused: the task was refused.
            TimedOut: the run is not over after ``timeout_s``; it is still running.
            InputError, Unreachable, PermissionDenied: as ``submit`` and ``outcome``.
        """
        submitted = await self.submit(agent, text, tenant=tenant, **options)
        if submitted.status == "refused":
            raise Refused(submitted.sentence)
        return await self.outcome(submitted.run, output=output, timeout_s=timeout_s, tenant=tenant)

    # --- decisions ---------------------------------------------------------------------------------------

    async def approve(self, run: str, call: str = "", **options: Unpack[DecisionOptions]) -> Reply:
        """Approve exactly what the run asks now; without ``call``, its only question.

        Signed with the key of ``by`` if there is one in ``<dir>/people``.

        Raises:
            NotFound: there is no such run or call.
            InputError: the run asks several questions and no ``call`` is named.
            Refused: the call does not wait for a person, the question expired, or ``by`` may not decide.
            TimedOut: no approver replied; the decision is stored and takes effect when one runs.
            PermissionDenied: this credential may not decide.
        """
        return await self._send_decision("approve", run, Control(call=call), options)

    async def deny(self, run: str, call: str = "", **options: Unpack[DecisionOptions]) -> Reply:
        """Deny the call; the model reads ``why``. Errors as ``approve``."""
        return await self._send_decision("deny", run, Control(call=call), options)

    async def edit(self, run: str, args: JsonObject, *, call: str = "", **options: Unpack[DecisionOptions]) -> Reply:
        """Replace a call's arguments and approve the new ones; asked again where the policy requires two people.

        Errors as ``approve``; also ``Refused`` if these arguments are not valid for the tool: the question stays open.
        """
        return await self._send_decision("edit", run, Control(call=call, args=args), options)

    async def answer(self, run: str, answer: object, *, call: str = "", **options: Unpack[DecisionOptions]) -> Reply:
        """Answer a question of the model, or deliver the event it waits for. Errors as ``approve``."""
        return await self._send_decision("answer", run, Control(call=call, answer=answer), options)

    async def event(self, run: str, name: str, data: object = None, **options: Unpack[DecisionOptions]) -> Reply:
        """Report an event to a run: to the call that waits for it (``wait.for_event``), or to the first that will.

        The model reads ``data``. A run stores a few reports for which no call waits yet.

        Raises:
            Refused: the run is over, or has stored as many reports as it may.
            NotFound, TimedOut, PermissionDenied: as ``approve``.
        """
        if not name:
            raise InputError("Give the name of the event.")
        await self.run(run, tenant=options.get("tenant", DEFAULT_TENANT))
        return await self._send_control(
            "answer", run, Control(event=name, answer={} if data is None else data), options
        )

    async def resolve(
        self, run: str, action: Resolution, *, call: str = "", result: object = None, **options: Unpack[DecisionOptions]
    ) -> Reply:
        """Decide about a call whose outcome is unknown. Errors as ``approve``.

        ``retry``: perform the call again. ``done``: it took effect, and the model reads ``result``. ``stop``: end the
        run.
        """
        return await self._send_decision("resolve", run, Control(call=call, action=action, result=result), options)

    async def _send_decision(self, verb: Verb, run: str, control: Control, options: DecisionOptions) -> Reply:
        """Bind a decision to the run's question at this moment, and send it."""
        state = await self.run(run, tenant=options.get("tenant", DEFAULT_TENANT))
        question = pick_question(state, await self.questions_of(state), control.call)
        if shown := options.get("shown", ""):
            require_shown(question, shown)
        bound = msgspec.structs.replace(
            control,
            call=question.call,
            args_sha256=question.args_sha256,
            contract_digest=question.contract_digest,
            expires_at=question.expires_at,
        )
        return await self._send_control(verb, run, bound, options)

    async def _send_control(self, verb: Verb, run: str, control: Control, options: DecisionOptions) -> Reply:
        message = msgspec.structs.replace(
            control, by=options.get("by") or self.person, why=options.get("why", ""), via=self.name
        )
        return await self._connected_sender.send_control(
            TenantId(options.get("tenant", DEFAULT_TENANT)), RunId(run), verb, message
        )

    # --- stopping ----------------------------------------------------------------------------------------

    async def stop(
        self, run: str, *, mode: StopMode = "fence", beforehand: bool = True, **options: Unpack[DecisionOptions]
    ) -> Receipt:
        """Stop a run; when this returns, nothing of it can start any more.

        Open starts are cancelled (``fence``) or may finish until their ``done_by`` (``drain``). With the operator's
        credential the client appends the stop to the log itself, even if no actor is alive; with another, the first
        role that sees the stop appends it. A run that does not exist yet is stopped before it begins, unless
        ``beforehand`` is false. Stopping twice is harmless; the second stop may cancel calls that the first let finish.

        Raises:
            NotFound: there is no such run, and ``beforehand`` is false.
            InputError: tenant or run is not a valid name, or there is no such mode.
            Refused: the run is over.
            TimedOut: no role has handled the stop yet; it is stored, and the roles will handle it first.
            Unreachable: the broker does not answer; stopping again is safe.
        """
        tenant, run_id = tenant_id(options.get("tenant", DEFAULT_TENANT)), subjects.run_id(run)
        if mode not in STOP_MODES:
            raise InputError(f"There is no stop mode '{mode}': use {' or '.join(STOP_MODES)}.")
        control = shorten(
            Control(
                by=options.get("by") or self.person, why=options.get("why", ""), via=self.name, mode=STOP_MODES[mode]
            )
        )
        if self.operator:
            state, already = await DirectStop(self.bus).stop(tenant, run_id, control, beforehand=beforehand)
            return _receipt(state, already=already)
        if not beforehand and not await self._may_exist(tenant, run_id):
            raise no_such_run(tenant, run_id)
        try:
            await self._connected_sender.send_control(tenant, run_id, "stop", control)
        except TimedOut:
            # The reply is a courtesy and may be lost; the log is not.
            stopped_run = await self._stopped_run(tenant, run_id, within_s=0.0)
            if stopped_run is None:
                raise
        else:
            stopped_run = await self._stopped_run(tenant, run_id, within_s=STOP_VISIBLE_WITHIN_S)
        if stopped_run is None:
            return Receipt(run=run, n=0, by=control.by, why=control.why)
        return _receipt(stopped_run, already=not is_stop_of(stopped_run, control))

    async def stop_all(
        self, scope: str = "all", *, mode: StopMode = "fence", **options: Unpack[DecisionOptions]
    ) -> StoppedRuns:
        """Stop every open run that ``scope`` names; needs the operator's credential.

        ``scope`` is written as a kill switch: ``all``, ``tenant:NAME``, ``agent:NAME``, ``user:NAME`` or ``tool:NAME``
        (the runs that may use that tool); with ``tenant`` only that tenant's. The open runs are listed again for runs
        that were opened meanwhile; a closed kill switch prevents further ones.

        Raises:
            InputError: there is no such scope or mode.
            PermissionDenied: the credential is not the operator's.
            Unreachable: the broker does not answer; stopping again is safe.
        """
        if not self.operator:
            raise PermissionDenied("Only the operator's credential stops many runs; connect with as_='operator'.")
        if mode not in STOP_MODES:
            raise InputError(f"'{mode}' is not a stop mode: use {' or '.join(STOP_MODES)}.")
        tenant = options.get("tenant", "")
        control = shorten(
            Control(
                by=options.get("by") or self.person, why=options.get("why", ""), via=self.name, mode=STOP_MODES[mode]
            )
        )
        return await stop_scope(self, switch_name(scope), control, tenant=tenant_id(tenant) if tenant else None)

    # --- kill switches -----------------------------------------------------------------------------------

    @property
    def kill_switches(self) -> KillSwitchClient:
        """Which kill switches are closed, and, with the operator's credential, closing and opening them."""
        return KillSwitchClient(self.bus.kill_switches())

    async def _may_exist(self, tenant: TenantId, run: RunId) -> bool:
        """Whether the run has an event, as far as this credential may know."""
        try:
            return await self.bus.log().head(tenant, run) is not None
        except PermissionDenied:
            return True

    async def _stopped_run(self, tenant: TenantId, run: RunId, *, within_s: float) -> Run | None:
        """The run with its stop, if this credential may read runs and a replica shows it in time."""
        try:
            with anyio.move_on_after(within_s):
                async with contextlib.aclosing(self.watch(run, tenant=tenant)) as states:
                    async for state, _ in states:
                        if state.stopped is not None:
                            return state
            state = await self.run(run, tenant=tenant)
        except (PermissionDenied, NotFound):
            return None
        return state if state.stopped is not None else None

    async def pause(self, run: str, **options: Unpack[DecisionOptions]) -> Reply:
        """Start nothing of the run until ``resume``; deadlines keep running.

        Raises:
            Refused: there is no such run, or it is over or paused already.
            TimedOut: no approver replied; the pause is stored and takes effect when one runs.
        """
        return await self._send_control("pause", run, Control(), options)

    async def resume(self, run: str, **options: Unpack[DecisionOptions]) -> Reply:
        """Resume a paused run. Errors as ``pause``."""
        return await self._send_control("resume", run, Control(), options)

    # --- dead letters ------------------------------------------------------------------------------------

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first. Needs the operator's credential."""
        return await DeadLetters(self.bus.connection).all()

    async def dead_letter(self, seq: int) -> DeadLetter:
        """One dead letter by its number.

        Raises:
            NotFound: there is no such dead letter.
        """
        return await DeadLetters(self.bus.connection).one(seq)

    async def requeue(self, seq: int) -> DeadLetter:
        """Send a dead letter's message again, or wake the role that gave up; the dead letter stays.

        Raises:
            NotFound: there is no such dead letter.
            InputError: the dead letter contains nothing that can be sent again.
        """
        return await DeadLetters(self.bus.connection).requeue(seq)

    @property
    def _connected_sender(self) -> Sender:
        if self._sender is None:
            raise InputError("The client is not connected: use it as `async with Client.connect(...) as client`.")
        return self._sender


def _receipt(state: Run, *, already: bool) -> Receipt:
    """The receipt of the run's first stop."""
    event = state.stopped
    assert event is not None, "a receipt is for a stopped run"
    n, fenced_n = stop_number(state), fence_number(state)
    return Receipt(
        run=state.run,
        n=n,
        by=event.by,
        why=event.why,
        open=event.open,
        already=already,
        fenced_n=fenced_n,
        existed=n > 1,
    )
