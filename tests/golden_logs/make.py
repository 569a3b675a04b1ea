"""Writes the golden logs beside it: ``python -m tests.golden_logs.make``.

Each is a complete run as this version wrote it: ``<name>.jsonl`` with one stored message a line (subject and
payload), and ``<name>.expect.json`` with what it folds to and the agent it was opened with; a run that was opened
has its agent's version in ``<name>.agent.json``, byte by byte as it was stored. Once written they stay: later
versions must always fold them to the same state, and must be able to end every beginning of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from tests.builders import OK, SPARE, TASK, Story, agent, at_work, call, reply

from linestop.actors.facts import CurrentAgent, IncomingTask
from linestop.schemas.events import Finished, Policy, Stopped
from linestop.schemas.messages import Task
from linestop.schemas.model_messages import ModelFailed, Usage
from linestop.schemas.run.fold import Run
from linestop.schemas.tool_contracts import ToolError, ToolResult

HERE = Path(__file__).parent
UNKNOWN = ToolResult(outcome="unknown")
ROOMY = {"tokens_max": 500_000, "cost_max_micros": 5_000_000, "wall_s": 10_000}


def completed() -> Story:
    """Two reads, one payment that a person approves, one that is edited, and the answer."""
    story = (
        at_work(call("look"), call("pay", '{"q":"ann@example.com","amount":25}')).finish_tools(look=OK).advance_s(60)
    )
    story.send_control("approve", call="pay", why="fine").append_decided().run_until_idle().finish_tools(pay=OK)
    story.finish_model(reply(call("pay", '{"q":"eve@example.org"}', id="second"), call("rent", id="car")))
    story.advance_s(5).send_control(
        "edit", call="second", args={"q": "ann@example.com"}
    ).append_decided().run_until_idle()
    story.send_control("deny", call="second", why="once is enough").append_decided().run_until_idle().finish_tools(
        car=OK
    )
    return story.finish_model(reply(text="Order 4711 is refunded."))


def looped() -> Story:
    """The same read four times with the same result."""
    story = at_work(call("look", id="a")).finish_tools(a=OK)
    for name in "bc":
        story.advance_s(1).finish_model(reply(call("look", id=name))).finish_tools(**{name: OK})
    return story.finish_model(reply(call("look", id="d")))


def stopped_with_late_results() -> Story:
    """A stop while a payment and a read are open; one result before the seal, one after it."""
    story = at_work(call("look"), call("pay")).send_control("approve", call="pay").append_decided().run_until_idle()
    story.advance_s(1).send_control("stop", why="the line is stopped").append_decided().run_until_idle().finish_tools(
        look=OK
    )
    story.advance_s(12).run_until_idle()
    assert story.run.phase == "sealed"
    story.advance_s(3).given(Finished(call="pay", attempt=1, outcome="succeeded", result='{"ok":true}', late=True))
    return story.run_until_idle()


def unknown_resolved() -> Story:
    """A wire whose probe cannot tell; a person decides for a retry, then that it was done."""
    story = at_work(call("wire")).send_control("approve", call="wire").append_decided().run_until_idle()
    story.advance_s(12).run_until_idle().finish_tools(wire=ToolResult(outcome="unknown"))
    story.advance_s(30).send_control(
        "resolve", call="wire", action="retry", why="the bank has nothing"
    ).append_decided().run_until_idle()
    story.finish_tools(wire=UNKNOWN).advance_s(30)
    story.send_control("resolve", call="wire", action="done", result={"id": 9}).append_decided().run_until_idle()
    return story.finish_model(reply(text="The wire went out."))


def compacted() -> Story:
    """Long results, a summary, and further turns."""
    small = msgspec.structs.replace(SPARE, window_tokens=10_000)
    story = Story(agent(model=small, limits=ROOMY)).open_run().run_until_idle()
    long = ToolResult(outcome="succeeded", value="y" * 15_000)
    for name in "ab":
        usage = Usage(fresh_in=story.run.context_bytes // 4, out=9)
        story.advance_s(1).finish_model(reply(call("look", f'{{"q":"{name}"}}', id=name), usage=usage)).finish_tools(
            **{name: long}
        )
    story.finish_model(reply(text="Two long pages were read; nothing is left to do."))
    return story.advance_s(1).finish_model(reply(text="done at last"))


def refused() -> Story:
    """A task without a text."""
    story = Story(task=Task(text=" "))
    incoming = IncomingTask(agent="desk", sha256="0" * 64, task=story.task)
    return (
        story.when("validator", incoming, CurrentAgent(version=story.version)).append_decided().run_until_idle(incoming)
    )


def fallen_back() -> Story:
    """The first model is down, twice; the second one answers; a takeover in between."""
    story = Story(agent(fallbacks=(SPARE,), limits={**ROOMY, "model_retries_max": 1})).open_run().run_until_idle()
    story.finish_model(ModelFailed("availability", "connection refused")).advance_s(2).run_until_idle()
    story.finish_model(ModelFailed("rate_limit", "too many requests", possibly_billed=True))
    story.advance_s(131).run_until_idle()
    story.finish_model(reply(call("note"), call("ask.person", '{"question":"which?"}', id="q"))).finish_tools(note=OK)
    story.advance_s(9).send_control("answer", call="q", answer="the first").append_decided().run_until_idle()
    return (
        story.send_control("pause")
        .append_decided()
        .advance_s(5)
        .send_control("resume")
        .append_decided()
        .run_until_idle()
        .finish_model(reply())
    )


def denied_spending() -> Story:
    """A person denies further spending."""
    version = agent(policy=Policy(ask_on_spend=True), limits={"ask_from_micros": 30_000})
    story = Story(version).open_run().run_until_idle().finish_model(reply(call("look"))).finish_tools(look=OK)
    if story.run.spend_asked is None:
        story.finish_model(reply(call("rent")))
    return story.advance_s(4).send_control("deny", why="too dear").append_decided().run_until_idle()


def stopped_first() -> Story:
    """A stop of a run that was never opened."""
    return Story(task=Task(text=TASK)).given(Stopped(by="ann", why="not today"), by="operator").run_until_idle()


def every_outcome() -> Story:
    """Every outcome of a call, in the form that the model receives; and a result that is too long to store."""
    version = agent(limits={**ROOMY, "result_bytes_max": 200})
    story = Story(version).open_run().run_until_idle()
    story.finish_model(
        reply(call("look"), call("note"), call("pay"), call("nothing"), call("look", '{"x":1}', id="odd"))
    )
    error = ToolError(type="invalid", message='no "order"', retry_safe=True)
    story.finish_tools(
        look=ToolResult(outcome="succeeded", value="y" * 999), note=ToolResult(outcome="failed", error=error)
    )
    story.advance_s(2).send_control("deny", call="pay", why="too much").append_decided().run_until_idle()
    story.finish_model(reply(call("pay", id="again"), call("note", '{"q":"b"}', id="note2")))
    story.advance_s(1).send_control(
        "edit", call="again", args={"q": "ann@example.com"}
    ).append_decided().run_until_idle()
    story.finish_tools(again=msgspec.structs.replace(OK, findings=("odd",)), note2=OK)
    return story.finish_model(reply(text="All was told."))


def read_at_once() -> Story:
    """Reads that start on their judgement: alone, beside a note and a payment, a wait for a date, after an edit."""
    story = at_work(call("look"), version=agent(policy=Policy(ask=("rent",)))).finish_tools(look=OK)
    story.finish_model(reply(call("look", '{"q":"b"}', id="beside"), call("note"), call("pay")))
    story.finish_tools(beside=OK, note=OK).advance_s(3)
    story.send_control("deny", call="pay", why="not now").append_decided().run_until_idle()
    until = (story.now + timedelta(seconds=60)).isoformat()
    story.finish_model(reply(call("wait.until", f'{{"until":"{until}"}}', id="wait"))).advance_s(61).run_until_idle()
    story.finish_model(reply(call("rent", id="car"))).advance_s(2)
    story.send_control("edit", call="car", args={"q": "a small one"}).append_decided().run_until_idle()
    return story.finish_tools(car=OK).finish_model(reply(text="The car waits."))


STORIES: dict[str, Callable[[], Story]] = {
    "completed": completed,
    "looped": looped,
    "stopped-with-late-facts": stopped_with_late_results,
    "unknown-resolved": unknown_resolved,
    "compacted": compacted,
    "refused": refused,
    "fallen-back": fallen_back,
    "denied-spending": denied_spending,
    "stopped-first": stopped_first,
    "told-in-one-form": every_outcome,
    "read-at-once": read_at_once,
}


def summary_of(run: Run) -> dict[str, Any]:
    """Return the visible state that a log folds to."""
    assert run.sealed is not None
    return {
        "phase": run.phase,
        "head": run.head,
        "events": [f"{e.n} {e.role}.{e.name}" + (f" ignored: {e.ignored}" if e.ignored else "") for e in run.entries],
        "sealed": msgspec.to_builtins(run.sealed),
        "amended": msgspec.to_builtins(run.amended),
        "turn": run.turn,
        "tokens": run.tokens,
        "spent_micros": run.spent_micros,
        "held_micros": run.held_micros,
        "wait_s": run.wait_s,
        "context_bytes": run.context_bytes,
        "calls": {
            c.call: [c.stage, c.fate, len(c.attempts), c.outcome_text[:80], c.is_error] for c in run.calls.values()
        },
    }


def files(name: str) -> dict[str, bytes]:
    """Return the files of one story, as this version would write them."""
    story = STORIES[name]()
    lines = [msgspec.json.encode({"subject": s, "payload": p.decode()}) for s, p, _ in story.messages]
    expected = {"agent": msgspec.to_builtins(story.version), **summary_of(story.run)}
    version = {f"{name}.agent.json": story.version.stored_bytes()} if story.run.opened is not None else {}
    return {
        f"{name}.jsonl": b"\n".join(lines) + b"\n",
        f"{name}.expect.json": msgspec.json.format(msgspec.json.encode(expected), indent=1) + b"\n",
        **version,
    }


def main() -> None:
    """Write the missing ones; for existing ones this version may produce other events."""
    for name in STORIES:
        if not (HERE / f"{name}.jsonl").exists():
            for file, data in files(name).items():
                (HERE / file).write_bytes(data)
                sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
