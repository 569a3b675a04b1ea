"""The text of a run's model as the model writes it, without a gap. Pure.

Pieces of text are published over core NATS and may be lost, or missed by a listener that is late or slow. Each piece
has the number of characters of its attempt before it, so a gap is noticed; the missing text then comes from the log,
which has the whole text of an attempt once it has ended. An attempt without a gap is yielded piece by piece.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec

from linestop.schemas.events import ModelFailedEvent, ModelStarted, Proposed
from linestop.schemas.run.state import Entry

TurnAttempt = tuple[int, int]
STREAMED_PURPOSES: Final = frozenset({"turn", "close"})
"""The purposes of model requests whose text is streamed; summaries of the conversation are not."""

PIECES_MAX: Final = 256
"""Pieces buffered for an attempt whose start was not read yet; the log replaces the ones that are dropped."""


class Token(str):
    """A piece of the model's text: a ``str`` with its position.

    ``turn`` and ``attempt`` count from 1; ``offset`` is the number of characters of this attempt before it. At 0 a new
    text begins: that of the next turn, or the same turn's again because an attempt failed.
    """

    __slots__ = ("attempt", "offset", "turn")
    turn: int
    attempt: int
    offset: int

    @classmethod
    def of(cls, text: str, turn_attempt: TurnAttempt, offset: int) -> Self:
        """Make a token."""
        token = cls(text)
        token.turn, token.attempt = turn_attempt
        token.offset = offset
        return token


class Piece(msgspec.Struct, frozen=True):
    """A piece of text that was received: ``offset`` is -1 if the sender did not send one."""

    turn_attempt: TurnAttempt
    offset: int
    text: str


class TokenStream:
    """Puts pieces and events into the order in which tokens are yielded: one attempt after the other."""

    def __init__(self) -> None:
        self._newest: TurnAttempt = (0, 0)
        """The newest attempt."""

        self._is_streaming = False
        """Whether the newest attempt is open and its text is streamed."""

        self._yielded: list[str] = []
        """The texts that were yielded of the newest attempt."""

        self._length = 0
        self._early: list[Piece] = []

    @property
    def has_early_pieces(self) -> bool:
        """Whether pieces of an attempt were received whose start was not read yet."""
        return bool(self._early)

    def add_piece(self, piece: Piece) -> list[Token]:
        """Add a piece; return the tokens that can be yielded now."""
        if piece.turn_attempt > self._newest:
            if len(self._early) < PIECES_MAX:
                self._early.append(piece)
            return []
        return self._new_part(piece) if self._is_streaming and piece.turn_attempt == self._newest else []

    def add_entry(self, entry: Entry, text: str = "") -> list[Token]:
        """Add the log's next entry; ``text`` is the whole text of a proposal. Return the tokens to yield now."""
        event = entry.event
        if entry.ignored:
            return []
        if isinstance(event, ModelStarted):
            return self._begin((event.turn, event.attempt), is_streamed=event.purpose in STREAMED_PURPOSES)
        if (
            isinstance(event, Proposed | ModelFailedEvent)
            and (event.turn, event.attempt) == self._newest
            and self._is_streaming
        ):
            self._is_streaming = False
            return self._missing_tokens(text) if isinstance(event, Proposed) else []
        return []

    def _begin(self, turn_attempt: TurnAttempt, *, is_streamed: bool) -> list[Token]:
        self._newest, self._is_streaming, self._yielded, self._length = turn_attempt, is_streamed, [], 0
        early, self._early = self._early, [piece for piece in self._early if piece.turn_attempt > turn_attempt]
        return [
            token
            for piece in early
            if piece.turn_attempt == turn_attempt and is_streamed
            for token in self._new_part(piece)
        ]

    def _new_part(self, piece: Piece) -> list[Token]:
        """The part of a piece that was not yielded yet; empty after a gap."""
        begins = self._length if piece.offset < 0 else piece.offset
        return self._make_token(piece.text[self._length - begins :]) if begins <= self._length else []

    def _missing_tokens(self, text: str) -> list[Token]:
        """The rest of the attempt's text, or the whole text if the part already yielded differs from it."""
        yielded = "".join(self._yielded)
        if text.startswith(yielded):
            return self._make_token(text[len(yielded) :])
        self._yielded, self._length = [], 0
        return self._make_token(text)

    def _make_token(self, text: str) -> list[Token]:
        if not text:
            return []
        token = Token.of(text, self._newest, self._length)
        self._yielded.append(text)
        self._length += len(text)
        return [token]
