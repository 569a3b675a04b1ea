"""The prompt of a model request, assembled from the log."""

from __future__ import annotations

import hashlib

import msgspec
from tests.builders import OK, TASK, Story, agent, at_work, call, reply

from linestop.actors.model_turn.prompt import ANSWER_FORM, BASE_RULES, COMPACT_RULES, assemble, base_size, system_text
from linestop.schemas.events import BlobRef, Compacted, ExactValue, ModelStarted, Proposed, ProposedCall
from linestop.schemas.run.fold import Run
from linestop.schemas.tool_contracts import ToolError, ToolResult, canonical

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def size(run: Run, story: Story, purpose: str = "turn") -> int:
    """Bytes of everything in the next prompt that a provider turns into tokens."""
    prompt = assemble(run, story.version, purpose=purpose)
    message_bytes = sum(
        len(m.result_text.encode())
        + len(m.call_id)
        + sum(len(c.id) + len(c.name) + len(c.args.encode()) for c in m.calls)
        for m in prompt.messages
    )
    return len(prompt.system.encode()) + message_bytes + len(canonical(prompt.tools))


def test_a_prompt_begins_with_rules_agent_facts_and_task() -> None:
    """In this order, and nothing else before the first proposal."""
    story = Story(agent(pinned=("We close at five.",))).open_run()
    prompt = assemble(story.run, story.version)
    assert prompt.system == BASE_RULES + "\nBe good.\n\nFacts:\n- We close at five."
    assert [(m.role, m.text) for m in prompt.messages] == [("user", TASK)]
    assert {spec.name for spec in prompt.tools} == {c.name for c in story.version.tools}


def test_every_call_is_followed_by_its_outcome() -> None:
    """Errors are marked, in the order of the calls."""
    failed = ToolResult(outcome="failed", error=ToolError(type="permanent", message="no such note"))
    story = at_work(call("look"), call("note")).finish_tools(look=OK, note=failed)
    proposal, first, second = assemble(story.run, story.version).messages[1:]
    assert [c.id for c in proposal.calls] == ["look", "note"]
    assert (first.call_id, first.text, first.is_error) == ("look", '{"ok":true}', False)
    assert (second.call_id, second.text, second.is_error) == ("note", "no such note", True)


def test_only_the_tools_of_the_run_are_shown() -> None:
    """A tool outside the task's scope is not even named."""
    story = Story(task=msgspec.structs.replace(Story().task, scope=("pay", "look"))).open_run()
    assert [spec.name for spec in assemble(story.run, story.version).tools] == ["look", "pay"]


def test_a_returned_answer_is_followed_by_its_errors() -> None:
    """The model reads the errors."""
    story = Story(agent(output_schema=SCHEMA)).open_run().run_until_idle().finish_model(reply(text="no"))
    last = assemble(story.run, story.version).messages[-1]
    assert last.role == "user"
    assert "not valid JSON" in last.text


def test_a_summary_replaces_the_turns_that_it_covers() -> None:
    """Values that must not be lost follow it."""
    story = at_work(call("look")).finish_tools(look=OK)
    covered = story.run.proposals[-1].n
    start = story.last(ModelStarted)
    story.run.turn_attempts[-1].purpose = "compact"
    story.given(
        Compacted(
            turn=start.turn,
            attempt=1,
            covers_from=1,
            covers_to=covered,
            summary="looked once",
            values=(ExactValue(value="4711", n=4),),
        )
    )
    messages = assemble(story.run, story.version).messages
    assert len(messages) == 2
    assert messages[1].text.endswith("looked once\nExact values:\n- 4711 (event 4)")
    assert size(story.run, story) <= story.run.context_bytes


def test_a_compaction_is_asked_for_without_tools() -> None:
    """The model can only reply with a text."""
    story = at_work(call("look")).finish_tools(look=OK)
    prompt = assemble(story.run, story.version, purpose="compact")
    assert prompt.tools == ()
    assert prompt.messages[-1].text == COMPACT_RULES


def test_a_text_in_a_blob_is_named_but_not_shown() -> None:
    """A prompt never grows by what is stored elsewhere."""
    story = Story().open_run().run_until_idle()
    ref = BlobRef(sha256="a" * 64, bytes=90_000)
    story.given(
        Proposed(turn=1, attempt=1, text=ref, calls=(ProposedCall(call="c", tool="fly", args=ref),))
    ).run_until_idle()
    message = assemble(story.run, story.version).messages[1]
    assert "90000 bytes" in message.text
    assert "90000 bytes" in message.calls[0].args
    assert size(story.run, story) <= story.run.context_bytes


def test_the_same_log_gives_the_same_prompt_and_another_log_another_digest() -> None:
    """The digest is known before the request and covers everything that is sent."""
    first, second = at_work(call("look")).finish_tools(look=OK), at_work(call("look")).finish_tools(look=OK)
    prompt = assemble(first.run, first.version)
    assert prompt == assemble(second.run, second.version)
    other = at_work(call("look")).finish_tools(look=ToolResult(outcome="succeeded", value=2))
    assert prompt.sha256 != assemble(other.run, other.version).sha256
    assert prompt.sha256 != assemble(first.run, first.version, purpose="compact").sha256


def test_the_answer_schema_is_sent_once_and_leaves_tools_usable() -> None:
    """With tools it is part of the system prompt, without tools part of the request; a summary has no schema."""
    version = agent(output_schema=SCHEMA)
    run = Story(version).open_run().run
    prompt, system = assemble(run, version), system_text(version, form=True)
    assert (prompt.system, prompt.output_schema) == (system, None)
    assert system.endswith(ANSWER_FORM + canonical(SCHEMA).decode())
    summary = assemble(run, version, purpose="compact")
    assert (summary.system, summary.output_schema) == (system_text(version), None)
    version = agent(output_schema=SCHEMA, tools=())
    alone = assemble(Story(version).open_run().run, version)
    assert (alone.system, alone.output_schema) == (system_text(version), SCHEMA)


def test_the_digest_covers_parameters_and_schema_where_there_are_any() -> None:
    """Without both, the digest is the one in logs of earlier versions."""
    run = Story().open_run().run
    plain = assemble(run, agent(tools=()))
    sent = canonical([plain.system, plain.messages, plain.tools])
    assert plain.sha256 == hashlib.sha256(sent).hexdigest()
    version = agent(tools=(), output_schema=SCHEMA)
    others = (agent(tools=(), params={"seed": 1}), version, msgspec.structs.replace(version, params={"seed": 1}))
    without_tools = msgspec.structs.replace(run.opened, tools=()) if run.opened else None
    run.opened = without_tools
    assert len({assemble(run, other).sha256 for other in (agent(tools=()), *others)}) == 4


def test_the_size_bound_holds_from_the_first_prompt_on() -> None:
    """A model request never sends more than it reserves for."""
    story = Story(agent(pinned=("é" * 50,), output_schema=SCHEMA | {"description": "é" * 4_000})).open_run()
    assert size(story.run, story) <= story.run.context_bytes
    assert size(story.run, story, "compact") <= story.run.context_bytes
    story = at_work(call("look"), call("note"), call("fly")).finish_tools(look=OK, note=OK)
    assert size(story.run, story) <= story.run.context_bytes


def test_the_base_counts_system_tools_and_schema() -> None:
    """``base_size`` bounds the beginning of every request of the run."""
    version = agent(output_schema=SCHEMA)
    assert base_size(version, ("look",)).bytes > len(system_text(version).encode()) + len(COMPACT_RULES)
    sizes = [base_size(version, tools) for tools in ((), ("look",), ("look", "pay"))]
    assert sizes[0].bytes < sizes[1].bytes < sizes[2].bytes
    assert sizes[0].tokens < sizes[1].tokens < sizes[2].tokens
