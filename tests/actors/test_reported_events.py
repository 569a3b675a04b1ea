"""Events that are reported to a run before it waits for them, or while it does."""

from __future__ import annotations

from msgspec.structs import replace
from tests.builders import CONTRACTS, RUN, TENANT, Story, agent, call, contract, refusal, reply

from linestop.actors.control_messages import rejection_reason
from linestop.actors.facts import ControlMessage
from linestop.schemas.defaults import REPORTED_EVENTS_MAX
from linestop.schemas.events import Answered
from linestop.schemas.messages import Control
from linestop.schemas.model_messages import ToolCall
from linestop.schemas.run.call_states import Stage
from linestop.schemas.verify.check_log import verify

NAMED = {"type": "object", "properties": {"name": {"type": "string"}}}
AGENT = agent(tools=(*CONTRACTS, contract("wait.for_event", kind="wait", parameters=NAMED)))


def wait(name: str, place: str) -> ToolCall:
    """A call that waits for the event."""
    return call("wait.for_event", f'{{"name":"{name}"}}', id=place)


def started() -> Story:
    """A run that has not waited yet: its model request is in progress."""
    return Story(AGENT).open_run().run_until_idle()


def test_an_event_reported_before_its_wait_ends_the_wait_without_a_question() -> None:
    """The payment may be faster than the model; its report is used once, the oldest of its name first."""
    story = started()
    for cents in (1, 2):
        story.send_control("answer", event="paid", answer={"cents": cents}).then(Answered, call="", event="paid")
    story.finish_model(reply(wait("paid", "w1")))
    assert (story.stage("w1"), story.run.calls["w1"].outcome_text) == (Stage.ENDED, '{"cents":1}')
    assert "approver.asked" not in story.event_names()
    story.finish_model(reply(wait("paid", "w2"))).finish_model(reply(wait("paid", "w3")))
    assert (story.run.calls["w2"].outcome_text, story.stage("w3")) == ('{"cents":2}', Stage.ASKED)
    story.send_control("answer", event="paid", answer="now").then(Answered, call="w3", reported_n=0)
    assert story.stage("w3") == Stage.ENDED
    assert not story.run.reported_events
    assert not [each for each in verify(TENANT, RUN, story.messages).problems if each.level == "broken"]


def test_an_event_of_another_name_does_not_end_the_wait() -> None:
    """It is stored for a wait for its own name."""
    story = started()
    story.send_control("answer", event="shipped", answer={}).append_decided()
    story.finish_model(reply(wait("paid", "w1")))
    assert story.stage("w1") == Stage.ASKED
    assert len(story.run.reported_events) == 1


def test_a_run_stores_a_bounded_number_of_reported_events() -> None:
    """One more is refused with the number, whatever its name."""
    story = started()
    for number in range(REPORTED_EVENTS_MAX):
        story.send_control("answer", event=f"e{number}", answer={}).append_decided()
    assert f"already stores {REPORTED_EVENTS_MAX} events that no call waits for" in refusal(
        story, "answer", event="one-more", answer={}
    )
    assert story.append("approver", Answered(call="", event="forged", answer="", by="x")).ignored
    assert len(story.run.reported_events) == REPORTED_EVENTS_MAX


def test_reports_of_clients_take_no_place_of_trusted_reports() -> None:
    """Nor do they come first: a client may report any name beforehand."""
    story = started()
    for number in range(REPORTED_EVENTS_MAX):
        forged = Control(event="paid" if number == 0 else f"e{number}", answer="forged")
        story.when("approver", ControlMessage(verb="answer", control=forged)).append_decided()
    more = ControlMessage(verb="answer", control=Control(event="paid", answer="again"))
    assert f"already stores {REPORTED_EVENTS_MAX} events" in rejection_reason(story.run, more, story.now)
    story.send_control("answer", event="paid", answer="real").append_decided()
    story.finish_model(reply(wait("paid", "w1")))
    answered = next(entry.event for entry in reversed(story.run.entries) if isinstance(entry.event, Answered))
    assert (answered.call, answered.answer, answered.untrusted) == ("w1", "real", False)
    assert not [each for each in verify(TENANT, RUN, story.messages).problems if each.level == "broken"]


def test_a_wait_is_answered_only_by_a_stored_report() -> None:
    """Whichever process writes it, an event with another name or text, or with a used or missing report, is ignored."""
    story = started()
    story.send_control("answer", event="paid", answer="yes").append_decided()
    n = story.run.n
    story.given(*story.planner_events(reply(wait("paid", "w1"), wait("other", "w2")))).when(
        "validator"
    ).append_decided()
    real = story.when("approver").decided
    assert isinstance(real, Answered)
    for field, value in (("answer", "no"), ("by", "eve"), ("call", "w2"), ("untrusted", True), ("reported_n", n - 1)):
        assert story.append("approver", replace(real, **{field: value})).ignored, field
    assert not story.append("approver", real).ignored
    assert story.append("approver", real).ignored
