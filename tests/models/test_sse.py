"""Server-sent events from bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linestop.models import sse
from linestop.models.sse import EventDecoder, SseEvent
from linestop.schemas.model_messages import ModelFailed

STREAM = b": comment\r\nevent: a\r\ndata: 1\r\n\r\ndata:2\ndata: 3\n\nid: 7\n\ndata: unfinished\n"


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=8))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    """Any division into chunks gives the same events; an unfinished event is never yielded."""
    places = [0, *sorted(cuts), len(STREAM)]
    decoder = EventDecoder()
    events = [event for start, end in itertools.pairwise(places) for event in decoder.feed(STREAM[start:end])]
    assert events == [SseEvent("a", b"1"), SseEvent("", b"2\n3")]


def test_a_stream_over_its_bound_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a whole stream nor one line without an end may grow without limit."""
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 100)
    with pytest.raises(ModelFailed, match="One event of the model's answer is over 100 bytes"):
        list(EventDecoder().feed(b"data: " + b"x" * 200))
    monkeypatch.setattr(sse, "STREAM_BYTES_MAX", 100)
    decoder = EventDecoder()
    list(decoder.feed(b"data: x\n\n" * 10))
    with pytest.raises(ModelFailed, match="answer is over 100 bytes"):
        list(decoder.feed(b"data: x\n\n" * 10))


@pytest.mark.timeout(60)
def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    """Eight bytes at a time: searching the whole buffer again with each piece would take longer than the limit."""
    decoder = EventDecoder()
    pieces = [b"data: ", *[b"x" * 8] * 250_000, b"\n\n"]
    events = [event for piece in pieces for event in decoder.feed(piece)]
    assert [len(event.data) for event in events] == [2_000_000]
