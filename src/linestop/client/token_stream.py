"""A run's words: what its model writes, as it comes and without a gap. Pure.

Pieces come over core NATS and may be lost, or not be heard because a listener came late or is slow. Each tells how many
characters of its attempt came before it, so a gap is noticed; what is missing then comes from the log, where the whole
text of an attempt stands once it has ended. An attempt whose pieces come without a gap is given piece by piece.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec

from linestop.schemas.events import ModelFailedEvent, ModelStarted, Proposed
from linestop.schemas.run.state import Entry

TurnAttempt = tuple[int, int]
STREAMED_PURPOSES: Final = frozenset({"turn", "close"})
"""The purposes of model calls whose words are the run's; summaries of the conversation are not."""

PIECES_MAX: Final = 256
"""Pieces kept for an attempt whose start was not read yet; the log makes good what is dropped."""


class Token(str):
    """Some words of the model: a ``str`` that knows where it belongs.

    ``turn`` and ``attempt`` count from 1; ``offset`` is how many characters of this attempt came before. Where it is 0
    a text begins: of the next turn, or the same turn's once more because an attempt broke off.
    """

    __slots__ = ("attempt", "offset", "turn")
    turn: int
    attempt: int
    offset: int

    @classmethod
    def of(cls, text: str, turn_attempt: TurnAttempt, offset: int) -> Self:
        """Make one."""
        token = cls(text)
        token.turn, token.attempt = turn_attempt
        token.offset = offset
        return token


class Piece(msgspec.Struct, frozen=True):
    """What came over the wire: ``offset`` is -1 if the sender did not tell it."""

    turn_attempt: TurnAttempt
    offset: int
    text: str


class TokenStream:
    """Puts pieces and events into the order in which the run's words are given: one attempt after the other."""

    def __init__(self) -> None:
        self._newest: TurnAttempt = (0, 0)
        """The attempt that was started last."""

        self._is_streaming = False
        """Whether that one is under way and its words are the run's."""

        self._yielded: list[str] = []
        """What was given of it."""

        self._length = 0
        self._early: list[Piece] = []

    @property
    def has_early_pieces(self) -> bool:
        """Whether there are pieces of an attempt whose start was not read yet."""
        return bool(self._early)

    def add_piece(self, piece: Piece) -> list[Token]:
        """Take a piece; return what can be given now."""
        if piece.turn_attempt > self._newest:
            if len(self._early) < PIECES_MAX:
                self._early.append(piece)
            return []
        return self._new_part(piece) if self._is_streaming and piece.turn_attempt == self._newest else []

    def add_entry(self, entry: Entry, text: str = "") -> list[Token]:
        """Take the log's next entry; ``text`` is the whole text of a proposal. Return what can be given now."""
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
        """The part of a piece that was not given yet; nothing behind a gap."""
        begins = self._length if piece.offset < 0 else piece.offset
        return self._make_token(piece.text[self._length - begins :]) if begins <= self._length else []

    def _missing_tokens(self, text: str) -> list[Token]:
        """What is missing of the attempt's whole text, or all of it if something else had been given."""
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
