"""Folds an event and decides the next one while the append is still on its way: thinking hides behind waiting.

Nothing of it is visible outside this process before the log has confirmed the append: no start is performed, nothing is
published, and the next event is not sent. These are the interleavings that it survives:

1. The append is stored and the reply is prompt: the fold stands, and the next event is sent as it was decided.
2. The append is stored, but the reply took longer than ``SPECULATION_MAX_S``: the fold stands. The next event is
   decided again, because its time has passed.
3. Another event came first (a stop, another process): the append is refused. The fold and the next event are discarded,
   and the run is read again from its beginning.
4. No reply comes: the event may be stored or not. As in 3; reading the run tells.
5. A stop is announced while the append is on its way: the announcement stays on the run's entry, and a start that was
   stored before it is not performed. The next event, decided without the stop, is refused as in 3.
6. The reply is lost and the append is sent again: it is folded and decided on only once.
7. The event has no effect (it is illegal in this phase): nothing is decided on it.
8. The next decision needs a fact that must be fetched, a text that must be stored first, or much computing: it is left
   to the pass, after the reply.
9. The task is cancelled (the process ends): as in 4.
10. The process begins to drain while the append is on its way: the next event is dropped and the roles are asked again,
    because a drained process starts nothing.
11. The next event is a start, and is dropped: its place is given back when the pass ends (``Capacity.pass_ended``).

All of it runs under the run's lock, so no other pass of this process sees the fold before the reply.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Append
from linestop.runtime.ask_roles import Decider, Draft, Pass
from linestop.schemas.run.fold import Run


class Speculation:
    """What was done before the reply to one append.

    ``is_folded``: the append was sent and folded. ``ignored``: why the event has no effect, if it has none. ``work``:
    for a start, what performing it needs, collected at this moment.
    """

    def __init__(self, run_pass: Pass, draft: Draft, append: Append, decider: Decider, encoder: EventEncoder) -> None:
        self.is_folded = False
        self.ignored = ""
        self.work: object = None
        self._run_pass, self._draft, self._append = run_pass, draft, append
        self._decider, self._encoder = decider, encoder

    def fold_and_decide(self, now: Callable[[Run], datetime]) -> None:
        """Fold the event that was just sent, and decide the next one; only once, however often it is sent."""
        if self.is_folded:
            return
        self.is_folded = True
        entry, draft = self._run_pass.entry, self._draft
        run = entry.run
        self.ignored = run.apply_unstored(self._append.subject, self._append.payload).ignored
        if self.ignored:
            return
        if draft.is_start and draft.binding.performer is not None:
            self.work = draft.binding.performer.prepare(run, draft.event, draft.facts)
        entry.starting_n = run.n if draft.is_start else 0
        self._run_pass.roles_to_ask |= self._decider.woken_by(self._append.role, draft.event)
        self._run_pass.speculative = self._decider.speculate(self._run_pass, now(run), self._encoder)

    def discard(self) -> None:
        """Forget the fold and the next event, because it is not known that the append is stored."""
        entry = self._run_pass.entry
        self._run_pass.speculative, entry.starting_n = None, 0
        entry.appended_ns.remove(self._append.n)
        entry.reset()
