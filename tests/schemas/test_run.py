"""``Run``: one run as its log tells it."""

from __future__ import annotations

import msgspec
from tests.builders import NOW, OK, RUN, TENANT, Story, agent, at_work, call, copied, reply

from linestop.schemas.events import Opened, Stopped
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.state import Run


def test_an_empty_run_is_new() -> None:
    """With the default limits, and nothing done."""
    run = Run(TENANT, RUN)
    assert (run.phase, run.n, run.done, run.proposal, run.model_attempt) == (Phase.NEW, 0, False, None, None)
    assert run.active_s(NOW) == 0.0
    assert run.stages() == set()


def test_two_readers_of_the_same_messages_hold_the_same_run() -> None:
    """The fold has no clock and no configuration."""
    story = at_work(call("look"), call("pay")).tools(look=OK)
    again = copied(story)
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
    """Feeding it twice is harmless, and is not listed."""
    story = at_work(call("look"))
    count = len(story.run.entries)
    entry = story.run.apply(*story.messages[-1])
    assert entry.ignored == "it was folded before"
    assert len(story.run.entries) == count


def test_a_message_with_another_number_or_hash_is_void() -> None:
    """It has no n, and the chain goes on behind it."""
    story = Story().opened()
    subject, payload, _ = story.messages[0]
    seq = story.run.head_seq
    assert "its number is 1" in story.run.apply(subject, payload, seq + 1).ignored
    forged = msgspec.json.encode({"id": "x", "prev": "0" * 64})
    assert "hash" in story.run.apply("runs.acme.r1.planner.stopped.2", forged, seq + 2).ignored
    assert "no readable envelope" in story.run.apply("runs.acme.r1.planner.stopped.2", b"{}", seq + 3).ignored
    assert (story.run.n, story.run.head_seq) == (1, seq + 3)
    story.when("budget").said()
    assert story.run.n == 2


def test_an_event_before_the_time_of_its_head_is_ignored() -> None:
    """It keeps its number; time does not run backwards in a log."""
    story = Story().wait(10).opened()
    entry = story.tell("operator", Stopped(by="x", why="y"), at=NOW)
    assert (entry.n, entry.ignored) == (2, "its time is before that of the event it follows")
    assert story.run.stopped is None


def test_an_illegal_event_says_in_which_phase() -> None:
    """And leaves everything as it was."""
    story = Story().opened()
    entry = story.tell("validator", story.last(Opened))
    assert entry.ignored == "'validator.opened' is not legal while the run is queued"


def test_an_unheard_of_event_makes_the_reader_blind_and_the_chain_goes_on() -> None:
    """A process that does not understand a run says nothing in it."""
    story = Story().opened()
    payload = msgspec.json.encode({"id": "x", "prev": story.run.head})
    entry = story.run.apply("runs.acme.r1.planner.dreamt.2", payload, 2)
    assert (entry.n, story.run.blind) == (2, True)
    assert not story.tell("operator", Stopped(by="x", why="y")).ignored


def test_waits_are_added_up_apart_from_work() -> None:
    """Each wait from the event that began it to the one that ended it."""
    story = at_work(call("pay")).wait(100)
    assert story.worked_s() == 0.0
    story.word("approve", call="pay").said().quiet().wait(7)
    assert (story.run.wait_s, story.worked_s()) == (100.0, 7.0)


def test_the_room_is_what_new_work_may_still_use() -> None:
    """The last fifty events are not part of it."""
    story = Story(agent(limits={"events_max": 100})).opened()
    assert story.run.room == 49


def test_the_phase_shows_what_the_run_must_do_first() -> None:
    """From opening to seal."""
    story = Story().opened()
    seen = [story.run.phase]
    story.quiet()
    seen.append(story.run.phase)
    answer = story.heard(story.caller.answer)
    story.given(*answer)
    seen.append(story.run.phase)
    story.when("validator").said()
    seen.append(story.run.phase)
    story.quiet()
    seen.append(story.run.phase)
    assert seen == [Phase.QUEUED, Phase.THINKING, Phase.ANSWERING, Phase.SETTLING, Phase.SEALED]


def test_several_calls_show_their_most_urgent_phase() -> None:
    """Judging before clearing, acting before waiting."""
    story = Story().opened().quiet()
    story.given(*story.heard(reply(call("look"), call("pay"))))
    seen = [story.run.phase]
    story.when("validator").said()
    seen.append(story.run.phase)
    story.quiet()
    seen.append(story.run.phase)
    story.tools(look=OK)
    seen.append(story.run.phase)
    assert seen == [Phase.JUDGING, Phase.CLEARING, Phase.ACTING, Phase.WAITING]
    assert story.run.stages() == {"answered", "asked"}
