"""The validator's verdict on single calls: tool exists and is granted, strict arguments, loops, repeated effects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from linestop.schemas.agents import AgentVersion
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.defaults import WAIT_MAX_S
from linestop.schemas.effect_key import effect_key
from linestop.schemas.events import BlobRef, JudgedCall, LimitHit, Policy, ToolGrant
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.provenance.argument_origins import has_untrusted
from linestop.schemas.provenance.run_sources import provenance
from linestop.schemas.run.call_states import CallState, ProposalState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.phases import Phase
from linestop.schemas.tool_contracts import TRACED_TIERS, may_have_taken_effect

WAIT_OVERDUE_MAX_S = 60.0
"""A moment that passed while the model was thinking is accepted; the wait is then over at once."""

TOKENIZING_COST = 8
NAMES_SHOWN_MAX = 20
RECORDED = "This was done already; the answer is the recorded one."


def judge(
    run: Run, proposal: ProposalState, agent: AgentVersion, texts: Mapping[str, bytes], *, now: datetime
) -> tuple[JudgedCall, ...]:
    """Judge every pending call of ``proposal``, each with the verdicts on those before it."""
    verdicts: list[JudgedCall] = []
    for call in proposal.calls:
        if call.stage is Stage.PENDING:
            verdicts.append(_judge(run, call, agent, texts, before=verdicts, now=now))
    return tuple(verdicts)


def judging_bytes(run: Run) -> int:
    """How many bytes of outside data it takes to judge the present proposal; 0 if there is none to judge."""
    if run.phase is not Phase.JUDGING or run.proposal is None:
        return 0
    pending = [call for call in run.proposal.calls if call.stage is Stage.PENDING]
    size = sum(c.raw_args.bytes if isinstance(c.raw_args, BlobRef) else len(c.raw_args) for c in pending)
    if any(call.grant is not None and (call.grant.tier in TRACED_TIERS or call.grant.egress) for call in pending):
        task = run.opened.task.text if run.opened else ""
        # Splitting a text into tokens takes as long as comparing many times as much text.
        size = TOKENIZING_COST * (size + (len(task) if isinstance(task, str) else 0))
        size += sum(len(call.outcome_text) for call in run.calls.values())
    return size


def judge_edit(run: Run, call: CallState, args: bytes, agent: AgentVersion, *, now: datetime) -> tuple[str, ...]:
    """Return why a call would not pass with the arguments that a person wants instead; empty if it would pass."""
    # The origin of the values decides nothing here and takes time to find: only calls of a higher tier are traced.
    grant = (
        msgspec.structs.replace(call.grant, tier="reversible")
        if call.grant and call.grant.tier in TRACED_TIERS
        else call.grant
    )
    edited = replace(call, raw_args=args.decode(), stage=Stage.PENDING, grant=grant)
    verdict = _judge(run, edited, agent, {}, before=[], now=now)
    return () if verdict.verdict == "pass" else verdict.errors


def _judge(  # noqa: PLR0913 - one verdict needs all of it
    run: Run,
    call: CallState,
    agent: AgentVersion,
    texts: Mapping[str, bytes],
    *,
    before: list[JudgedCall],
    now: datetime,
) -> JudgedCall:
    raw = _raw_args(call, texts)
    raw_sha256 = hashlib.sha256(raw).hexdigest()

    def reject(*errors: str) -> JudgedCall:
        return JudgedCall(call=call.call, tool=call.tool, verdict="reject", errors=errors, raw_args_sha256=raw_sha256)

    contract, grant = agent.tool(call.tool), call.grant
    if grant is None or contract is None:
        return reject(_unknown_tool_message(run, call.tool))
    if excess := _exceeded_call_limit(run, call, grant, before):
        sentence, limit = excess
        return msgspec.structs.replace(reject(sentence), limit=limit)
    checked = check_arguments(raw, contract)
    if checked.args is None:
        return reject(*checked.errors)
    until = _wait_until(call.tool, checked.args, now) if grant.kind == "wait" else None
    if isinstance(until, str):
        return reject(until)
    args_sha256 = hashlib.sha256(checked.args).hexdigest()
    key = effect_key(f"{run.tenant}/{run.run}", call.tool, checked.args)
    earlier = [c for c in run.judged_calls.of_effect(key) if c.call != call.call]
    repeat = _check_repetition(run, grant, earlier, key=key, before=before)
    if repeat.verdict == "pass" and (duplicate := _duplicate_question(run, grant, key=key, before=before)):
        return reject(duplicate)
    lines = provenance(run, contract, msgspec.json.decode(checked.args), agent)
    return JudgedCall(
        call=call.call,
        tool=call.tool,
        verdict=repeat.verdict,
        errors=repeat.errors,
        args=checked.args.decode(),
        args_sha256=args_sha256,
        raw_args_sha256=raw_sha256,
        effect_key=key,
        tier=grant.tier,
        provenance=lines,
        flags=("untrusted-value",) if has_untrusted(lines) else (),
        recorded_n=repeat.recorded_n,
        wait_until=until,
    )


def _raw_args(call: CallState, texts: Mapping[str, bytes]) -> bytes:
    if isinstance(call.raw_args, BlobRef):
        return texts.get(call.raw_args.sha256, b"")
    return call.raw_args.encode()


def _unknown_tool_message(run: Run, name: str) -> str:
    names = [grant.name for grant in run.opened.tools] if run.opened else []
    listed = ", ".join(names[:NAMES_SHOWN_MAX]) or "none"
    return f"There is no tool '{name[:80]}' in this run; the tools are: {listed}."


def _exceeded_call_limit(
    run: Run, call: CallState, grant: ToolGrant, before: list[JudgedCall]
) -> tuple[str, LimitHit | None] | None:
    """Return why this tool may not be called once more, and which limit forbids it; None if it may."""
    limits = run.limits
    if run.proposal and len(run.proposal.calls) > limits.proposal_calls_max:
        return f"At most {limits.proposal_calls_max} calls fit into one answer; propose fewer.", None
    if run.events_left <= 0:
        hit = LimitHit(name="events_max", value=run.n, max_value=limits.events_max)
        return "The run has used up its events; no further call can be made.", hit
    # A call is judged again after an edit: it does not count against itself.
    itself = call.call in run.calls and run.calls[call.call].has_passed
    made = run.judged_calls.passed.total() - itself
    made += sum(1 for verdict in before if verdict.verdict == "pass")
    if made >= limits.calls_max:
        hit = LimitHit(name="calls_max", value=made + 1, max_value=limits.calls_max)
        return f"The run has used all of its {limits.calls_max} calls.", hit
    passed = run.judged_calls.passed[call.tool] - itself
    passed += sum(1 for verdict in before if verdict.tool == call.tool and verdict.verdict == "pass")
    calls_max = grant.calls_max or limits.calls_per_tool_max
    if passed >= calls_max:
        name = f"calls_max of {call.tool}" if grant.calls_max else "calls_per_tool_max"
        hit = LimitHit(name=name, value=passed + 1, max_value=calls_max)
        return f"The tool '{call.tool}' has been called {calls_max} times, which is its limit for one run.", hit
    return None


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a call as a repetition of earlier ones; ``recorded_n`` is the event whose result counts again."""

    verdict: Literal["pass", "reject", "loop", "recorded"]
    errors: tuple[str, ...] = ()
    recorded_n: int = 0


NO_REPEAT = Repeat(verdict="pass")


def _refused_repeat(sentence: str) -> Repeat:
    return Repeat(verdict="reject", errors=(sentence,))


def _check_repetition(
    run: Run, grant: ToolGrant, earlier: list[CallState], *, key: str, before: list[JudgedCall]
) -> Repeat:
    """Return whether this call was made before, in the run or in the same proposal."""
    outcomes = [c.outcome_text for c in earlier if c.stage is Stage.ENDED and c.judged and c.judged.verdict != "loop"]
    calls_max = run.limits.equal_calls_max
    if len(outcomes) >= calls_max and len(set(outcomes[-calls_max:])) == 1:
        sentence = f"This call was made {len(outcomes)} times with the same result; making it again changes nothing."
        return Repeat(verdict="loop", errors=(sentence,))
    if grant.tier == "read" or grant.repeatable:
        return NO_REPEAT
    if any(verdict.effect_key == key and verdict.verdict == "pass" for verdict in before):
        return _refused_repeat("The same effect is proposed twice in this answer.")
    for call in reversed(earlier):
        if call.finished is not None and call.finished.outcome == "succeeded" and call.stage is Stage.ENDED:
            return Repeat(verdict="recorded", errors=(RECORDED,), recorded_n=call.finished_n)
        if call.stage in {Stage.OPEN, Stage.READY, Stage.CHECK, Stage.ASKED, Stage.GATE}:
            return _refused_repeat(f"The same effect is under way already (call '{call.call}').")
        if call.fate == "done" or any(attempt.outcome == "succeeded" for attempt in call.effects):
            return _refused_repeat(f"The same effect was done already (call '{call.call}').")
        unclear = not grant.safe_to_repeat and any(
            a.outcome == "failed" and may_have_taken_effect(a.error) for a in call.effects
        )
        if call.stage is Stage.UNKNOWN_OUTCOME or call.fate == "unknown" or unclear:
            return _refused_repeat(f"The fate of the same effect (call '{call.call}') is not known yet.")
    return NO_REPEAT


def _duplicate_question(run: Run, grant: ToolGrant, *, key: str, before: list[JudgedCall]) -> str:
    """Return why a person is not asked about this call: the same question already stands in the same proposal."""
    policy = run.opened.policy if run.opened else Policy()
    asks = grant.kind == "wait" or grant.tier in TRACED_TIERS or any(fnmatchcase(grant.name, p) for p in policy.ask)
    if not asks or not any(verdict.effect_key == key and verdict.verdict == "pass" for verdict in before):
        return ""
    return "This answer already contains the same call. Read its result first, then call again if you want it twice."


def _wait_until(tool: str, args: bytes, now: datetime) -> datetime | str | None:
    """Return when a ``wait.until`` is over, a sentence if that moment exceeds the limits, None for other tools."""
    if tool != "wait.until":
        return None
    given: JsonObject = msgspec.json.decode(args)
    value: JsonValue = given.get("until", given.get("seconds"))
    if isinstance(value, int | float):
        if not value > 0:
            return f"A wait of {value} s is over before it begins; name a number of seconds above 0."
        # The number may reach beyond the calendar; it is clipped here and refused below.
        until = now + timedelta(seconds=min(float(value), WAIT_MAX_S + 1))
    else:
        try:
            until = datetime.fromisoformat(str(value))
        except ValueError:
            return f"'{value}' is not an ISO 8601 moment; write e.g. 2030-01-31T09:00:00+00:00, or seconds."
        if until.tzinfo is None:
            return f"'{value}' names no time zone; write {value}+00:00 for UTC, or the offset that is meant."
        if (now - until).total_seconds() > WAIT_OVERDUE_MAX_S:
            return f"'{value}' is past: it is {now.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00} now."
    if (until - now).total_seconds() > WAIT_MAX_S:
        return f"A wait may last at most {WAIT_MAX_S // 86_400} days; '{value}' is later than that."
    return until
