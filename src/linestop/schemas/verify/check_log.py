"""The check of a run's whole log: the chain, then every rule, event by event, then the checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import msgspec

from linestop.errors import LinestopError
from linestop.schemas.events import (
    NEVER,
    Accepted,
    Amended,
    Answered,
    AnyEvent,
    Asked,
    Checked,
    Cleared,
    Compacted,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Queued,
    Refused,
    Resolved,
    Resumed,
    Returned,
    Sealed,
    Settled,
    Stopped,
    Warned,
    Widened,
    belongs_to_another_role,
    decode,
)
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subjects import RunId, TenantId, parse_run_event
from linestop.schemas.verify.approvals import (
    check_asked,
    check_cleared,
    check_decider,
    check_denied,
    check_edited,
    check_granted,
    check_widened,
)
from linestop.schemas.verify.call_verdicts import check_judged
from linestop.schemas.verify.chain_links import Link, read_chain
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.checkpoint_signature import Checkpoint, TrustedKey, check_checkpoints
from linestop.schemas.verify.effect_starts import check_result, check_start
from linestop.schemas.verify.ending import (
    check_accepted,
    check_amended,
    check_returned,
    check_sealed,
    check_stopped,
)
from linestop.schemas.verify.event_limits import check_event_limits
from linestop.schemas.verify.money import check_held, check_queued, check_settled, check_warned
from linestop.schemas.verify.opening import check_opened
from linestop.schemas.verify.signatures import check_signature
from linestop.schemas.verify.verdict import Level, Problem, Rule, Verdict

_NO_KEYS: Mapping[str, TrustedKey] = {}
_NO_TEXTS: Mapping[str, bytes] = {}


def verify(  # noqa: PLR0913 - a log and three kinds of evidence about it
    tenant: str,
    run: str,
    messages: Sequence[tuple[str, bytes, int]],
    *,
    checkpoints: Sequence[Checkpoint] = (),
    keys: Mapping[str, TrustedKey] = _NO_KEYS,
    texts: Mapping[str, bytes] = _NO_TEXTS,
) -> Verdict:
    """Check the log of one run.

    Args:
        tenant: The tenant of the run.
        run: The id of the run.
        messages: All its messages, (subject, payload, stream sequence), in stream order.
        checkpoints: Signed checkpoints; those of other runs are skipped.
        keys: Trusted keys by key id: of people who decide, and for checkpoints.
        texts: Blobs by digest, so that arguments too long for an event can be checked as well.

    Returns:
        The verdict. No content of a log makes this function raise.
    """
    chain = read_chain(tenant, run, messages)
    audit = _Audit(tenant, run, keys, texts)
    problems = [*chain.problems]
    for link in chain.links:
        problems += audit.check_next(link)
    authentic_n, checkpoint_problems = check_checkpoints(chain.links, checkpoints, keys, of=(tenant, run))
    problems = sorted([*problems, *checkpoint_problems], key=lambda problem: problem.n)
    broken = [problem.n for problem in problems if problem.level == "broken"]
    events = len(chain.links)
    return Verdict(
        tenant=tenant,
        run=run,
        status="broken" if broken else "authentic" if authentic_n else "consistent",
        n=broken[0] if broken else authentic_n or events,
        events=events,
        authentic_n=authentic_n,
        sealed=audit.sealed,
        head_sha256=chain.links[-1].sha256 if chain.links else "",
        problems=tuple(problems),
    )


def _decode(link: Link) -> AnyEvent | None:
    """The event, or None if this version cannot read it; the fold reports the reason."""
    try:
        return decode(parse_run_event(link.subject).role, link.name, link.payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError, LinestopError):
        return None


class _Audit:
    """Checks a chain event by event; the fold runs beside it and decides which events count."""

    def __init__(self, tenant: str, run: str, keys: Mapping[str, TrustedKey], texts: Mapping[str, bytes]) -> None:
        self._fold = Run(TenantId(tenant), RunId(run))
        self._ledger = Ledger(tenant, run, texts)
        self._keys = keys
        self._at = NEVER
        self._prev = ""
        self._has_unknown_events = False

    @property
    def sealed(self) -> bool:
        """Whether the events checked so far include the run's seal."""
        return self._fold.sealed is not None

    def check_next(self, link: Link) -> Iterator[Problem]:
        """Return the problems of the next event."""
        # A seal is compared with the fold of the events before it, so the rules come first.
        try:
            yield from list(self._check_event(link))
            entry = self._fold.apply(link.subject, link.payload, link.seq)
            if entry.ignored:
                level: Level = "ignored" if self._is_excusable(link, entry) else "broken"
                sentence = f"'{link.role}.{link.name}' is ignored by every reader: {entry.ignored}."
                yield Problem(n=link.n, rule="legal", sentence=sentence, level=level)
            elif entry.event is not None:
                self._ledger.enter(link.n, entry.event)
                self._at = entry.event.at
        except Exception as error:  # noqa: BLE001 - whatever a log holds, the verdict is about the log
            yield Problem(n=link.n, rule="legal", sentence=f"It cannot be folded: {type(error).__name__}: {error}.")
        self._prev = link.sha256

    def _is_excusable(self, link: Link, entry: Entry) -> bool:
        """Whether an honest role may have appended an event that readers ignore; see the module docstring."""
        if belongs_to_another_role(parse_run_event(link.subject).role, link.name):
            return False
        self._has_unknown_events = self._has_unknown_events or entry.event is None
        return self._has_unknown_events or isinstance(entry.event, Stopped)

    def _check_event(self, link: Link) -> Iterator[Problem]:
        event = _decode(link)
        if event is None:
            return
        # A stop that was made from the last message alone cannot list the open starts.
        level: Level = "note" if isinstance(event, Stopped) else "broken"
        for rule, sentence in (*self._violations(event), *check_event_limits(self._ledger, link.n, event)):
            yield Problem(n=link.n, rule=rule, sentence=sentence, level="broken" if rule == "time" else level)
        if isinstance(event, Granted | Denied | Edited | Answered | Resolved):
            for problem_level, rule, sentence in check_signature(self._ledger, event, self._keys):
                yield Problem(n=link.n, rule=rule, sentence=sentence, level=problem_level)

    def _violations(self, event: AnyEvent) -> Iterator[tuple[Rule, str]]:  # noqa: C901, PLR0912 - one arm an event
        if event.at < self._at:
            yield "time", f"Its time is {event.at.isoformat()}, before that of the event it follows."
        ledger = self._ledger
        match event:
            case ModelStarted() | EffectStarted():
                yield from check_start(ledger, event)
            case Judged():
                yield from check_judged(ledger, self._fold, event)
            case Proposed() | ModelFailedEvent() | Compacted() | Finished():
                yield from check_result(ledger, event)
            case Cleared():
                yield from check_cleared(ledger, event)
            case Asked():
                yield from check_asked(ledger, event)
            case Granted():
                yield from check_granted(ledger, event)
            case Denied():
                yield from check_denied(ledger, event)
            case Edited():
                yield from check_edited(ledger, event)
            case Resolved():
                yield from check_decider(ledger, event, f"call '{event.call}'")
            case Held():
                yield from check_held(ledger, event)
            case Queued():
                yield from check_queued(ledger, event)
            case Settled():
                yield from check_settled(ledger, event)
            case Stopped():
                yield from check_stopped(ledger, event)
            case Accepted():
                yield from check_accepted(ledger, self._fold, event)
            case Sealed():
                yield from check_sealed(ledger, self._fold, event, prev=self._prev)
            case Amended():
                yield from check_amended(ledger, self._fold, event)
            case Opened():
                yield from check_opened(ledger, event)
            case Warned():
                yield from check_warned(ledger, event)
            case Returned():
                yield from check_returned(ledger, event)
            case Widened():
                yield from check_widened(ledger, event)
            case Refused() | Checked() | Answered() | Paused() | Resumed():
                return
            case _:
                assert_never(event)
