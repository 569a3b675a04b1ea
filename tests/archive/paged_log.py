"""A run log in memory, read in small pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from linestop.bus.interfaces import Log, StoredMessage

PAGE_MESSAGES = 3


class PagedLog:
    """The two reads that an archive makes: pages of at most ``PAGE_MESSAGES``, and single messages."""

    def __init__(self, messages: Iterable[tuple[str, bytes]] = ()) -> None:
        self.messages: list[StoredMessage] = []
        self.append(messages)

    def append(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Add messages at the end."""
        for subject, payload in messages:
            self.messages.append(StoredMessage(subject=subject, payload=payload, seq=len(self.messages) + 1))

    async def page(self, *, after_seq: int) -> list[StoredMessage]:
        """The next messages."""
        return self.messages[after_seq : after_seq + PAGE_MESSAGES]

    async def message_at(self, seq: int) -> StoredMessage | None:
        """One message."""
        return self.messages[seq - 1] if seq <= len(self.messages) else None

    @property
    def as_log(self) -> Log:
        """This log, as far as an archive uses one."""
        return cast("Log", self)
