"""Forgeries that a stolen credential could write: well-chained events of its own role with false contents, one a row.

``tests/schemas/test_verify.py`` breaks each rule once; here every field that a later decision, a person or a
reader of the log relies on is forged with the credential of the role that may append the event.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from tests.run_logs import (
    AGENT,
    ANN,
    ASKING,
    KEYS,
    RUN,
    SPENDING,
    STRICT,
    TENANT,
    Forger,
    Message,
)

from linestop.schemas.effect_key import effect_key
from linestop.schemas.messages import Control, Verb, signed_bytes
from linestop.schemas.verify.check_log import verify
from linestop.schemas.verify.verdict import Verdict

LogOf = Callable[[str], list[Message]]
Forgery = Callable[[Forger], int]
_PAY = AGENT.tool("pay")
assert _PAY is not None
SCOPED = msgspec.structs.replace(
    AGENT,
    tools=tuple(msgspec.structs.replace(t, scopes=("money:move",)) if t is _PAY else t for t in AGENT.tools),
    scopes=("mail:*",),
)
VERSIONS = {agent.digest(): agent.stored_bytes() for agent in (AGENT, ASKING, SPENDING, STRICT, SCOPED)}
FAR = "2999-01-01T00:00:00Z"


def check(messages: list[Message], *, texts: Mapping[str, bytes] = VERSIONS) -> Verdict:
    """Verify with all keys and the deployed agents."""
    return verify(TENANT, RUN, messages, keys=KEYS, texts=texts)


def field(role: str, name: str, nth: int = 1, **changes: Any) -> Forgery:
    """Change fields of the nth such event."""

    def forge(f: Forger) -> int:
        f.body(role, name, nth).update(changes)
        return f.find(role, name, nth)

    return forge


def line(role: str, name: str, of: str, nth: int = 1, **changes: Any) -> Forgery:
    """Change fields of the first line of the nth such event."""

    def forge(f: Forger) -> int:
        value: Any = f.body(role, name, nth)[of]
        first: dict[str, Any] = value if of in {"spend", "totals"} else value[0]
        first.update(changes)
        return f.find(role, name, nth)

    return forge


def opened(part: str = "", **changes: Any) -> Forgery:
    """Change a part of the run's opening."""

    def forge(f: Forger) -> int:
        body = f.body("validator", "opened")
        (body[part] if part else body).update(changes)
        return 1

    return forge


def tool(granted: str, /, **changes: Any) -> Forgery:
    """Change the grant of a tool."""

    def forge(f: Forger) -> int:
        next(t for t in f.body("validator", "opened")["tools"] if t["name"] == granted).update(changes)
        return 1

    return forge


# --- people's decisions -----------------------------------------------------------------------------------------


def _resigned(f: Forger, name: str, verb: Verb, **control: Any) -> int:
    """Put a true signature by ann, made for other contents, into an event."""
    body = f.body("approver", name)
    signed = Control(call=body["call"], nonce=body["nonce"], by="ann", **control)
    body["signature"] = ANN.sign(signed_bytes(TENANT, RUN, verb, signed)).hex()
    return f.find("approver", name)


def _retry_for_done(f: Forger) -> int:
    return _resigned(f, "resolved", "resolve", action="done")


def _retried_twice_on_one_decision(f: Forger) -> int:
    resolved = f.body("approver", "resolved")
    asked = f.find("approver", "asked", 3)
    return f.insert(asked + 1, "approver", "resolved", resolved)


def _granted_twice_on_one_decision(f: Forger) -> int:
    n = f.find("approver", "granted")
    return f.insert(n + 1, "approver", "granted", {k: v for k, v in f.body("approver", "granted").items() if k != "id"})


def _edited_without_signature(f: Forger) -> int:
    f.body("approver", "edited").pop("key_id")
    return f.find("approver", "edited")


def _edited_to_something_else(f: Forger) -> int:
    args = '{"q":"z"}'
    f.body("approver", "edited").update(args=args, args_sha256=hashlib.sha256(args.encode()).hexdigest())
    return f.find("approver", "edited")


def _spending_granted_without_signature(f: Forger) -> int:
    body = f.body("approver", "granted")
    body.pop("signature")
    body.pop("key_id")
    return f.find("approver", "granted")


def _spending_granted_unasked(f: Forger) -> int:
    n = f.find("approver", "granted")
    return f.insert(n + 1, "approver", "granted", {"call": "", "by": "ann"})


def _time_was_not_up(f: Forger) -> int:
    n = f.find("approver", "asked")
    call = f.body("approver", "asked")["calls"][0]["call"]
    return f.insert(n + 1, "approver", "denied", {"call": call, "by": "timer"})


def _denied_by_a_stranger(f: Forger) -> int:
    f.body("approver", "denied")["by"] = "eve"
    return f.find("approver", "denied")


def _question_about_a_payment(f: Forger) -> int:
    n = f.find("approver", "asked")
    call = f.body("approver", "asked")["calls"][0]["call"]
    f.events[n - 1][2].pop("calls")
    f.events[n - 1][2]["question"] = {"call": call, "text": "paid?", "expires_at": FAR}
    return n


# --- judgements ---------------------------------------------------------------------------------------------


def _other_arguments(f: Forger, args: str) -> int:
    """Have model and validator agree on other arguments."""
    proposal, verdict = f.body("planner", "proposed", 2)["calls"][0], f.body("validator", "judged", 2)["calls"][0]
    proposal["args"] = args
    digest = hashlib.sha256(args.encode()).hexdigest()
    verdict.update(
        args=args,
        args_sha256=digest,
        raw_args_sha256=digest,
        effect_key=effect_key(f"{TENANT}/{RUN}", "pay", args.encode()),
    )
    return f.find("validator", "judged", 2)


def _arguments_against_the_schema(f: Forger) -> int:
    return _other_arguments(f, '{"q":5}')


def _silent_about_an_origin(f: Forger) -> int:
    return _other_arguments(f, '{"q":"eve@example.org"}')


def _part_of_a_word_of_the_task(f: Forger) -> int:
    text = f.body("validator", "opened")["task"]["text"]
    return _other_arguments(f, msgspec.json.encode({"q": text.split()[0][:-1]}).decode())


def _origin_without_its_flag(f: Forger) -> int:
    n = _other_arguments(f, '{"q":"eve@example.org"}')
    f.body("validator", "judged", 2)["calls"][0]["provenance"] = [{"path": "$.q"}]
    return n


def _false_trust(f: Forger) -> int:
    n = _other_arguments(f, '{"q":"eve@example.org"}')
    result = f.find("executor", "finished")
    f.body("validator", "judged", 2)["calls"][0]["provenance"] = [{"path": "$.q", "n": result, "field": "trusted"}]
    return n


# --- results and money ----------------------------------------------------------------------------------------


def _tokens_below_zero(f: Forger) -> int:
    f.body("planner", "proposed").update(usage={"fresh_in": -1_000}, cost_micros=-1_000)
    return f.find("planner", "proposed")


def _charged_elsewhere(f: Forger) -> int:
    lines = f.body("budget", "settled")["by_event"]
    lines[0]["n"], lines[1]["n"] = lines[1]["n"], lines[0]["n"]
    lines[0]["cost_micros"], lines[1]["cost_micros"] = lines[1]["cost_micros"] + 1, lines[0]["cost_micros"] - 1
    return f.find("budget", "settled")


def _false_warning(f: Forger) -> int:
    body = {"limit": "cost_max_micros", "value": 1, "max_value": 500_000}
    return f.insert(f.find("planner", "started") + 1, "budget", "warned", body)


def _wait_cut_short(f: Forger) -> int:
    n = f.find("executor", "finished")
    f.events[n - 1][2]["at"] = f.events[n - 2][2]["at"]
    return n


def _wait_with_extra_fields(f: Forger) -> int:
    return field("executor", "finished", result='{"now":"x","pay":"eve"}')(f)


def _too_long_a_result(f: Forger) -> int:
    return field("executor", "finished", result="x" * 20_000)(f)


def _returned_once_more(f: Forger) -> int:
    n = f.find("", "stopped")
    proposal = f.find("planner", "proposed", 5)
    return f.insert(n, "validator", "returned", {"proposal_n": proposal, "errors": ["no"], "returned_in_a_row": 4})


def _without_its_scope(f: Forger) -> int:
    contract = SCOPED.tool("pay")
    assert contract is not None
    opened("agent", digest=SCOPED.digest())(f)
    return tool("pay", contract_digest=contract.digest())(f)


def _spending_granted_too_late(f: Forger) -> int:
    n = f.find("approver", "granted")
    for _, _, body in f.events[n - 1 :]:
        body["at"] = "2026-06-01T00:00:00Z"
    return n


def _compacted_ahead(f: Forger) -> int:
    f.body("planner", "started")["purpose"] = "compact"
    summary = {"turn": 1, "attempt": 1, "covers_from": 1, "covers_to": 99, "summary": "all of it"}
    return f.insert(f.find("planner", "proposed"), "planner", "compacted", summary)


def _compacted_once_more(f: Forger) -> int:
    opened("limits", compactions_max=0)(f)
    return field("planner", "started", purpose="compact")(f)


def _amended(f: Forger, *, facts: int) -> int:
    sealed = f.body("recorder", "sealed")
    fact = f.insert_copy("executor", "finished", at=len(f.events) + 1, outcome="never_started")
    named = range(fact, fact + facts)
    body = {"facts": [*named], "receipt": sealed["receipt"], "totals": {**sealed["totals"], "events": fact}}
    return f.insert(fact + 1, "recorder", "amended", body)


def _late_result_left_out(f: Forger) -> int:
    return _amended(f, facts=0)


def _receipt_not_renewed(f: Forger) -> int:
    return _amended(f, facts=1)


# --- how often and how long -----------------------------------------------------------------------------------


def _limited(at: tuple[str, str, int], **limits: int) -> Forgery:
    """Lower limits of the run; the event that exceeds them is the nth of that role and name."""

    def forge(f: Forger) -> int:
        opened("limits", **limits)(f)
        return f.find(*at)

    return forge


def _beyond_the_last(f: Forger) -> int:
    begun = f.find("planner", "started", 3)
    opened("limits", events_max=begun + 50)(f)
    for number in range(60):
        f.insert(f.find("planner", "proposed", 3), "budget", "warned", {"limit": f"x{number}"} | WARNING)
    return begun + 51


def _model_asked_once_more(f: Forger) -> int:
    opened("limits", model_retries_max=0)(f)
    failed = {"turn": 1, "attempt": 1, "kind": "availability", "message": "down"}
    n = f.insert(f.find("planner", "started") + 1, "planner", "failed", failed)
    return f.insert_copy("planner", "started", at=n + 1, attempt=2)


def _tool_tried_once_more(f: Forger) -> int:
    tool("look", retries_max=1)(f)
    return f.find("executor", "started", 3)


WARNING = {"value": 1, "max_value": 2}


def _one_turn_more(f: Forger) -> int:
    f.body("validator", "opened")["limits"]["turns_max"] = 5
    return f.find("planner", "started", 6)


ANOTHER = {"model": "playbook/x", "price": {"input": 1, "output": 1}}


def _own_worker_called_dead(f: Forger) -> int:
    body = f.body("planner", "started")
    return field("planner", "started", dead_workers=[body["worker"]])(f)


FORGERIES: list[tuple[str, str, Forgery, str, str]] = [
    # The approver: decisions attributed to people.
    ("approved", "grant without a name", field("approver", "granted", by=""), "approval", "names no person"),
    (
        "approved",
        "grant of another nonce",
        field("approver", "granted", nonce="x"),
        "approval",
        "signature .* is false",
    ),
    ("approved", "grant with a longer life", field("approver", "granted", expires_at=FAR), "approval", "is false"),
    ("approved", "grant submitted twice", _granted_twice_on_one_decision, "approval", "a decision counts once"),
    ("edited", "edit unsigned", _edited_without_signature, "approval", "No known key signed the decision about call"),
    (
        "edited",
        "edit of the arguments",
        _edited_to_something_else,
        "approval",
        "signature under the decision .* is false",
    ),
    ("edited", "edit by a stranger", field("approver", "edited", by="eve"), "approval", "'eve' decides"),
    ("edited", "edit in another's name", field("approver", "edited", by="bob"), "approval", "is false"),
    ("in doubt", "resolution changed", _retry_for_done, "approval", "is false"),
    ("in doubt", "result of a resolution", field("approver", "resolved", 2, result='{"ok":2}'), "approval", "is false"),
    ("in doubt", "resolution unsigned", field("approver", "resolved", key_id=""), "approval", "No known key"),
    ("in doubt", "resolution by a stranger", field("approver", "resolved", by="eve"), "approval", "'eve' decides"),
    ("in doubt", "retry submitted twice", _retried_twice_on_one_decision, "approval", "a decision counts once"),
    ("answered", "answer changed", field("approver", "answered", answer='{"which":"c"}'), "approval", "is false"),
    ("answered", "answer with a forged signature", field("approver", "answered", nonce="x"), "approval", "is false"),
    (
        "spending",
        "spending unsigned",
        _spending_granted_without_signature,
        "approval",
        "No known key .* about spending",
    ),
    ("spending", "spending by a stranger", field("approver", "granted", by="eve"), "approval", "'eve' decides"),
    ("spending", "spending unasked", _spending_granted_unasked, "approval", "about which no person was asked"),
    ("spending", "another threshold", line("approver", "asked", "spend", limit_micros=9), "approval", "another limit"),
    ("spending", "an endless question", line("approver", "asked", "spend", expires_at=FAR), "approval", "for longer"),
    ("denied", "denial by a stranger", _denied_by_a_stranger, "approval", "'eve' decides"),
    ("approved", "denial before its time", _time_was_not_up, "approval", "before the question had expired"),
    (
        "approved",
        "a question without end",
        line("approver", "asked", "calls", expires_at=FAR),
        "approval",
        "for longer",
    ),
    ("approved", "a payment made a question", _question_about_a_payment, "approval", "asks a question for call"),
    ("approved", "an unjudged call cleared", line("approver", "cleared", "calls", call="x"), "approval", "It clears"),
    (
        "approved",
        "an unjudged call asked",
        line("approver", "asked", "calls", call="x"),
        "approval",
        "which was never judged",
    ),
    ("spending", "spending granted too late", _spending_granted_too_late, "approval", "spending after the question"),
    (
        "approved",
        "fewer deciders asked",
        line("approver", "asked", "calls", deciders=["ann"]),
        "approval",
        "other people",
    ),
    # The validator: the opening of a run, and the calls that pass.
    ("approved", "another policy", opened("policy", clear=["*"]), "opened", "Its policy is not the one"),
    ("approved", "no deciders", opened("policy", deciders=[]), "opened", "Its policy is not the one"),
    ("approved", "a cheaper price", opened(model=ANOTHER), "opened", "models or their prices"),
    ("approved", "a higher limit", opened("limits", cost_max_micros=10**9), "opened", "limit 'cost_max_micros'"),
    ("approved", "a tier lowered", tool("pay", tier="read"), "opened", "tool 'pay' with another 'tier'"),
    ("approved", "a tool called idempotent", tool("pay", idempotent=True), "opened", "with another 'idempotent'"),
    ("approved", "a tool made free", tool("pay", price_micros=0), "opened", "with another 'price_micros'"),
    ("approved", "more time", tool("look", timeout_s=99.0), "opened", "with another 'timeout_s'"),
    ("approved", "more retries", tool("look", retries_max=9), "opened", "with another 'retries_max'"),
    (
        "approved",
        "another contract",
        tool("pay", contract_digest="0" * 64),
        "opened",
        "contract that agent 'a' does not have",
    ),
    ("approved", "a tool it lacks", tool("look", name="wreck"), "opened", "tool 'wreck' with a contract"),
    ("approved", "another agent's name", opened("agent", name="b"), "opened", "digest is that of 'a'"),
    ("approved", "time without end", opened(deadline_at=FAR), "opened", "beyond its limit of 2592000 s"),
    ("approved", "without its scope", _without_its_scope, "opened", "'pay', for which agent 'a' has no scope"),
    ("approved", "outside the scope", opened("task", scope=["look"]), "opened", "outside the task's scope"),
    ("approved", "a prompt that weighs nothing", opened(base_bytes=0), "budget", "counts 0 bytes for a prompt"),
    ("approved", "a task that weighs nothing", opened("task", text_bytes=0), "budget", "and it counts 0"),
    (
        "approved",
        "arguments against the schema",
        _arguments_against_the_schema,
        "approval",
        "do not fit the tool's schema",
    ),
    ("approved", "an origin withheld", _silent_about_an_origin, "approval", "gives no origin for '\\$.q'"),
    ("approved", "a part of a word", _part_of_a_word_of_the_task, "approval", "gives no origin for"),
    ("approved", "an origin without its flag", _origin_without_its_flag, "approval", "conceals that '\\$.q'"),
    ("approved", "a false origin", _false_trust, "approval", "takes '\\$.q' of call 'c2a' from event"),
    (
        "approved",
        "untrusted called trusted",
        field("validator", "accepted", derived_from_untrusted=False),
        "answer",
        "based on trusted text alone",
    ),
    (
        "returned",
        "returned once more",
        _returned_once_more,
        "answer",
        "answer 4 in a row that is sent back; at most 3 are allowed",
    ),
    (
        "returned",
        "returns counted falsely",
        field("validator", "returned", returned_in_a_row=0),
        "answer",
        "answer 1 in a row",
    ),
    (
        "approved",
        "an unproposed call judged",
        line("validator", "judged", "calls", call="x"),
        "approval",
        "which was never proposed",
    ),
    ("returned", "no answer returned", field("validator", "returned", proposal_n=4), "answer", "returns event 4"),
    ("approved", "one call more", _limited(("validator", "judged", 1), calls_max=1), "approval", "lets call 2 of at"),
    (
        "out of turns",
        "one call of a tool more",
        _limited(("validator", "judged", 2), calls_per_tool_max=1),
        "approval",
        "lets call 2 of 'look' pass, of at most 1",
    ),
    (
        "approved",
        "more calls than fit an answer",
        _limited(("validator", "judged", 1), proposal_calls_max=1),
        "limit",
        "one of 2 calls pass; one answer may have 1",
    ),
    (
        "wrong arguments",
        "one rejection more",
        _limited(("validator", "judged", 2), rejections_max=1),
        "limit",
        "after 1 rejections in a row; at most 1 are allowed",
    ),
    (
        "wrong arguments",
        "rejections counted falsely",
        field("validator", "judged", 2, rejections_in_a_row=1),
        "limit",
        "after 1 rejections in a row",
    ),
    # The planner.
    ("approved", "a summary of later events", _compacted_ahead, "result", "covers events up to 99"),
    ("approved", "one compaction more", _compacted_once_more, "limit", "begins compaction 1 of at most 0"),
    ("approved", "one attempt of a model more", _model_asked_once_more, "limit", "once more in turn 1"),
    (
        "approved",
        "a model requested in the reserve",
        _limited(("planner", "started", 2), events_max=59),
        "limit",
        "new work in event 10; from 10 on a run of 59 events accepts none",
    ),
    ("out of turns", "one turn more", _one_turn_more, "budget", "begins turn 6 of at most 5"),
    ("approved", "a call without end", field("planner", "started", done_by=FAR), "once", "open for longer"),
    ("approved", "tokens below zero", _tokens_below_zero, "budget", "a negative token count"),
    # The executor.
    ("approved", "an unjudged call", line("executor", "started", "calls", call="x"), "approval", "'x', which no"),
    # Dead workers: an event that relies on a death names the worker that left the start open.
    (
        "approved",
        "an effect begun for the death of an unknown worker",
        field("executor", "started", dead_workers=["ghost#1"]),
        "once",
        "It calls ghost#1 dead, which has left no start open",
    ),
    (
        "approved",
        "a model requested for the death of an unknown worker",
        field("planner", "started", dead_workers=["ghost#1"]),
        "once",
        "It calls ghost#1 dead, which has left no start open",
    ),
    (
        "approved",
        "a model requested for its own worker's death",
        _own_worker_called_dead,
        "once",
        "It calls its own worker",
    ),
    (
        "approved",
        "an effect ended for the death of another worker",
        field("executor", "finished", outcome="unknown", dead_workers=["ghost#1"]),
        "once",
        "It calls ghost#1 dead, which did not make attempt 1",
    ),
    ("approved", "a probe of no probe", field("executor", "started", purpose="probe"), "approval", "has no probe"),
    ("retried", "one attempt of a tool more", _tool_tried_once_more, "limit", "more often than its tool's 1 retries"),
    (
        "approved",
        "an effect in the reserve",
        _limited(("executor", "started", 2), events_max=64),
        "limit",
        "new work in event 15",
    ),
    (
        "approved",
        "an effect without end",
        line("executor", "started", "calls", done_by=FAR),
        "once",
        "keep call 'c1a' open",
    ),
    (
        "approved",
        "a result called trusted",
        field("executor", "finished", untrusted=False),
        "result",
        "trusted; no tool's result",
    ),
    (
        "approved",
        "another result",
        field("executor", "finished", result='{"ok":"z"}'),
        "result",
        "digest of its result",
    ),
    (
        "approved",
        "another whole of a result",
        field("executor", "finished", result_ref={"sha256": "0" * 64, "bytes": 9}),
        "result",
        "stored full result that it names is not its result",
    ),
    ("approved", "too long a result", _too_long_a_result, "result", "the model receives at most 16384"),
    ("waited", "a wait cut short", _wait_cut_short, "result", "before its time"),
    ("waited", "a wait with more than the time", _wait_with_extra_fields, "result", "with more than the time"),
    # Budget.
    (
        "spending",
        "a hold in the reserve",
        _limited(("budget", "held", 1), events_max=43),
        "limit",
        "new work in event 4",
    ),
    ("approved", "beyond the last event", _beyond_the_last, "limit", "is event 68 of at most 67, and neither"),
    ("approved", "a hold from no account", field("budget", "held", accounts=[]), "budget", "accounts none"),
    (
        "approved",
        "a hold from another tenant",
        line("budget", "held", "accounts", account="tenant-x"),
        "budget",
        "it should take it from",
    ),
    (
        "approved",
        "a hold from another day",
        line("budget", "held", "accounts", period="2025-01-01"),
        "budget",
        "another time",
    ),
    (
        "approved",
        "an account in credit",
        line("budget", "held", "accounts", before_micros=-(10**9)),
        "budget",
        "not fit",
    ),
    (
        "approved",
        "the hold of another run",
        field("budget", "held", hold="t.r2.1"),
        "budget",
        "the run's next is 't.r1.1'",
    ),
    ("approved", "charged to other events", _charged_elsewhere, "budget", "charge other events"),
    ("approved", "a false warning", _false_warning, "budget", "It warns of 1 of 500000"),
    # The recorder.
    (
        "stopped",
        "an old receipt",
        _receipt_not_renewed,
        "seal",
        "receipt calls 'c1a' unknown after 1; it is never_st",
    ),
    (
        "stopped",
        "a late fact left out",
        _late_result_left_out,
        "seal",
        "leaves out event 13, which came after the seal",
    ),
    ("stopped", "another reason", field("recorder", "sealed", why="it was done"), "seal", "another reason"),
    ("stopped", "other last words", field("recorder", "sealed", partial="I give up."), "seal", "is not in the log"),
    ("approved", "another wait", line("recorder", "sealed", "totals", wait_s=9.0), "seal", "waits, events"),
]


@pytest.mark.parametrize(
    ("scenario", "forge", "rule", "sentence"),
    [(s, f, r, w) for s, _, f, r, w in FORGERIES],
    ids=[row[1] for row in FORGERIES],
)
def test_a_forgery_with_a_stolen_credential_is_found(
    scenario: str, forge: Forgery, rule: str, sentence: str, log_of: LogOf
) -> None:
    """The log is broken at the forgery itself, and a sentence describes it."""
    forger = Forger(log_of(scenario))
    assert check(forger.messages()).problems == ()
    n = forge(forger)
    verdict = check(forger.messages())
    found = [(p.n, p.rule) for p in verdict.problems if p.level == "broken" and re.search(sentence, p.sentence)]
    assert (n, rule) in found, verdict.problems
    assert verdict.sentence == f"broken at {n}", verdict.problems


def test_an_unsigned_answer_in_a_persons_name_is_noted(log_of: LogOf) -> None:
    """Services answer without a key, so the log can only show which name the answer carries."""
    forger = Forger(log_of("answered"))
    for name in ("signature", "key_id"):
        forger.body("approver", "answered").pop(name)
    verdict = check(forger.messages())
    assert [(p.rule, p.level) for p in verdict.problems] == [("approval", "note")]
    assert "'ann' did not sign the answer to call 'c1a'" in verdict.problems[0].sentence
    forger.body("approver", "answered")["by"] = "billing"
    assert check(forger.messages()).problems == ()


def test_a_missing_text_leaves_its_signature_unchecked(log_of: LogOf) -> None:
    """The signed text may be stored as a blob: without it a note says so, with it the signature is checked."""
    forger = Forger(log_of("edited"))
    body = forger.body("approver", "edited")
    data = body["args"].encode()
    body["args"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    without = check(forger.messages())
    assert any("was not checked" in problem.sentence for problem in without.problems if problem.level == "note")
    assert not without.broken
    assert check(forger.messages(), texts={**VERSIONS, hashlib.sha256(data).hexdigest(): data}).problems == ()


def test_without_the_agents_version_a_run_is_compared_with_itself_only(log_of: LogOf) -> None:
    """The deployed version is the evidence; a log alone cannot show the rights that the run should have."""
    forger = Forger(log_of("approved"))
    opened("policy", clear=["mail", "nothing"])(forger)
    assert check(forger.messages(), texts={}).problems == ()
    assert check(forger.messages()).sentence == "broken at 1"
    digest = hashlib.sha256(b"{}").hexdigest()
    opened("agent", digest=digest)(forger)
    assert "is not an agent" in check(forger.messages(), texts={digest: b"{}"}).problems[0].sentence
    assert msgspec.json.decode(AGENT.stored_bytes())["name"] == "a"
