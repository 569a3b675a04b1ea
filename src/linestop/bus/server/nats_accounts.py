"""The ``accounts`` section of a server's configuration: one account for the streams, one for each credential.

Why so many, see ``permissions``. How a right crosses from one account to another:

- what a stream stores or the API answers: the streams' account exports it as a service, with a way back for
  the replies, and the credential's account imports it;
- what the server republishes (``live.>``): the streams' account exports it as a stream;
- what is only heard (hints, tokens, answers to a person): the speaker's account exports it as a stream to
  the hearers' accounts. It cannot pass through the streams' account, since the server does not hand on to a
  stream what has come through a service.

A client's control messages cross under another name (``clients.``): the streams' account thereby knows who sent
them, and stores them apart from people's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from linestop.bus import jetstream_api, stream_names
from linestop.bus.permissions import (
    CREDENTIALS,
    DEFAULT_ACCESS,
    AccessOptions,
    CredentialName,
    Grants,
    covers,
    grants,
)
from linestop.schemas import subjects

STREAMS_ACCOUNT: Final = "LINESTOP"
READ_REPLIES_KEPT: Final = "15s"
"""How long the server keeps the way back of a read with many replies, after the last one (about 1 KB each).
A pull keeps the server's default of two minutes, so its idle heartbeats must come more often than that."""

_ONLY_HEARD: Final = ("wake.", "deltas.", "_INBOX.")

Section = dict[str, Any]
"""A part of a configuration: the broker's own open format."""


def account_of(name: CredentialName) -> str:
    """Name the account of a credential."""
    return f"{STREAMS_ACCOUNT}_{name.upper()}"


def accounts(
    logins: Mapping[CredentialName, Sequence[Mapping[str, str]]], options: AccessOptions = DEFAULT_ACCESS
) -> Section:
    """Return the ``accounts`` section of a configuration.

    Args:
        logins: How each of ``CREDENTIALS`` may log in (``credentials.logins_of``).
        options: Choices of whoever runs the bus.
    """
    everybody: dict[CredentialName, Grants] = {name: grants(name, options) for name in CREDENTIALS}
    result: Section = {STREAMS_ACCOUNT: {"jetstream": "enabled", "exports": _exports_of_streams(everybody)}}
    for name, mine in everybody.items():
        permissions = {"publish": list(mine.publish), "subscribe": list(mine.subscribe)}
        result[account_of(name)] = {
            "users": [{**login, "permissions": permissions} for login in logins[name]],
            "exports": [
                {"stream": subject, "accounts": [account_of(other) for other in CREDENTIALS if other != name]}
                for subject in mine.publish
                if _only_heard(subject)
            ],
            "imports": _imports(name, everybody),
        }
    return result


def _exports_of_streams(everybody: Mapping[CredentialName, Grants]) -> list[Section]:
    """Export each subject once, to exactly those who hold a right to it."""
    services: dict[str, list[str]] = {}
    republished: dict[str, list[str]] = {}
    for name, mine in everybody.items():
        for subject in mine.publish:
            if not _only_heard(subject):
                services.setdefault(_there(name, subject), []).append(account_of(name))
        for subject in mine.subscribe:
            if not _only_heard(subject):
                republished.setdefault(subject, []).append(account_of(name))
    return [
        *({"service": subject, "accounts": who, **_replies(subject)} for subject, who in services.items()),
        *({"stream": subject, "accounts": who} for subject, who in republished.items()),
    ]


def _imports(name: CredentialName, everybody: Mapping[CredentialName, Grants]) -> list[Section]:
    mine = everybody[name]
    result: list[Section] = [_service(name, subject) for subject in mine.publish if not _only_heard(subject)]
    for subject in mine.subscribe:
        if not _only_heard(subject):
            result.append(_stream(STREAMS_ACCOUNT, subject))
        elif subject != f"{stream_names.inbox_prefix(name)}.>":
            result += [
                _stream(account_of(other), subject)
                for other, theirs in everybody.items()
                if other != name and any(covers(said, subject) for said in theirs.publish)
            ]
    return result


def _only_heard(subject: str) -> bool:
    """Whether no stream stores it."""
    return subject.startswith(_ONLY_HEARD)


def _stream(account: str, subject: str) -> Section:
    return {"stream": {"account": account, "subject": subject}}


def _there(name: CredentialName, subject: str) -> str:
    """Return a subject of a credential as the streams' account knows it."""
    if name == "client" and subject.startswith("control."):
        return subjects.by_client(subject)
    return jetstream_api.at_server(subject)


def _service(name: CredentialName, subject: str) -> Section:
    there = _there(name, subject)
    renamed = {} if there == subject else {"to": subject}
    return {"service": {"account": STREAMS_ACCOUNT, "subject": there}, **renamed}


def _replies(subject: str) -> Section:
    """Say which requests have many replies: the way back of others is forgotten with the first."""
    if subject.startswith(f"{jetstream_api.SERVER_PREFIX}.CONSUMER.MSG.NEXT."):
        return {"response_type": "stream"}
    if subject.startswith(f"{jetstream_api.SERVER_PREFIX}.DIRECT.GET.") and not subject.endswith(".>"):
        return {"response_type": "stream", "response_threshold": READ_REPLIES_KEPT}
    return {}
