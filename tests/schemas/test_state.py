"""``Run``: the state of one run, from its log."""

from __future__ import annotations

import msgspec
from tests.builders import NOW, OK, RUN, TENANT, Story, agent, at_work, call, refolded, reply

from linestop.schemas.events import Opened, Stopped
from linestop.schemas.run.fold import Run
from linestop.schemas.run.phases import Phase


def test_an_empty_run_is_new() -> None:
    """It has the default limits and no work."""
    run = Run(TENANT, RUN)
    assert (run.phase, run.n, run.done, run.proposal, run.model_attempt) == (Phase.NEW, 0, False, None, None)
    assert run.active_s(NOW) == 0.0
    assert run.stages() == set()


def test_two_readers_of_the_same_messages_hold_the_same_run() -> None:
    """The fold has no clock and no configuration."""
    story = at_work(call("look"), call("pay")).finish_tools(look=OK)
    again = refolded(story)
    for name in (
        "phase",
        "head",
        "n",
        "at",
        "spent_micros",
        "held_micros",
        "context_bytes",
        "tokens",
        "turn",
        "wait_s",
    ):
        assert getattr(again, name) == getattr(story.run, name)


def test_a_message_that_was_folded_changes_nothing() -> None:
    """A message that is fed twice is harmless, and is not listed."""
    story = at_work(call("look"))
    count = len(story.run.entries)
    entry = story.run.apply(*story.messages[-1])
    assert entry.ignored == "it was folded before"
    assert len(story.run.entries) == count


def test_a_message_with_another_number_or_hash_is_void() -> None:
    """It has no number, and the chain continues after it."""
    story = Story().open_run()
    subject, payload, _ = story.messages[0]
    seq = story.run.head_seq
    assert "its number is 1" in story.run.apply(subject, payload, seq + 1).ignored
    forged = msgspec.json.encode({"id": "x", "prev": "0" * 64})
    assert "hash" in story.run.apply("runs.acme.r1.planner.stopped.2", forged, seq + 2).ignored
    assert "no readable envelope" in story.run.apply("runs.acme.r1.planner.stopped.2", b"{}", seq + 3).ignored
    assert (story.run.n, story.run.head_seq) == (1, seq + 3)
    story.when("budget").append_decided()
    assert story.run.n == 2


def test_an_event_before_the_time_of_its_head_is_ignored() -> None:
    """It keeps its number; time does not go backwards in a log."""
    story = Story().advance_s(10).open_run()
    entry = story.append("operator", Stopped(by="x", why="y"), at=NOW)
    assert (entry.n, entry.ignored) == (2, "its time is before that of the event it follows")
    assert story.run.stopped is None


def test_an_illegal_event_says_in_which_phase() -> None:
    """It changes nothing."""
    story = Story().open_run()
    entry = story.append("validator", story.last(Opened))
    assert entry.ignored == "'validator.opened' is not legal while the run is queued"


def test_an_unknown_event_is_noted_and_the_chain_goes_on() -> None:
    """A process that does not understand a run appends nothing to it."""
    story = Story().open_run()
    payload = msgspec.json.encode({"id": "x", "prev": story.run.head})
    entry = story.run.apply("runs.acme.r1.planner.dreamt.2", payload, 2)
    assert (entry.n, story.run.has_unknown_events) == (2, True)
    assert not story.append("operator", Stopped(by="x", why="y")).ignored


def test_waiting_time_is_added_up_apart_from_active_time() -> None:
    """Each wait from the event that began it to the one that ended it."""
    story = at_work(call("pay")).advance_s(100)
    assert story.active_s() == 0.0
    story.send_control("approve", call="pay").append_decided().run_until_idle().advance_s(7)
    assert (story.run.wait_s, story.active_s()) == (100.0, 7.0)


def test_events_left_counts_the_events_for_new_work() -> None:
    """The last fifty events are not included."""
    story = Story(agent(limits={"events_max": 100})).open_run()
    assert story.run.events_left == 49


def test_the_phase_shows_what_the_run_must_do_first() -> None:
    """The test goes from opening to seal."""
    story = Story().open_run()
    phases = [story.run.phase]
    story.run_until_idle()
    phases.append(story.run.phase)
    answer = story.planner_events(story.caller.answer)
    story.given(*answer)
    phases.append(story.run.phase)
    story.when("validator").append_decided()
    phases.append(story.run.phase)
    story.run_until_idle()
    phases.append(story.run.phase)
    assert phases == [Phase.QUEUED, Phase.THINKING, Phase.ANSWERING, Phase.SETTLING, Phase.SEALED]


def test_several_calls_show_their_most_urgent_phase() -> None:
    """Judging comes before clearing, performing before waiting."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("look"), call("pay"))))
    phases = [story.run.phase]
    story.when("validator").append_decided()
    phases.append(story.run.phase)
    story.run_until_idle()
    phases.append(story.run.phase)
    story.finish_tools(look=OK)
    phases.append(story.run.phase)
    assert phases == [Phase.JUDGING, Phase.CLEARING, Phase.ACTING, Phase.WAITING]
    assert story.run.stages() == {"answered", "asked"}
