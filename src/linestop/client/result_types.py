"""The values that a client returns, made from a folded run. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from linestop.bus.run_outcomes_and_alerts import agent_of
from linestop.errors import InputError, NotFound, Refused
from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.events import NEVER, AskedCall, BlobRef, OpenStart, Provenance, Question, Text
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.tool_contracts import Tier, canonical

TEXT_CHARS_MAX = 120
"""How many characters of a task's text a line of a list shows."""


class StoppedRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The result of stopping many runs: those stopped, how many were over already, and those that failed to stop."""

    stopped: tuple[str, ...] = ()
    over: int = 0
    failed: dict[str, str] = {}


class Submitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The status of a submitted task.

    ``kept``: the broker has stored the task and cannot lose it, but no validator has opened it yet.
    """

    run: str
    status: Literal["opened", "refused", "kept"]
    sentence: str = ""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stop that is in the run's log as event ``n``: from there nothing of the run can start.

    ``open`` lists the starts whose result was not known then and which may still take effect. ``already``: another
    stop was in the log before. ``fenced_n``: the later event that cancelled the calls that a first stop with ``drain``
    had let finish, 0 if there is none. ``existed``: the run had events before its stop; a run without events is stopped
    before it begins. ``n`` is 0 if this credential may not read runs.
    """

    run: str
    n: int
    by: str
    why: str
    open: tuple[OpenStart, ...] = ()
    already: bool = False
    fenced_n: int = 0
    existed: bool = True


class OpenQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question of a run that a person must decide, with everything needed to decide it.

    ``kind`` tells which decisions end it: ``approval`` approve or deny; ``question`` and ``event`` answer;
    ``doubt`` resolve; ``spend`` approve or deny without a call. ``args`` are the exact canonical arguments.
    ``wider`` tells in which respect the tool may do more than was approved before.
    ``effect_key`` is the key that the tool sends with the call, by which the other side can look it up.
    ``shown`` is the digest of everything that is decided about; a decision that names it counts for nothing else.
    """

    kind: Literal["approval", "question", "event", "doubt", "spend"]
    tenant: str
    run: str
    agent: str
    task: str = ""
    expires_at: datetime
    call: str = ""
    tool: str = ""
    args: str = ""
    args_sha256: str = ""
    contract_digest: str = ""
    effect_key: str = ""
    tier: Tier | None = None
    rule: str = ""
    reason: str = ""
    provenance: tuple[Provenance, ...] = ()
    egress: tuple[str, ...] = ()
    cost_max_micros: int = 0
    deciders: tuple[str, ...] = ()
    quorum: int = 1
    votes: tuple[str, ...] = ()
    text: str = ""
    options: tuple[str, ...] = ()
    shown: str = ""
    wider: str = ""


class RunLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run in a list. ``status`` is how the run ended, or its phase, or ``paused``."""

    run: str
    tenant: str
    agent: str
    status: str
    text: str = ""
    user: str = ""
    why: str = ""
    turns: int = 0
    calls: int = 0
    cost_micros: int = 0
    events: int = 0
    opened_at: datetime | None = None
    last_at: datetime | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter: a message (``subject``, ``payload``) or a run that ``role`` could not handle."""

    seq: int
    role: str
    tenant: str
    run: str
    reason: str
    at: str = ""
    subject: str = ""
    payload: str = ""
    more: JsonObject = {}


def status_of(run: Run) -> str:
    """How the run ended, or its phase, ``paused`` or ``queued``."""
    if run.sealed:
        return run.sealed.status
    if run.paused and not run.done:
        return "paused"
    return "queued" if run.queued and not run.done else str(run.phase)


def run_line(run: Run) -> RunLine:
    """Summarize a run for a list."""
    task = run.opened.task if run.opened else None
    return RunLine(
        run=run.run,
        tenant=run.tenant,
        agent=agent_of(run),
        status=status_of(run),
        text=_task(run),
        user=task.user if task else "",
        why=_why(run),
        turns=run.turn,
        calls=sum(1 for call in run.calls.values() if call.effects),
        cost_micros=run.spent_micros,
        events=run.n,
        opened_at=run.opened_at if run.opened else None,
        last_at=run.at if run.at != NEVER else None,
    )


def _task(run: Run) -> str:
    """The beginning of the run's task."""
    text = run.opened.task.text if run.opened else ""
    return text[:TEXT_CHARS_MAX] if isinstance(text, str) else ""


def _why(run: Run) -> str:
    if run.sealed:
        return run.sealed.why
    if run.stopped:
        return run.stopped.why
    if run.paused:
        return run.paused.why
    return run.queued.why if run.queued else ""


def blobs_in_questions(run: Run) -> list[BlobRef]:
    """The arguments in open questions that are too long for an event and must be fetched."""
    return [text for call in _asked_calls(run) if isinstance(text := _args(call), BlobRef)]


def open_questions(run: Run, texts: Mapping[str, str]) -> list[OpenQuestion]:
    """All questions that the run asks people; ``texts`` contains the fetched arguments by digest."""
    if run.done:
        return []
    questions = [_question(run, call, texts) for call in _asked_calls(run)]
    if run.spend_asked:
        spend = run.spend_asked
        so_far, limit = rounded_dollars(spend.so_far_micros), rounded_dollars(spend.limit_micros)
        questions.append(
            OpenQuestion(
                kind="spend",
                tenant=run.tenant,
                run=run.run,
                agent=agent_of(run),
                task=_task(run),
                expires_at=spend.expires_at,
                text=f"The run has spent {so_far}; beyond {limit} it needs a person.",
            )
        )
    return [msgspec.structs.replace(question, shown=_digest(question)) for question in questions]


SHOWN_CHARS = 12
SHOWN_CHARS_MIN = 6
QUESTION_CHARS_SHOWN = 400


def _digest(question: OpenQuestion) -> str:
    """The digest of what a person decides about: another call, tool, argument, contract or text changes it."""
    decided = [
        question.kind,
        question.tenant,
        question.run,
        question.call,
        question.tool,
        question.args_sha256,
        question.contract_digest,
        question.text,
        question.options,
    ]
    return hashlib.sha256(canonical(decided)).hexdigest()[:SHOWN_CHARS]


def require_shown(question: OpenQuestion, shown: str) -> None:
    """Refuse a decision about anything other than ``question``.

    Raises:
        InputError: ``shown`` is too short for a digest.
        Refused: the question has changed since.
    """
    if len(shown) < SHOWN_CHARS_MIN:
        raise InputError(f"'{shown}' is too short for a digest: give the one that `linestop approvals` prints.")
    if question.shown.startswith(shown) or (question.args_sha256.startswith(shown) and not question.wider):
        return
    subject = f"{question.tool}({question.args})" if question.tool else question.text
    subject = subject if len(subject) <= QUESTION_CHARS_SHOWN else subject[:QUESTION_CHARS_SHOWN] + "…"
    raise Refused(
        f"The question of run '{question.run}' is no longer the one shown as {shown}. It now asks about {subject}: "
        f"read it with `linestop approvals`, and decide with `--shown {question.shown}`."
    )


def _asked_calls(run: Run) -> list[CallState]:
    return [call for call in run.calls.values() if call.stage is Stage.ASKED and call.asked is not None]


def _args(call: CallState) -> Text:
    return call.judged.args if call.judged else ""


def _question(run: Run, call: CallState, texts: Mapping[str, str]) -> OpenQuestion:
    asked, args = call.asked, _args(call)
    args_text = (
        args if isinstance(args, str) else texts.get(args.sha256, f"[{args.bytes} bytes, SHA-256 {args.sha256}]")
    )
    common: JsonObject = {
        "tenant": run.tenant,
        "run": run.run,
        "agent": agent_of(run),
        "task": _task(run),
        "call": call.call,
        "tool": call.tool,
        "args": args_text,
    }
    if isinstance(asked, Question):
        return OpenQuestion(
            kind="event" if call.tool == "wait.for_event" else "question",
            text=asked.text,
            options=asked.options,
            expires_at=asked.expires_at,
            args_sha256=call.args_sha256,
            **common,
        )
    assert isinstance(asked, AskedCall), "a call that is asked about has its question"
    return OpenQuestion(
        kind="doubt" if call.asked_about_outcome else "approval",
        expires_at=asked.expires_at,
        args_sha256=asked.args_sha256,
        contract_digest=asked.contract_digest,
        tier=asked.tier,
        rule=asked.rule,
        reason=asked.reason,
        effect_key=call.judged.effect_key if call.judged else "",
        provenance=asked.provenance,
        egress=call.grant.egress if call.grant else (),
        cost_max_micros=asked.cost_max_micros,
        deciders=asked.deciders,
        quorum=asked.quorum,
        votes=tuple(sorted(call.votes)),
        wider=asked.wider,
        **common,
    )


def unknown_outcome_message(run: Run, call: CallState) -> str:
    """Why a call's unknown outcome can no longer be resolved in the log, and what a person can do."""
    key = call.judged.effect_key if call.judged else ""
    return (
        f"Run '{run.run}' is over, so the outcome of call '{call.call}' ({call.tool}) stays unknown in its log and can "
        f"no longer be resolved. Look up by its key {key}, where it may have taken effect, whether it did; submit what "
        "is still to be done as a new task."
    )


def pick_question(run: Run, questions: list[OpenQuestion], call: str) -> OpenQuestion:
    """The question that a decision about ``call`` ends; with an empty ``call``, the only question of the run.

    Raises:
        NotFound: the run has no such call.
        InputError: no call is named and the run asks several questions.
        Refused: the call, or the whole run, does not wait for a person.
    """
    unknown_calls = [
        each for each in run.calls.values() if each.fate == "unknown" and each.judged and call in {"", each.call}
    ]
    if run.done and unknown_calls:
        raise Refused(unknown_outcome_message(run, unknown_calls[0]))
    if not call:
        if len(questions) == 1:
            return questions[0]
        if not questions:
            over = " is over and" if run.done else ""
            raise Refused(f"Run '{run.run}'{over} asks no question now; `linestop approvals` lists the open questions.")
        calls = ", ".join(f"'{question.call}'" for question in questions)
        raise InputError(f"Name the call: run '{run.run}' asks about {calls}.")
    matching = next((question for question in questions if question.call == call), None)
    if matching is not None:
        return matching
    state = run.calls.get(call)
    if state is None:
        raise NotFound(f"Run '{run.run}' has no call '{call}'; `linestop show {run.run}` lists them.")
    where = "the run is over" if run.done else f"it is {state.stage}"
    raise Refused(f"Call '{call}' of run '{run.run}' does not wait for a person ({where}).")
