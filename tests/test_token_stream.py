"""The tokens of a run, put together from pieces that may be lost and from the log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from linestop.client.token_stream import Piece, Token, TokenStream
from linestop.schemas.events import AnyEvent, Cue, ModelFailedEvent, ModelStarted, Proposed
from linestop.schemas.run.state import Entry

AT = datetime(2026, 1, 1, tzinfo=UTC)
ENVELOPE: dict[str, Any] = {"id": "x", "at": AT, "prev": "", "cue": Cue(kind="task", id="t")}

FIRST = (1, 1)
RECEIVED = (Piece(FIRST, 0, "one "), Piece(FIRST, 0, "one t"), Piece(FIRST, 5, "wo"))


def _entry(event: AnyEvent, ignored: str = "") -> Entry:
    return Entry(1, "", "planner", "", 1, event, ignored)


def _started(turn: int, attempt: int, **more: Any) -> Entry:
    event = ModelStarted(
        **ENVELOPE, turn=turn, attempt=attempt, model="m/m", worker="w#1", start_by=AT, done_by=AT, **more
    )
    return _entry(event)


def _proposed(turn: int, attempt: int, ignored: str = "") -> Entry:
    return _entry(Proposed(**ENVELOPE, turn=turn, attempt=attempt), ignored)


def _where(tokens: list[Token]) -> list[tuple[str, int, int, int]]:
    return [(str(token), token.turn, token.attempt, token.offset) for token in tokens]


def test_pieces_are_given_as_they_come_and_none_twice() -> None:
    """Overlapping text is given once, and the end of the attempt adds nothing."""
    stream = TokenStream()
    stream.add_entry(_started(1, 1))
    tokens = [token for piece in RECEIVED for token in stream.add_piece(piece)]
    assert _where(tokens) == [("one ", 1, 1, 0), ("t", 1, 1, 4), ("wo", 1, 1, 5)]
    assert stream.add_entry(_proposed(1, 1), "one two") == []
    assert stream.add_piece(Piece((1, 1), 7, " three")) == []


@pytest.mark.parametrize(
    "received", [[], [Piece(FIRST, 4, "two")], [Piece(FIRST, 0, "one "), Piece(FIRST, 8, "three")]]
)
def test_what_is_missing_comes_from_the_log_in_order(received: list[Piece]) -> None:
    """After a gap nothing is given until the whole is known, so that the tokens stay in order."""
    stream = TokenStream()
    stream.add_entry(_started(1, 1))
    tokens = [token for piece in received for token in stream.add_piece(piece)]
    tokens += stream.add_entry(_proposed(1, 1), "one two three")
    assert "".join(tokens) == "one two three"


def test_an_attempt_that_breaks_off_is_recognised_by_its_number() -> None:
    """The next attempt gives the whole text again; late tokens of the lost one are not mixed in."""
    stream = TokenStream()
    stream.add_entry(_started(1, 1))
    tokens = stream.add_piece(Piece((1, 1), 0, "one t"))
    failed = ModelFailedEvent(**ENVELOPE, turn=1, attempt=1, kind="availability", message="cut")
    stream.add_entry(_entry(failed))
    stream.add_entry(_started(1, 2))
    tokens += stream.add_piece(Piece((1, 1), 5, "wo"))
    tokens += stream.add_piece(Piece((1, 2), 0, "one two"))
    assert _where(tokens) == [("one t", 1, 1, 0), ("one two", 1, 2, 0)]


def test_tokens_that_come_before_their_start_was_read_wait_for_it() -> None:
    """A piece may overtake the log on a replica that lags."""
    stream = TokenStream()
    assert stream.add_piece(Piece((1, 1), 0, "hello")) == []
    assert stream.has_early_pieces
    assert "".join(stream.add_entry(_started(1, 1))) == "hello"
    assert not stream.has_early_pieces


def test_a_summary_of_the_conversation_is_not_among_the_tokens() -> None:
    """No reader waits for the text of a request that compacts."""
    stream = TokenStream()
    stream.add_piece(Piece((2, 1), 0, "The user wanted"))
    assert stream.add_entry(_started(2, 1, purpose="compact")) == []
    assert stream.add_piece(Piece((2, 1), 15, " a refund.")) == []
    assert not stream.has_early_pieces


def test_a_text_that_turns_out_to_differ_is_given_again_as_a_whole() -> None:
    """Its offset is 0 again: the reader sees that a text begins."""
    stream = TokenStream()
    stream.add_entry(_started(1, 1))
    stream.add_piece(Piece((1, 1), 0, '{"final"'))
    assert _where(stream.add_entry(_proposed(1, 1), "Hello.")) == [("Hello.", 1, 1, 0)]


def test_pieces_of_an_older_planner_are_given_as_they_come() -> None:
    """They have no offset; the missing end still comes from the log."""
    stream = TokenStream()
    stream.add_entry(_started(1, 1))
    tokens = [token for text in ("one ", "two") for token in stream.add_piece(Piece((1, 1), -1, text))]
    tokens += stream.add_entry(_proposed(1, 1), "one two three")
    assert "".join(tokens) == "one two three"


def test_an_ignored_proposal_gives_no_token() -> None:
    """A forged text does not belong to the run, whichever process wrote it."""
    stream = TokenStream()
    stream.add_entry(_started(1, 1))
    assert stream.add_entry(_proposed(1, 1, ignored="forged"), "ha") == []
