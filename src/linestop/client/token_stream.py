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

Place = tuple[int, int]
SHOWN: Final = frozenset({"turn", "close"})
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
    def of(cls, text: str, place: Place, offset: int) -> Self:
        """Make one."""
        token = cls(text)
        token.turn, token.attempt = place
        token.offset = offset
        return token


class Piece(msgspec.Struct, frozen=True):
    """What came over the wire: ``offset`` is -1 if the sender did not tell it."""

    place: Place
    offset: int
    text: str


class Words:
    """Puts pieces and events into the order in which the run's words are given: one attempt after the other."""

    def __init__(self) -> None:
        self._newest: Place = (0, 0)
        """The attempt that was started last."""

        self._open = False
        """Whether that one is under way and its words are the run's."""

        self._given: list[str] = []
        """What was given of it."""

        self._length = 0
        self._early: list[Piece] = []

    @property
    def unknown(self) -> bool:
        """Whether there are pieces of an attempt whose start was not read yet."""
        return bool(self._early)

    def hear(self, piece: Piece) -> list[Token]:
        """Take a piece; return what can be given now."""
        if piece.place > self._newest:
            if len(self._early) < PIECES_MAX:
                self._early.append(piece)
            return []
        return self._next(piece) if self._open and piece.place == self._newest else []

    def read(self, entry: Entry, text: str = "") -> list[Token]:
        """Take the log's next entry; ``text`` is the whole text of a proposal. Return what can be given now."""
        event = entry.event
        if entry.ignored:
            return []
        if isinstance(event, ModelStarted):
            return self._begin((event.turn, event.attempt), shown=event.purpose in SHOWN)
        if (
            isinstance(event, Proposed | ModelFailedEvent)
            and (event.turn, event.attempt) == self._newest
            and self._open
        ):
            self._open = False
            return self._missing(text) if isinstance(event, Proposed) else []
        return []

    def _begin(self, place: Place, *, shown: bool) -> list[Token]:
        self._newest, self._open, self._given, self._length = place, shown, [], 0
        early, self._early = self._early, [piece for piece in self._early if piece.place > place]
        return [token for piece in early if piece.place == place and shown for token in self._next(piece)]

    def _next(self, piece: Piece) -> list[Token]:
        """The part of a piece that was not given yet; nothing behind a gap."""
        begins = self._length if piece.offset < 0 else piece.offset
        return self._give(piece.text[self._length - begins :]) if begins <= self._length else []

    def _missing(self, text: str) -> list[Token]:
        """What is missing of the attempt's whole text, or all of it if something else had been given."""
        given = "".join(self._given)
        if text.startswith(given):
            return self._give(text[len(given) :])
        self._given, self._length = [], 0
        return self._give(text)

    def _give(self, text: str) -> list[Token]:
        if not text:
            return []
        token = Token.of(text, self._newest, self._length)
        self._given.append(text)
        self._length += len(text)
        return [token]
