"""The contents of a stop."""

from __future__ import annotations

from tests.builders import OK, Story, at_work, call

from linestop.schemas.events import LimitHit, OpenStart
from linestop.schemas.run.make_stop import open_starts, stop_event


def test_a_stop_lists_every_open_start() -> None:
    """These may still be running when the stop is acknowledged."""
    story = at_work(call("look"), call("note")).finish_tools(look=OK)
    n = story.run.open_attempts[0].n
    event = stop_event(story.run, by="ann", why="x", code="limit", limit=LimitHit(name="l", value=2, max_value=1))
    assert event.open == open_starts(story.run) == (OpenStart(n=n, what="note", attempt=1),)
    assert (event.by, event.why, event.code, event.mode) == ("ann", "x", "limit", "fence")


def test_a_run_without_open_starts_has_an_empty_list() -> None:
    """The stop lists no open start."""
    assert open_starts(Story().open_run().run) == ()
