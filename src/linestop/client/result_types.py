"""What a client gets back: small values made from a folded run. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from linestop.bus.run_outcomes_and_alerts import agent_of
from linestop.errors import InputError, NotFound, Refused
from linestop.schemas.events import NEVER, AskedCall, BlobRef, OpenStart, Provenance, Question, Text
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.state import Run
from linestop.schemas.tool_contracts import Tier, canonical

TEXT_CHARS_MAX = 120
"""How much of a task's text a line of a list shows."""


class StoppedRuns(msgspec.Struct, frozen=True, kw_only=True):
    """What became of stopping many runs: those this stop ended, those over by then, those that it could not stop."""

    stopped: tuple[str, ...] = ()
    over: int = 0
    failed: dict[str, str] = {}


class Submitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a task.

    ``kept``: the broker has it and nothing can lose it, but nobody has opened it yet.
    """

    run: str
    status: Literal["opened", "refused", "kept"]
    sentence: str = ""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stop that is in the run's log as event ``n``: from there nothing of the run can start.

    ``open`` lists the starts whose result was not known then: what may still be on the wire. ``already``:
    somebody else had stopped the run before. ``fenced_n``: the later event that cancelled what a first
    stop with ``drain`` lets end, 0 if none did. ``existed``: the run had events before its stop; one that had none is
    stopped before it begins. ``n`` is 0 if this credential may not read runs.
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
    """Something a run waits for a person to say, with everything that is needed to decide.

    ``kind`` says which word ends it: ``approval`` approve or deny; ``question`` and ``event`` answer;
    ``doubt`` resolve; ``spend`` approve or deny without a call. ``args`` are the exact canonical arguments.
    ``wider`` says in what the tool may do more than was agreed to before.
    ``effect_key`` is the key that the tool sends with the call, by which the other side can look it up.
    ``shown`` is the digest of all that is decided about; a decision that names it counts for nothing else.
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
    """One run in a list. ``status`` is how it ended, or the phase it is in, or ``paused``."""

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
    """A dead letter: something ``role`` could not handle; with ``subject`` and ``payload`` if it was a message."""

    seq: int
    role: str
    tenant: str
    run: str
    reason: str
    at: str = ""
    subject: str = ""
    payload: str = ""
    more: dict[str, Any] = {}


def status_of(run: Run) -> str:
    """How the run ended, or where it stands."""
    if run.sealed:
        return run.sealed.status
    if run.paused and not run.done:
        return "paused"
    return "queued" if run.queued and not run.done else str(run.phase)


def run_line(run: Run) -> RunLine:
    """Sum a run up for a list."""
    task = run.opened.task if run.opened else None
    return RunLine(
        run=run.run, tenant=run.tenant, agent=agent_of(run), status=status_of(run), text=_task(run),
        user=task.user if task else "", why=_why(run), turns=run.turn,
        calls=sum(1 for call in run.calls.values() if call.effects), cost_micros=run.spent_micros, events=run.n,
        opened_at=run.opened_at if run.opened else None, last_at=run.at if run.at != NEVER else None,
    )  # fmt: skip


def _task(run: Run) -> str:
    """The beginning of what the run was given to do."""
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
    """The arguments under question that are too long for an event and must be fetched."""
    return [text for call in _asked_calls(run) if isinstance(text := _args(call), BlobRef)]


def open_questions(run: Run, texts: Mapping[str, str]) -> list[OpenQuestion]:
    """All that the run asks a person; ``texts`` holds the fetched arguments by digest."""
    if run.done:
        return []
    questions = [_question(run, call, texts) for call in _asked_calls(run)]
    if run.spend_asked:
        spend = run.spend_asked
        so_far, limit = spend.so_far_micros / 1e6, spend.limit_micros / 1e6
        questions.append(
            OpenQuestion(
                kind="spend",
                tenant=run.tenant,
                run=run.run,
                agent=agent_of(run),
                task=_task(run),
                expires_at=spend.expires_at,
                text=f"The run has spent ${so_far:.4f}; beyond ${limit:.4f} it needs a person.",
            )
        )
    return [msgspec.structs.replace(question, shown=_digest(question)) for question in questions]


SHOWN_CHARS = 12
SHOWN_CHARS_MIN = 6
QUESTION_CHARS_SHOWN = 400


def _digest(question: OpenQuestion) -> str:
    """The digest of what a person decides about: another call, tool, argument, contract or text has another one."""
    decided = [
        question.kind, question.tenant, question.run, question.call, question.tool, question.args_sha256,
        question.contract_digest, question.text, question.options,
    ]  # fmt: skip
    return hashlib.sha256(canonical(decided)).hexdigest()[:SHOWN_CHARS]


def require_shown(question: OpenQuestion, shown: str) -> None:
    """Refuse a decision about something else than ``question``.

    Raises:
        InputError: it is too short to name anything.
        Refused: something else is asked now.
    """
    if len(shown) < SHOWN_CHARS_MIN:
        raise InputError(f"'{shown}' is too short for a digest: give the one that `linestop approvals` prints.")
    if question.shown.startswith(shown) or (question.args_sha256.startswith(shown) and not question.wider):
        return
    what = f"{question.tool}({question.args})" if question.tool else question.text
    what = what if len(what) <= QUESTION_CHARS_SHOWN else what[:QUESTION_CHARS_SHOWN] + "…"
    raise Refused(
        f"What run '{question.run}' asks is not what was shown as {shown}. It now asks about {what}: look at it with "
        f"`linestop approvals`, and decide with `--shown {question.shown}`."
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
    common: dict[str, Any] = {
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
            kind="event" if call.tool == "wait.for_event" else "question", text=asked.text, options=asked.options,
            expires_at=asked.expires_at, args_sha256=call.args_sha256, **common,
        )  # fmt: skip
    assert isinstance(asked, AskedCall), "a call that is asked about has its question"
    return OpenQuestion(
        kind="doubt" if call.asked_about_outcome else "approval", expires_at=asked.expires_at,
        args_sha256=asked.args_sha256,
        contract_digest=asked.contract_digest, tier=asked.tier, rule=asked.rule, reason=asked.reason,
        effect_key=call.judged.effect_key if call.judged else "",
        provenance=asked.provenance, egress=call.grant.egress if call.grant else (),
        cost_max_micros=asked.cost_max_micros, deciders=asked.deciders, quorum=asked.quorum,
        votes=tuple(sorted(call.votes)), wider=asked.wider, **common,
    )  # fmt: skip


def unknown_outcome_message(run: Run, call: CallState) -> str:
    """Why nobody can say any more in the log what became of a call, and what a person can do then."""
    key = call.judged.effect_key if call.judged else ""
    return (
        f"Run '{run.run}' is over, so call '{call.call}' ({call.tool}) stays unknown in its log and cannot be resolved "
        f"any more. Look up where it may have taken effect, by its key {key}, whether it did; give what is still to be "
        "done as a new task."
    )


def pick_question(run: Run, questions: list[OpenQuestion], call: str) -> OpenQuestion:
    """The question that a word about ``call`` ends; with an empty ``call``, the only one there is.

    Raises:
        NotFound: the run has no such call.
        InputError: no call is named and the run asks several things.
        Refused: the call, or the whole run, waits for nobody.
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
            raise Refused(f"Run '{run.run}'{over} asks nobody anything now; `linestop approvals` lists what waits.")
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
