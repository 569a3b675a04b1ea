"""The checker that sees only the log: good logs pass, and each rule is broken once.

The forged logs are chained again, so that only the rule itself can reveal the forgery.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from tests.run_logs import ANN, BOB, KEYS, RUN, SCENARIOS, TENANT, Forger, Message, signed_checkpoint

from linestop.schemas.effect_key import effect_key
from linestop.schemas.events import Cleared, Opened
from linestop.schemas.messages import Control, signed_bytes
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.rules import approvals, calls
from linestop.schemas.verify import check_log as checker
from linestop.schemas.verify.check_log import verify
from linestop.schemas.verify.checkpoint_signature import Checkpoint, TrustedKey
from linestop.schemas.verify.verdict import Verdict

LogOf = Callable[[str], list[Message]]
Change = Callable[[Forger], int]
LATER = "2026-06-01T00:00:00Z"


def check(
    messages: list[Message], *, checkpoints: Sequence[Checkpoint] = (), keys: Mapping[str, TrustedKey] = KEYS
) -> Verdict:
    """Verify with all keys."""
    return verify(TENANT, RUN, messages, checkpoints=checkpoints, keys=keys)


def broken(verdict: Verdict) -> list[tuple[int, str, str]]:
    """Return the broken rules, as (n, rule, sentence)."""
    return [(p.n, p.rule, p.sentence) for p in verdict.problems if p.level == "broken"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_log_of_the_real_roles_is_clean(scenario: str, log_of: LogOf) -> None:
    """Whether the roles approve, deny, stop, retry or exhaust a limit, the checker finds no problem."""
    messages = log_of(scenario)
    verdict = check(messages)
    assert verdict.problems == ()
    assert (verdict.sentence, verdict.n) == ("consistent", len(messages))
    assert messages[-1][0].split(".")[4] == "sealed"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rechaining_a_log_changes_nothing(scenario: str, log_of: LogOf) -> None:
    """The forger itself breaks nothing, so the problems of the forged logs come from the forgery."""
    assert check(Forger(log_of(scenario)).messages()).problems == ()


# --- the chain ---------------------------------------------------------------------------------------------


def _changed(messages: list[Message]) -> tuple[list[Message], int]:
    subject, payload, seq = messages[4]
    messages[4] = subject, payload.replace(b"pass", b"loop"), seq
    return messages, 6


def _missing(messages: list[Message]) -> tuple[list[Message], int]:
    return messages[:6] + messages[7:], 7


def _foreign(messages: list[Message]) -> tuple[list[Message], int]:
    return [(subject.replace(".r1.", ".r2."), payload, seq) for subject, payload, seq in messages], 1


def _partly_foreign(messages: list[Message]) -> tuple[list[Message], int]:
    subject, payload, seq = messages[4]
    messages[4] = (subject.replace(".r1.", ".r2."), payload, seq)
    return messages, 5


def _twice(messages: list[Message]) -> tuple[list[Message], int]:
    subject, _, seq = messages[4]
    return [*messages, (subject, b"{}", messages[-1][2] + seq)], 5


def _shuffled(messages: list[Message]) -> tuple[list[Message], int]:
    messages[3] = (*messages[3][:2], messages[2][2] - 1)
    return messages, 4


def _renamed(messages: list[Message]) -> tuple[list[Message], int]:
    messages[4] = (messages[4][0].replace("validator", "operator"), *messages[4][1:])
    return messages, 5


def _unreadable(messages: list[Message]) -> tuple[list[Message], int]:
    messages[4] = (messages[4][0], b"no JSON", messages[4][2])
    return messages, 5


def _nothing(messages: list[Message]) -> tuple[list[Message], int]:
    return messages[:0], 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_changed, "does not name the hash of the message before it"),
        (_missing, "Event 7 is missing"),
        (_foreign, "holds run 'r2' of tenant 't', not run 'r1'"),
        (_partly_foreign, "is not an event of run 'r1'"),
        (_twice, "is there twice"),
        (_shuffled, "the order was changed"),
        (_renamed, "does not name the hash"),
        (_unreadable, "no readable envelope"),
        (_nothing, "holds no event"),
    ],
)
def test_a_break_of_the_chain_is_found_by_its_number(
    change: Callable[[list[Message]], tuple[list[Message], int]], sentence: str, log_of: LogOf
) -> None:
    """Changed, missing, moved, doubled or foreign messages break the chain at their place."""
    messages, n = change(log_of("approved"))
    verdict = check(messages)
    assert verdict.sentence == f"broken at {n}"
    assert any(sentence in found for _, rule, found in broken(verdict) if rule == "chain")


def test_a_rival_that_lost_is_void_and_breaks_nothing(log_of: LogOf) -> None:
    """An event that no other event chains to may be written at any time; it is shown, and the log stays valid."""
    messages = log_of("approved")
    rival = (f"runs.{TENANT}.{RUN}.planner.proposed.9", b'{"id":"x","prev":"y"}', messages[-1][2] + 1)
    verdict = check([*messages, rival])
    assert [(p.n, p.level) for p in verdict.problems] == [(9, "void")]
    assert verdict.sentence == "consistent"


# --- the rules ---------------------------------------------------------------------------------------------


def _time_goes_back(f: Forger) -> int:
    f.body("executor", "started")["at"] = "2025-12-31T00:00:00Z"
    return f.find("executor", "started")


def _start_after_stop(f: Forger) -> int:
    return f.insert_copy("planner", "started", at=f.find("", "stopped") + 1, turn=2)


def _effect_after_stop(f: Forger) -> int:
    return f.insert_copy("executor", "started", at=len(f.events), nth=1)


def _start_in_a_pause(f: Forger) -> int:
    f.insert_copy("executor", "started", at=f.find("approver", "resumed"))
    return f.find("executor", "started")


def _start_after_the_answer(f: Forger) -> int:
    return f.insert_copy("planner", "started", at=f.find("validator", "accepted") + 1)


def _start_before_opening(f: Forger) -> int:
    return f.insert_copy("planner", "started", at=1)


def _started_while_open(f: Forger) -> int:
    n = f.find("executor", "started", 2)
    first = f.body("executor", "started", 2)["calls"][0]
    return f.insert_copy("executor", "started", at=n + 1, nth=2, calls=[{**first, "attempt": 2}])


def _model_started_while_open(f: Forger) -> int:
    return f.insert_copy("planner", "started", at=f.find("planner", "started") + 1, attempt=2)


def _repeated_without_a_decision(f: Forger) -> int:
    line = f.body("executor", "started")["calls"][0]
    at = f.find("executor", "finished") + 1
    return f.insert_copy("executor", "started", at=at, calls=[{**line, "attempt": 2}])


def _effect_of_another_call(f: Forger) -> int:
    verdict = f.body("validator", "judged", 2)["calls"][0]
    verdict.update(verdict="pass", recorded_n=0)
    line = f.body("executor", "started")["calls"][0]
    cleared = {"call": verdict["call"], "rule": "policy:clear", "args_sha256": verdict["args_sha256"]}
    gate = f.insert_copy("approver", "cleared", at=f.find("validator", "judged", 2) + 1, calls=[cleared])
    return f.insert_copy("executor", "started", at=gate + 1, calls=[{**line, "call": verdict["call"], "gate_n": gate}])


def _false_effect_key(f: Forger) -> int:
    f.body("validator", "judged", 2)["calls"][0]["effect_key"] = "0" * 64
    return f.find("validator", "judged", 2)


def _started_under_another_key(f: Forger) -> int:
    f.body("executor", "started", 2)["calls"][0]["effect_key"] = "0" * 64
    return f.find("executor", "started", 2)


def _answered_from_another_record(f: Forger) -> int:
    f.body("validator", "judged", 2)["calls"][0]["recorded_n"] = 3
    return f.find("validator", "judged", 2)


def _start_without_money(f: Forger) -> int:
    f.body("budget", "held")["amount_micros"] = 1
    return f.find("planner", "started")


def _hold_over_the_limit(f: Forger) -> int:
    f.body("budget", "held")["amount_micros"] = 10**9
    return f.find("budget", "held")


def _hold_over_an_account(f: Forger) -> int:
    f.body("budget", "held")["accounts"] = [{"account": "user", "period": "d", "before_micros": 5, "limit_micros": 6}]
    return f.find("budget", "held")


def _hold_twice(f: Forger) -> int:
    return f.insert_copy("budget", "held", at=f.find("budget", "held") + 1, amount_micros=1)


def _too_small_a_reservation(f: Forger) -> int:
    f.body("planner", "started")["cost_max_micros"] = 500
    return f.find("planner", "started")


def _too_small_a_tool_reservation(f: Forger) -> int:
    f.body("executor", "started", 2)["calls"][0]["cost_max_micros"] = 0
    return f.find("executor", "started", 2)


def _another_model(f: Forger) -> int:
    f.body("planner", "started")["model"] = "dear/one"
    return f.find("planner", "started")


def _cost_over_the_reservation(f: Forger) -> int:
    f.body("planner", "proposed")["cost_micros"] = 10**7
    return f.find("planner", "proposed")


def _tool_cost_over_the_reservation(f: Forger) -> int:
    f.body("executor", "finished", 3)["cost_micros"] = 5_000
    return f.find("executor", "finished", 3)


def _charge_not_by_usage(f: Forger) -> int:
    f.body("planner", "proposed")["cost_micros"] = 1
    return f.find("planner", "proposed")


def _settled_too_little(f: Forger) -> int:
    line = f.body("budget", "settled")["holds"][0]
    line["spent_micros"] -= 1
    line["released_micros"] += 1
    return f.find("budget", "settled")


def _settled_out_of_thin_air(f: Forger) -> int:
    f.body("budget", "settled")["holds"][0]["released_micros"] += 1
    return f.find("budget", "settled")


def _settled_with_false_lines(f: Forger) -> int:
    f.body("budget", "settled")["by_event"][0]["cost_micros"] += 1
    return f.find("budget", "settled")


def _settled_another_hold(f: Forger) -> int:
    f.body("budget", "settled")["holds"][0]["hold"] = "other"
    return f.find("budget", "settled")


def _settled_while_open(f: Forger) -> int:
    return f.insert_copy("budget", "settled", at=f.find("planner", "started") + 1)


def _granted_other_arguments(f: Forger) -> int:
    f.body("approver", "granted")["args_sha256"] = "0" * 64
    return f.find("approver", "granted")


def _granted_another_contract(f: Forger) -> int:
    f.body("approver", "granted")["contract_digest"] = "0" * 64
    return f.find("approver", "granted")


def _granted_too_late(f: Forger) -> int:
    n = f.find("approver", "granted")
    for _, _, body in f.events[n - 1 :]:
        body["at"] = LATER
    return n


def _granted_by_another_person(f: Forger) -> int:
    f.body("approver", "granted")["by"] = "eve"
    return f.find("approver", "granted")


def _granted_unasked(f: Forger) -> int:
    call = f.body("planner", "proposed")["calls"][0]["call"]
    return f.insert_copy("approver", "granted", at=f.find("approver", "cleared"), call=call)


def _started_ungated(f: Forger) -> int:
    n = f.find("approver", "granted")
    f.events[n - 1] = (
        "budget",
        "warned",
        {"id": "w", "at": f.events[n - 1][2]["at"], "limit": "x", "value": 1, "max_value": 2},
    )
    return f.find("executor", "started", 2)


def _started_on_another_gate(f: Forger) -> int:
    f.body("executor", "started", 2)["calls"][0]["gate_n"] -= 1
    return f.find("executor", "started", 2)


def _started_with_other_arguments(f: Forger) -> int:
    f.body("executor", "started", 2)["calls"][0]["args_sha256"] = "0" * 64
    return f.find("executor", "started", 2)


def _clear_asked_call(f: Forger, rule: str) -> int:
    n = f.find("approver", "asked")
    line = f.body("approver", "asked")["calls"][0]
    at = f.events[n - 1][2]["at"]
    lines = [{"call": line["call"], "rule": rule, "args_sha256": line["args_sha256"]}]
    f.events[n - 1] = ("approver", "cleared", {"id": "c", "at": at, "calls": lines})
    return n


def _destructive_cleared(f: Forger) -> int:
    return _clear_asked_call(f, "policy:clear")


def _irreversible_cleared(f: Forger) -> int:
    return _clear_asked_call(f, "policy:clear")


def _untrusted_cleared(f: Forger) -> int:
    f.body("validator", "judged")["calls"][1]["flags"] = ["untrusted-value"]
    return f.find("approver", "cleared")


def _fallback_cleared(f: Forger) -> int:
    opened = f.body("validator", "opened")
    opened["fallbacks"] = [opened["model"]]
    opened["model"] = opened["model"] | {"model": "playbook/down"}
    return f.find("approver", "cleared")


def _edited_cleared(f: Forger) -> int:
    f.body("validator", "opened")["policy"]["clear"] = ["pay"]
    f.body("approver", "edited").pop("approves")
    return f.find("approver", "cleared")


def _policy_asks_but_cleared(f: Forger) -> int:
    f.body("validator", "opened")["policy"]["ask"] = ["mail"]
    return f.find("approver", "cleared")


def _cleared_other_arguments(f: Forger) -> int:
    f.body("approver", "cleared")["calls"][0]["args_sha256"] = "0" * 64
    return f.find("approver", "cleared")


def _tier_lowered(f: Forger) -> int:
    f.body("validator", "judged", 2)["calls"][0]["tier"] = "read"
    return f.find("validator", "judged", 2)


def _other_arguments_than_written(f: Forger) -> int:
    verdict = f.body("validator", "judged", 2)["calls"][0]
    args = b'{"q":"z"}'
    verdict |= {
        "args": args.decode(),
        "args_sha256": hashlib.sha256(args).hexdigest(),
        "effect_key": effect_key(f"{TENANT}/{RUN}", "pay", args),
    }
    return f.find("validator", "judged", 2)


def _false_digest(f: Forger) -> int:
    f.body("validator", "judged", 2)["calls"][0]["args_sha256"] = "0" * 64
    return f.find("validator", "judged", 2)


def _false_raw_digest(f: Forger) -> int:
    f.body("validator", "judged", 2)["calls"][0]["raw_args_sha256"] = "0" * 64
    return f.find("validator", "judged", 2)


def _tool_not_in_the_run(f: Forger) -> int:
    opened = f.body("validator", "opened")
    opened["tools"] = [tool for tool in opened["tools"] if tool["name"] != "pay"]
    return f.find("validator", "judged", 2)


def _asked_about_something_else(f: Forger) -> int:
    f.body("approver", "asked")["calls"][0]["contract_digest"] = "0" * 64
    return f.find("approver", "asked")


def _asked_fewer_people(f: Forger) -> int:
    f.body("validator", "opened")["policy"]["quorum"] = 2
    return f.find("approver", "asked")


def _false_edit(f: Forger) -> int:
    f.body("approver", "edited")["args_sha256"] = "0" * 64
    return f.find("approver", "edited")


def _false_signature(f: Forger) -> int:
    f.body("approver", "granted")["nonce"] = "another"
    return f.find("approver", "granted")


def _no_signature(f: Forger) -> int:
    f.body("approver", "granted").pop("key_id")
    return f.find("approver", "granted")


def _signed_by_another(f: Forger) -> int:
    body = f.body("approver", "granted")
    control = Control(
        call=body["call"],
        args_sha256=body["args_sha256"],
        contract_digest=body["contract_digest"],
        nonce=body["nonce"],
        by="ann",
    )
    body["key_id"], body["signature"] = "bob", BOB.sign(signed_bytes(TENANT, RUN, "approve", control)).hex()
    return f.find("approver", "granted")


def _result_of_no_start(f: Forger) -> int:
    return f.insert_copy("executor", "finished", at=f.find("executor", "finished") + 1, attempt=9)


def _end_of_no_wait(f: Forger) -> int:
    return f.insert_copy("executor", "finished", at=f.find("executor", "finished") + 1, attempt=0)


def _proposal_of_no_start(f: Forger) -> int:
    return f.insert_copy("planner", "proposed", at=f.find("planner", "proposed") + 1, turn=7, calls=[])


def _another_answer(f: Forger) -> int:
    f.body("validator", "accepted")["answer"] = "All lies, token [redacted:anthropic_key]."
    return f.find("validator", "accepted")


def _answer_of_no_proposal(f: Forger) -> int:
    f.body("validator", "accepted")["proposal_n"] = 4
    return f.find("validator", "accepted")


def _sealed(f: Forger, **changes: Any) -> int:
    f.body("recorder", "sealed").update(changes)
    return f.find("recorder", "sealed")


def _sealed_another_answer(f: Forger) -> int:
    return _sealed(f, answer="something else")


def _sealed_as_another_end(f: Forger) -> int:
    return _sealed(f, status="failed", cause="model", answer=None)


def _sealed_another_head(f: Forger) -> int:
    return _sealed(f, forged_head="0" * 64)


def _sealed_false_receipt(f: Forger) -> int:
    f.body("recorder", "sealed")["receipt"][-1]["fate"] = "not_started"
    return f.find("recorder", "sealed")


def _sealed_short_receipt(f: Forger) -> int:
    f.body("recorder", "sealed")["receipt"].pop()
    return f.find("recorder", "sealed")


def _sealed_omitting_what_fits(f: Forger) -> int:
    f.body("recorder", "sealed")["receipt_omits"] = 1
    return _sealed_short_receipt(f)


def _sealed_false_totals(f: Forger) -> int:
    f.body("recorder", "sealed")["totals"]["cost_micros"] += 1
    return f.find("recorder", "sealed")


def _sealed_holding_money(f: Forger) -> int:
    del f.events[f.find("budget", "settled") - 1]
    return f.find("recorder", "sealed")


def _sealed_while_open(f: Forger) -> int:
    return f.insert_copy("recorder", "sealed", at=f.find("planner", "started") + 1)


def _sealed_unfinished(f: Forger) -> int:
    return f.insert_copy("recorder", "sealed", at=f.find("budget", "held"))


def _amended_without_facts(f: Forger) -> int:
    sealed = f.body("recorder", "sealed")
    body = {"facts": [3], "receipt": sealed["receipt"], "totals": {**sealed["totals"], "events": len(f.events)}}
    return f.insert(len(f.events) + 1, "recorder", "amended", body)


RULES: list[tuple[str, Change, str, str]] = [
    ("approved", _time_goes_back, "time", "before that of the event it follows"),
    ("stopped while asked", _start_after_stop, "stop", "although the run was stopped in event 7"),
    ("stopped", _effect_after_stop, "stop", "although the run was stopped"),
    ("paused", _start_in_a_pause, "stop", "although the run was paused"),
    ("approved", _start_after_the_answer, "stop", "although the run was answered"),
    ("approved", _start_before_opening, "stop", "never opened"),
    ("approved", _started_while_open, "once", r"again while attempt 1 of call 'c2a' .* is open"),
    ("approved", _model_started_while_open, "once", "starts a model request while attempt 1 of turn 1"),
    ("in doubt", _repeated_without_a_decision, "once", "not safe to repeat and may have taken effect"),
    ("doubled", _effect_of_another_call, "once", "under another call"),
    ("approved", _false_effect_key, "once", "not the one of this run, tool and arguments"),
    ("approved", _started_under_another_key, "once", "another effect key than it was judged with"),
    ("asked twice", _answered_from_another_record, "once", "which is not a result of it"),
    ("approved", _start_without_money, "budget", "micro-dollars, but the run has 1 left"),
    ("approved", _hold_over_the_limit, "budget", "its limit is 500000"),
    ("approved", _hold_over_an_account, "budget", "does not fit into the account 'user'"),
    ("approved", _hold_twice, "budget", "exists twice"),
    ("approved", _too_small_a_reservation, "budget", "less than a request of this size may cost"),
    ("approved", _too_small_a_tool_reservation, "budget", "less for call 'c2a' than the tool may cost"),
    ("approved", _another_model, "budget", "'dear/one', which the run was not opened with"),
    ("approved", _cost_over_the_reservation, "budget", "It cost 10000000 micro-dollars; attempt 1 of turn 1"),
    ("approved", _tool_cost_over_the_reservation, "budget", "It cost 5000 micro-dollars"),
    ("approved", _charge_not_by_usage, "budget", "by its usage and price it is 200"),
    ("approved", _settled_too_little, "budget", "micro-dollars as spent; by the log it is"),
    ("approved", _settled_out_of_thin_air, "budget", "do not add up to the hold"),
    ("approved", _settled_with_false_lines, "budget", "Its lines add up to"),
    ("approved", _settled_another_hold, "budget", "exactly the open holds"),
    ("approved", _settled_while_open, "budget", "settles the run while attempt 1 of turn 1"),
    ("approved", _granted_other_arguments, "approval", "other arguments than those asked about"),
    ("approved", _granted_another_contract, "approval", "another contract than the one asked about"),
    ("approved", _granted_too_late, "approval", "after the question had expired"),
    ("approved", _granted_by_another_person, "approval", "'eve' grants call 'c2a', but only ann, bob may"),
    ("approved", _granted_unasked, "approval", "about which no person was asked"),
    ("approved", _started_ungated, "approval", "but no event let it pass"),
    ("approved", _started_on_another_gate, "approval", r"on event \d+, but event \d+ let it pass"),
    ("approved", _started_with_other_arguments, "approval", "other arguments than those that passed"),
    ("destroyed", _destructive_cleared, "approval", "destructive, which only a person may let pass"),
    ("approved", _irreversible_cleared, "approval", "irreversible and no policy clears it"),
    ("approved", _untrusted_cleared, "approval", "comes from an untrusted source"),
    ("edited", _edited_cleared, "approval", "a person had changed it"),
    ("approved", _policy_asks_but_cleared, "approval", "the policy asks a person about every 'mail'"),
    ("approved", _cleared_other_arguments, "approval", "other arguments than those that were judged"),
    ("approved", _tier_lowered, "approval", "from irreversible to read"),
    ("approved", _other_arguments_than_written, "approval", "are not those that were written"),
    ("approved", _false_digest, "approval", "The digest of the arguments of call 'c2a' is false"),
    ("approved", _false_raw_digest, "approval", "judges other arguments of call 'c2a'"),
    ("approved", _tool_not_in_the_run, "approval", "the run has no tool 'pay'"),
    ("approved", _asked_about_something_else, "approval", "another tool, contract or arguments than judged"),
    ("approved", _asked_fewer_people, "approval", "other people about call 'c2a' than the policy names"),
    ("edited", _false_edit, "approval", "digest of the changed arguments"),
    ("approved", _false_signature, "approval", "signature under the decision about call 'c2a' is false"),
    ("approved", _no_signature, "approval", "No known key signed"),
    ("approved", _signed_by_another, "approval", "'bob' signed a decision that the log attributes to 'ann'"),
    ("approved", _result_of_no_start, "result", "attempt 9 of call 'c1a', which was never started"),
    ("approved", _end_of_no_wait, "result", "ends a wait of call 'c1a', which is not one"),
    ("approved", _proposal_of_no_start, "result", "attempt 1 of turn 7, which was never started"),
    ("approved", _another_answer, "answer", "not the one that the model gave"),
    ("approved", _answer_of_no_proposal, "answer", "which is not a final answer"),
    ("approved", _sealed_another_answer, "seal", "Its answer is not the accepted one"),
    ("approved", _sealed_as_another_end, "seal", "reports the run as failed; by the log it is completed"),
    ("approved", _sealed_another_head, "seal", "another head than the event before it"),
    ("approved", _sealed_false_receipt, "seal", "receipt calls 'c2a' not_started after 1; it is done"),
    ("approved", _sealed_short_receipt, "seal", "exactly the calls that passed"),
    ("approved", _sealed_omitting_what_fits, "seal", "exactly the calls that passed"),
    ("approved", _sealed_false_totals, "seal", "not those of the log"),
    ("approved", _sealed_holding_money, "seal", "still holds money"),
    ("approved", _sealed_while_open, "seal", "seals the run while attempt 1 of turn 1"),
    ("approved", _sealed_unfinished, "seal", "not over"),
    ("approved", _amended_without_facts, "seal", "names event 3 as a late result"),
]


@pytest.mark.parametrize(("scenario", "forge", "rule", "sentence"), RULES, ids=[row[1].__name__[1:] for row in RULES])
def test_a_broken_rule_is_found_although_every_hash_is_right(
    scenario: str, forge: Change, rule: str, sentence: str, log_of: LogOf
) -> None:
    """Each rule is reported as broken at the event that breaks it, in one sentence."""
    forger = Forger(log_of(scenario))
    n = forge(forger)
    verdict = check(forger.messages())
    assert verdict.sentence == f"broken at {n}", verdict.problems
    found = [(p.n, p.rule) for p in verdict.problems if re.search(sentence, p.sentence)]
    assert (n, rule) in found, verdict.problems


def test_a_call_of_a_fallback_that_policy_alone_cleared_is_found(log_of: LogOf) -> None:
    """It also finds that nothing had led to the fallback."""
    forger = Forger(log_of("approved"))
    n = _fallback_cleared(forger)
    verdict = check(forger.messages())
    assert any(p.n == n and "a fallback model proposed it" in p.sentence for p in verdict.problems)
    assert any(p.n < n and "although no model was known to be down" in p.sentence for p in verdict.problems)


GRANT = {"call": "c1a", "by": "ann"}
WARNING = {"limit": "cost", "value": 1, "max_value": 2}


@pytest.mark.parametrize(
    ("role", "name", "body", "sentence"),
    [
        ("planner", "granted", GRANT, "'granted' is not an event of the planner"),
        ("budget", "warned", WARNING, "'budget.warned' is not legal while the run is draining"),
    ],
)
def test_an_event_that_no_honest_role_appends_breaks_the_log(
    role: str, name: str, body: dict[str, Any], sentence: str, log_of: LogOf
) -> None:
    """An event of another role, and an event that does not fit the run, prove a stolen credential."""
    forger = Forger(log_of("stopped while asked"))
    at = forger.insert(forger.find("", "stopped") + 1, role, name, body)
    verdict = check(forger.messages())
    assert [(p.n, p.rule, p.level) for p in verdict.problems] == [(at, "legal", "broken")]
    assert sentence in verdict.problems[0].sentence
    assert verdict.sentence == f"broken at {at}"


def test_a_stop_that_came_too_late_is_shown_but_breaks_nothing(log_of: LogOf) -> None:
    """Any role may stop a run at any time; a sealed run is over."""
    forger = Forger(log_of("approved"))
    n = forger.insert(len(forger.events) + 1, "operator", "stopped", {"by": "ann", "why": "late", "code": "person"})
    verdict = check(forger.messages())
    assert [(p.n, p.rule, p.level) for p in verdict.problems] == [(n, "legal", "ignored")]
    assert verdict.sentence == "consistent"


def test_events_that_a_later_versions_event_may_explain_are_shown_but_break_nothing(log_of: LogOf) -> None:
    """After an unknown event, another event may fit that otherwise would not; a forgery never does."""
    forger = Forger(log_of("stopped while asked"))
    at = forger.insert(forger.find("", "stopped") + 1, "planner", "dreamt", {"of": "sheep"})
    forger.insert(at + 1, "budget", "warned", WARNING)
    forger.body("recorder", "sealed")["totals"]["forged_events"] = forger.find("recorder", "sealed") - 1
    verdict = check(forger.messages())
    assert {(p.n, p.level) for p in verdict.problems} == {(at, "ignored"), (at + 1, "ignored")}
    forged_n = forger.insert(at + 2, "planner", "granted", GRANT)
    assert check(forger.messages()).sentence == f"broken at {forged_n}"


def test_an_event_of_a_later_version_is_shown_but_breaks_nothing(log_of: LogOf) -> None:
    """A tag that this version does not know keeps its place in the chain."""
    forger = Forger(log_of("approved"))
    forger.insert(3, "planner", "dreamt", {"of": "sheep"})
    verdict = check(forger.messages())
    assert ("ignored", "legal") in {(p.level, p.rule) for p in verdict.problems}
    assert any("does not know 'planner.dreamt'" in p.sentence for p in verdict.problems)
    assert not verdict.broken


def test_a_stop_that_leaves_an_open_start_out_of_its_receipt_is_noted(log_of: LogOf) -> None:
    """A stop made from the last message alone cannot list the open starts, so no promise is broken."""
    forger = Forger(log_of("stopped"))
    forger.body("", "stopped")["open"] = []
    verdict = check(forger.messages())
    assert [(p.rule, p.level) for p in verdict.problems] == [("stop", "note")]


def test_a_fold_that_lets_a_destructive_call_pass_is_found_by_its_start(
    log_of: LogOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checker has its own rule, apart from the fold, so it finds a mistake of the fold."""

    def lax(run: Run, n: int, event: Cleared) -> str:
        for line in event.calls:
            run.calls[line.call].gate_n, run.calls[line.call].stage = n, Stage.READY
        return ""

    monkeypatch.setattr(approvals, "apply_cleared", lax)
    forger = Forger(log_of("destroyed"))
    n = _destructive_cleared(forger)
    del forger.events[n]
    start = forger.body("executor", "started")["calls"][0]
    start["gate_n"] = n
    sentence = "It starts call 'c1a', which is destructive, without a person's grant."
    assert (n + 1, "approval", sentence) in broken(check(forger.messages()))


def _opened_before_the_rule(f: Forger) -> None:
    f.body("validator", "opened")["gate_form"] = 0


def _of_tier(tier: str) -> Callable[[Forger], None]:
    def judge(f: Forger) -> None:
        f.body("validator", "judged")["calls"][0]["tier"] = tier

    return judge


def _asked_by_policy(f: Forger) -> None:
    f.body("validator", "opened")["policy"]["ask"] = ["lo*"]


def _of_untrusted_origin(f: Forger) -> None:
    f.body("validator", "judged")["calls"][0]["flags"] = ["untrusted-value"]


def _of_a_question(f: Forger) -> None:
    for tool in f.body("validator", "opened")["tools"]:
        tool["kind"] = "wait"


def _never(_opened: Opened, _call: CallState) -> bool:
    return False


def _unless_edited(_opened: Opened, call: CallState) -> bool:
    return not call.edited


@pytest.mark.parametrize("fold", ["honest", "lax"])
@pytest.mark.parametrize(
    "change",
    [
        _opened_before_the_rule,
        _of_tier("reversible"),
        _of_tier("irreversible"),
        _of_tier("destructive"),
        _asked_by_policy,
        _of_untrusted_origin,
        _of_a_question,
    ],
)
def test_a_start_without_the_approver_is_found_where_the_judgement_is_not_enough(
    change: Callable[[Forger], None], fold: str, log_of: LogOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the fold lets the call pass: the checker has its own rule."""
    if fold == "lax":
        monkeypatch.setattr(calls, "needs_approver", _never)
    forger = Forger(log_of("returned"))
    change(forger)
    n, judged_n = forger.find("executor", "started"), forger.find("validator", "judged")
    sentence = f"It starts call 'c1a' on event {judged_n}, but no event let it pass."
    assert (n, "approval", sentence) in broken(check(forger.messages()))


@pytest.mark.parametrize("fold", ["honest", "lax"])
def test_a_read_that_a_person_edited_does_not_start_on_its_judgement(
    fold: str, log_of: LogOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The approver decides whether the edit was an approval, though nothing else holds the call back any more."""
    if fold == "lax":
        monkeypatch.setattr(calls, "needs_approver", _unless_edited)
    forger = Forger(log_of("edited read"))
    forger.body("validator", "opened")["policy"]["ask"] = []
    forger.body("validator", "judged")["calls"][0]["flags"] = ["untrusted-value"]
    n, judged_n = forger.find("executor", "started"), forger.find("validator", "judged", 2)
    forger.events[forger.find("approver", "cleared") - 1] = (
        "budget",
        "warned",
        {"id": "w", "at": forger.events[n - 1][2]["at"], **WARNING},
    )
    forger.body("executor", "started")["calls"][0]["gate_n"] = judged_n
    sentence = f"It starts call 'c1a' on event {judged_n}, but no event let it pass."
    assert (n, "approval", sentence) in broken(check(forger.messages()))


def test_a_rule_that_fails_on_an_event_breaks_the_log_and_not_the_checker(
    log_of: LogOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a forger could make the checker give up."""

    def fails(*given: object) -> list[tuple[str, str]]:
        raise OverflowError(len(given))

    monkeypatch.setattr(checker, "check_held", fails)
    messages = log_of("approved")
    assert broken(check(messages))[0] == (2, "legal", "It cannot be folded: OverflowError: 2.")


@pytest.mark.parametrize("payload", [b"\xff\xfe", b"[" * 100_000, b'{"id":1}', b"", b'{"id":"x","prev":"y","at":7}'])
def test_no_payload_makes_the_checker_fail(payload: bytes, log_of: LogOf) -> None:
    """Whatever bytes a log holds, the result is a verdict."""
    messages = log_of("approved")
    messages[5] = (messages[5][0], payload, messages[5][2])
    assert check(messages).status == "broken"


def test_no_field_of_any_event_makes_the_checker_fail(log_of: LogOf) -> None:
    """Every field of every event is replaced by values of other kinds and sizes; there is always a verdict."""
    original = log_of("approved")
    for index, (_, _, body) in enumerate(Forger(original).events):
        for key in body:
            values: tuple[object, ...] = (None, -1, 10**18, "x#x", "x#" + "9" * 5_000, [], {}, "9999-12-31T23:59:59Z")
            for value in values:
                forger = Forger(original)
                forger.events[index][2][key] = value
                if key not in {"prev", "totals", "head_sha256"}:
                    check(forger.messages())


# --- checkpoints -------------------------------------------------------------------------------------------


def test_a_signed_checkpoint_makes_the_log_authentic_up_to_it(log_of: LogOf) -> None:
    """The last event that a known key vouches for is named; checkpoints of other runs are skipped."""
    messages = log_of("approved")
    other = msgspec.structs.replace(signed_checkpoint(messages, 3), run="r9")
    checkpoints = [signed_checkpoint(messages, 12), signed_checkpoint(messages, 5), other]
    verdict = check(messages, checkpoints=checkpoints)
    assert (verdict.sentence, verdict.authentic_n, verdict.problems) == ("authentic up to 12", 12, ())


def test_a_log_rewritten_after_a_checkpoint_is_broken(log_of: LogOf) -> None:
    """All hashes of the new chain are right, but the checkpoint vouches for another chain."""
    forger = Forger(log_of("approved"))
    checkpoint = signed_checkpoint(forger.messages(), 12)
    forger.body("executor", "finished")["result"] = "forged"
    verdict = check(forger.messages(), checkpoints=[checkpoint])
    assert verdict.sentence == "broken at 12"
    assert "vouches for another event 12" in broken(verdict)[0][2]


def test_an_end_that_was_cut_off_before_a_checkpoint_is_found(log_of: LogOf) -> None:
    """The chain cannot show that its end is missing; the checkpoint can."""
    messages = log_of("approved")
    verdict = check(messages[:10], checkpoints=[signed_checkpoint(messages, 12)])
    assert verdict.sentence == "broken at 11"
    assert "vouches for event 12, but the chain ends at 10" in broken(verdict)[0][2]


def test_a_checkpoint_with_a_false_signature_is_broken(log_of: LogOf) -> None:
    """Only the trusted key itself vouches, and only for the events that it signed."""
    messages = log_of("approved")
    for false in (
        signed_checkpoint(messages, 5, key=ANN),
        msgspec.structs.replace(signed_checkpoint(messages, 5), n=6),
    ):
        assert "signature" in broken(check(messages, checkpoints=[false]))[0][2]


def test_a_key_for_another_purpose_vouches_for_nothing(log_of: LogOf) -> None:
    """A key for approvals cannot vouch for the log, nor the other way round."""
    messages = log_of("approved")
    person = {"rec-1": TrustedKey(public_key=KEYS["rec-1"].public_key, purpose="person", name="rec")}
    verdict = check(messages, checkpoints=[signed_checkpoint(messages, 5)], keys=KEYS | person)
    assert (verdict.status, [p.level for p in verdict.problems]) == ("consistent", ["note"])


def test_without_keys_a_signature_is_noted_as_unchecked(log_of: LogOf) -> None:
    """A checker without keys notes that, and calls the log neither authentic nor broken."""
    verdict = check(log_of("approved"), keys={})
    assert [(p.rule, p.level) for p in verdict.problems] == [("approval", "note")]
    assert verdict.sentence == "consistent"
