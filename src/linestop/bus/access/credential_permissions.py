"""The permissions of every credential, made from the rows of ``rights``.

A permission list alone does not keep a role from publishing as another role. The server sends its replies
(an acknowledgement, a stored message, a pulled message) to the reply subject that a request names, without
checking that subject, and a stream stores every message on its subjects, the server's replies too. In one
shared account a planner could store a text, request it with ``runs.….approver.granted.5`` as the reply
subject, and so have it stored as an event of the approver. Therefore every credential has its own account,
which imports exactly the subjects that the table grants. Replies return into that account and reach no
subject of another one. The streams live in a separate account, in which no credential logs in.

No right needs ``allow_responses``: acknowledgements are granted by name, and a service replies to the
inbox that a message names in ``Linestop-Reply``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from linestop.bus.access.rights import CLIENT_READ_RIGHTS, SELF, TABLE, CredentialName, Right


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """Every right of one credential; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class AccessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The choices of the bus's operator.

    ``client_reads_runs``: a client may read and follow every run of every tenant. This suits clients that
    form one trust domain, as on a laptop. Without it a client sees outcomes and model tokens only.
    """

    client_reads_runs: bool = True


DEFAULT_ACCESS: Final = AccessOptions()


def rights(name: CredentialName, options: AccessOptions = DEFAULT_ACCESS) -> tuple[Right, ...]:
    """Return the rows of a credential, with its own name filled in."""
    table = (*TABLE, *CLIENT_READ_RIGHTS) if options.client_reads_runs else TABLE
    return tuple(
        msgspec.structs.replace(row, subjects=tuple(s.replace(SELF, name) for s in row.subjects))
        for row in table
        if name in row.holders
    )


def grants(name: CredentialName, options: AccessOptions = DEFAULT_ACCESS) -> Grants:
    """Return every subject that a credential may publish or subscribe to."""
    own_rights = rights(name, options)
    publish = _without_duplicates(s for row in own_rights if row.action == "publish" for s in row.subjects)
    patterns = [s for s in publish if "*" in s or s.endswith(">")]
    return Grants(
        # Every publish right becomes an import; two that overlap would deliver a message twice.
        publish=tuple(s for s in publish if not any(s != t and covers(t, s) for t in patterns)),
        subscribe=_without_duplicates(s for row in own_rights if row.action == "subscribe" for s in row.subjects),
    )


def covers(pattern: str, subject: str) -> bool:
    """Whether every subject that matches ``subject``, which may be a pattern, also matches ``pattern``."""
    tokens, pattern_tokens = subject.split("."), pattern.split(".")
    for actual, wanted in zip(tokens, pattern_tokens, strict=False):
        if wanted == ">":
            return True
        if wanted != actual and (wanted != "*" or actual == ">"):
            return False
    return len(tokens) == len(pattern_tokens)


def _without_duplicates(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
