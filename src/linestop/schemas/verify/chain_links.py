"""The chain of a run, computed from subjects and payloads alone.

This repeats what ``schemas.run.hash_chain`` and ``Run`` do, on purpose: a check that shared their code would share
their mistakes. It reads no header, and of a payload only ``prev``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec

from linestop.schemas.verify.verdict import Problem

_SUBJECT = re.compile(r"runs\.([a-z0-9-]+)\.([a-z0-9-]+)\.([a-z]+)\.([a-z0-9-]+)\.([1-9][0-9]{0,9})")
_ROLES = frozenset({"planner", "validator", "approver", "budget", "executor", "recorder", "operator"})


class _Envelope(msgspec.Struct):
    id: str
    prev: str


_ENVELOPE = msgspec.json.Decoder(_Envelope)


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the chain; the next event must name its ``sha256``."""

    tenant: str
    run: str
    role: str
    name: str
    n: int
    subject: str
    payload: bytes
    seq: int
    sha256: str


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The events that follow from each other, in order, and the problems of the other messages."""

    links: tuple[Link, ...]
    problems: tuple[Problem, ...]


def read_chain(tenant: str, run: str, messages: Sequence[tuple[str, bytes, int]]) -> Chain:
    """Find the chain in the messages of one run, (subject, payload, stream sequence), oldest first."""
    if other := _other_run_sentence(tenant, run, messages):
        return Chain(links=(), problems=(_chain_problem(1, other),))
    links: list[Link] = []
    problems: list[Problem] = []
    strays: list[tuple[int, str]] = []
    head = hashlib.sha256(f"{tenant}/{run}".encode()).hexdigest()
    subjects: set[str] = set()
    seq_before = 0
    for subject, payload, seq in messages:
        due = len(links) + 1
        match = _SUBJECT.fullmatch(subject)
        if match is None or match[3] not in _ROLES or (match[1], match[2]) != (tenant, run):
            problems.append(
                _chain_problem(due, f"The message at sequence {seq} is not an event of run '{run}': {subject}.")
            )
            continue
        if seq <= seq_before:
            problems.append(
                _chain_problem(due, f"Sequence {seq} does not come after {seq_before}: the order was changed.")
            )
        seq_before = max(seq, seq_before)
        if subject in subjects:
            problems.append(
                _chain_problem(min(int(match[5]), due), f"The subject {subject} is there twice; it is write-once.")
            )
            continue
        subjects.add(subject)
        n, prev = int(match[5]), _read_prev(payload)
        if n != due or prev != head:
            strays.append((n, _stray_sentence(n, due, prev)))
            continue
        head = hashlib.sha256(subject.encode() + b"\0" + payload).hexdigest()
        links.append(
            Link(
                tenant=tenant,
                run=run,
                role=match[3],
                name=match[4],
                n=n,
                subject=subject,
                payload=payload,
                seq=seq,
                sha256=head,
            )
        )
    problems += _stray_problems(strays, len(links))
    if not links and not problems:
        problems.append(_chain_problem(1, f"The log holds no event of run '{run}'."))
    return Chain(links=tuple(links), problems=tuple(problems))


def _other_run_sentence(tenant: str, run: str, messages: Sequence[tuple[str, bytes, int]]) -> str:
    """Return a sentence if every message belongs to one other run, so that the wrong run was named; else nothing."""
    runs = {found.group(1, 2) if (found := _SUBJECT.fullmatch(subject)) else None for subject, _, _ in messages}
    only = runs.pop() if len(runs) == 1 else None
    if only is None or only == (tenant, run):
        return ""
    return f"The log holds run '{only[1]}' of tenant '{only[0]}', not run '{run}' of tenant '{tenant}'."


def _read_prev(payload: bytes) -> str | None:
    """What the payload names as the hash before; None if it has no readable envelope."""
    try:
        return _ENVELOPE.decode(payload).prev
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _stray_sentence(n: int, due: int, prev: str | None) -> str:
    if n != due:
        return f"A message with number {n} stands where event {due} is due."
    if prev is None:
        return f"Event {n} has no readable envelope."
    return f"Event {n} does not name the hash of the message before it: one of the two was changed."


def _stray_problems(strays: list[tuple[int, str]], length: int) -> list[Problem]:
    """Return the problems of messages outside the chain.

    A message runs number the chain has as well lost a race, and is void. A message beyond the chain's end means that
    events are missing or changed, or that a process wrote where no event was due: either way the log is broken.
    """
    problems = [
        Problem(n=n, rule="chain", level="void", sentence=f"Void, since the chain has another event {n}: {sentence}")
        for n, sentence in strays
        if n <= length
    ]
    beyond = [(n, sentence) for n, sentence in strays if n > length]
    if beyond:
        sentence = beyond[0][1]
        more = f" {len(beyond)} messages stand outside the chain." if len(beyond) > 1 else ""
        gap = f" Event {length + 1} is missing." if all(n != length + 1 for n, _ in beyond) else ""
        problems.append(_chain_problem(length + 1, sentence + gap + more))
    return problems


def _chain_problem(n: int, sentence: str) -> Problem:
    return Problem(n=n, rule="chain", sentence=sentence)
