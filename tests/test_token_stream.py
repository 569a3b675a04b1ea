"""The words of a run, put together of pieces that may be lost and of what the log has."""

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
HEARD = (Piece(FIRST, 0, "one "), Piece(FIRST, 0, "one t"), Piece(FIRST, 5, "wo"))


def _entry(event: AnyEvent, ignored: str = "") -> Entry:
    return Entry(1, "", "planner", "", 1, event, ignored)


def _started(turn: int, attempt: int, **more: Any) -> Entry:  # noqa: ANN401 - fields of the event
    event = ModelStarted(
        **ENVELOPE, turn=turn, attempt=attempt, model="m/m", worker="w#1", start_by=AT, done_by=AT, **more
    )
    return _entry(event)


def _proposed(turn: int, attempt: int, ignored: str = "") -> Entry:
    return _entry(Proposed(**ENVELOPE, turn=turn, attempt=attempt), ignored)


def _where(tokens: list[Token]) -> list[tuple[str, int, int, int]]:
    return [(str(token), token.turn, token.attempt, token.offset) for token in tokens]


def test_pieces_are_given_as_they_come_and_none_twice() -> None:
    """What overlaps with what was given is given once, and the end of the attempt adds nothing."""
    words = TokenStream()
    words.add_entry(_started(1, 1))
    said = [token for piece in HEARD for token in words.add_piece(piece)]
    assert _where(said) == [("one ", 1, 1, 0), ("t", 1, 1, 4), ("wo", 1, 1, 5)]
    assert words.add_entry(_proposed(1, 1), "one two") == []
    assert words.add_piece(Piece((1, 1), 7, " three")) == []


@pytest.mark.parametrize("heard", [[], [Piece(FIRST, 4, "two")], [Piece(FIRST, 0, "one "), Piece(FIRST, 8, "three")]])
def test_what_is_missing_comes_from_the_log_in_order(heard: list[Piece]) -> None:
    """Behind a gap nothing is given until the whole is known, so that the words stand in their order."""
    words = TokenStream()
    words.add_entry(_started(1, 1))
    said = [token for piece in heard for token in words.add_piece(piece)]
    said += words.add_entry(_proposed(1, 1), "one two three")
    assert "".join(said) == "one two three"


def test_an_attempt_that_breaks_off_is_recognised_by_its_number() -> None:
    """The next attempt says it all again, from its beginning; late words of the lost one are not mixed in."""
    words = TokenStream()
    words.add_entry(_started(1, 1))
    said = words.add_piece(Piece((1, 1), 0, "one t"))
    failed = ModelFailedEvent(**ENVELOPE, turn=1, attempt=1, kind="availability", message="cut")
    words.add_entry(_entry(failed))
    words.add_entry(_started(1, 2))
    said += words.add_piece(Piece((1, 1), 5, "wo"))
    said += words.add_piece(Piece((1, 2), 0, "one two"))
    assert _where(said) == [("one t", 1, 1, 0), ("one two", 1, 2, 0)]


def test_tokens_that_come_before_their_start_was_read_wait_for_it() -> None:
    """A piece may overtake the log on a replica that lags."""
    words = TokenStream()
    assert words.add_piece(Piece((1, 1), 0, "hello")) == []
    assert words.has_early_pieces
    assert "".join(words.add_entry(_started(1, 1))) == "hello"
    assert not words.has_early_pieces


def test_a_summary_of_the_conversation_is_not_among_the_tokens() -> None:
    """A model call that compacts is none that anybody waits to read."""
    words = TokenStream()
    words.add_piece(Piece((2, 1), 0, "The user wanted"))
    assert words.add_entry(_started(2, 1, purpose="compact")) == []
    assert words.add_piece(Piece((2, 1), 15, " a refund.")) == []
    assert not words.has_early_pieces


def test_a_text_that_turns_out_to_differ_is_given_again_as_a_whole() -> None:
    """Its offset is 0 again: the listener sees that a text begins."""
    words = TokenStream()
    words.add_entry(_started(1, 1))
    words.add_piece(Piece((1, 1), 0, '{"final"'))
    assert _where(words.add_entry(_proposed(1, 1), "Hello.")) == [("Hello.", 1, 1, 0)]


def test_pieces_of_an_older_planner_are_given_as_they_come() -> None:
    """They tell no offset; what is missing at their end still comes from the log."""
    words = TokenStream()
    words.add_entry(_started(1, 1))
    said = [token for text in ("one ", "two") for token in words.add_piece(Piece((1, 1), -1, text))]
    said += words.add_entry(_proposed(1, 1), "one two three")
    assert "".join(said) == "one two three"


def test_an_ignored_proposal_gives_no_token() -> None:
    """Whoever forged it, its text is none of the run's."""
    words = TokenStream()
    words.add_entry(_started(1, 1))
    assert words.add_entry(_proposed(1, 1, ignored="forged"), "ha") == []
