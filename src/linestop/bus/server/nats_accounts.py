"""The ``accounts`` section of a server's configuration: one account for the streams, one for each credential.

``permissions`` explains why. A right crosses from one account to another in one of three ways:

- Subjects that a stream stores or the API serves: the streams' account exports them as a service, with a way back for
  the replies, and the credential's account imports them.
- Subjects that the server republishes (``live.>``): the streams' account exports them as a stream.
- Subjects that are never stored (hints, tokens, replies to a person): the publisher's account exports them as a stream
  to the subscribers' accounts. They cannot pass through the streams' account, since the server does not forward
  messages from a service import to a stream export.

A client's control messages cross under another name (``clients.``): so the streams' account knows that a client sent
them, and stores them apart from those of people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from linestop.bus import jetstream_api
from linestop.bus.access.credential_permissions import DEFAULT_ACCESS, AccessOptions, Grants, covers, grants
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.streams import stream_names
from linestop.schemas import subjects

STREAMS_ACCOUNT: Final = "LINESTOP"
READ_RESPONSE_THRESHOLD: Final = "15s"
"""How long the server stores the way back of a read with many replies, after the last one (about 1 KB each).
A pull uses the server's default of two minutes, so its idle heartbeats must be more frequent than that."""

_NEVER_STORED: Final = ("wake.", "deltas.", "_INBOX.")

Section = dict[str, Any]
"""A part of a configuration: the broker's own open format."""


def account_of(name: CredentialName) -> str:
    """Name the account of a credential."""
    return f"{STREAMS_ACCOUNT}_{name.upper()}"


def accounts_section(
    logins: Mapping[CredentialName, Sequence[Mapping[str, str]]], options: AccessOptions = DEFAULT_ACCESS
) -> Section:
    """Return the ``accounts`` section of a configuration.

    Args:
        logins: The login entries of each of ``CREDENTIALS`` (``credentials.logins_by_credential``).
        options: The choices of the bus's operator.
    """
    grants_by_credential: dict[CredentialName, Grants] = {name: grants(name, options) for name in CREDENTIALS}
    result: Section = {STREAMS_ACCOUNT: {"jetstream": "enabled", "exports": _exports_of_streams(grants_by_credential)}}
    for name, own in grants_by_credential.items():
        permissions = {"publish": list(own.publish), "subscribe": list(own.subscribe)}
        result[account_of(name)] = {
            "users": [{**login, "permissions": permissions} for login in logins[name]],
            "exports": [
                {"stream": subject, "accounts": [account_of(other) for other in CREDENTIALS if other != name]}
                for subject in own.publish
                if _is_never_stored(subject)
            ],
            "imports": _imports(name, grants_by_credential),
        }
    return result


def _exports_of_streams(grants_by_credential: Mapping[CredentialName, Grants]) -> list[Section]:
    """Export each subject once, to exactly the credentials with a right to it."""
    services: dict[str, list[str]] = {}
    republished: dict[str, list[str]] = {}
    for name, own in grants_by_credential.items():
        for subject in own.publish:
            if not _is_never_stored(subject):
                services.setdefault(_streams_account_subject(name, subject), []).append(account_of(name))
        for subject in own.subscribe:
            if not _is_never_stored(subject):
                republished.setdefault(subject, []).append(account_of(name))
    return [
        *(
            {"service": subject, "accounts": account_names, **_response_settings(subject)}
            for subject, account_names in services.items()
        ),
        *({"stream": subject, "accounts": account_names} for subject, account_names in republished.items()),
    ]


def _imports(name: CredentialName, grants_by_credential: Mapping[CredentialName, Grants]) -> list[Section]:
    own = grants_by_credential[name]
    result: list[Section] = [_service(name, subject) for subject in own.publish if not _is_never_stored(subject)]
    for subject in own.subscribe:
        if not _is_never_stored(subject):
            result.append(_stream(STREAMS_ACCOUNT, subject))
        elif subject != f"{stream_names.inbox_prefix(name)}.>":
            result += [
                _stream(account_of(other), subject)
                for other, other_grants in grants_by_credential.items()
                if other != name and any(covers(exported, subject) for exported in other_grants.publish)
            ]
    return result


def _is_never_stored(subject: str) -> bool:
    """Whether no stream stores this subject."""
    return subject.startswith(_NEVER_STORED)


def _stream(account: str, subject: str) -> Section:
    return {"stream": {"account": account, "subject": subject}}


def _streams_account_subject(name: CredentialName, subject: str) -> str:
    """Return the name of a credential's subject in the streams' account."""
    if name == "client" and subject.startswith("control."):
        return subjects.client_subject(subject)
    return jetstream_api.server_subject(subject)


def _service(name: CredentialName, subject: str) -> Section:
    exported_subject = _streams_account_subject(name, subject)
    mapping = {} if exported_subject == subject else {"to": subject}
    return {"service": {"account": STREAMS_ACCOUNT, "subject": exported_subject}, **mapping}


def _response_settings(subject: str) -> Section:
    """Return the settings of requests with many replies: for others the way back ends with the first reply."""
    if subject.startswith(f"{jetstream_api.SERVER_PREFIX}.CONSUMER.MSG.NEXT."):
        return {"response_type": "stream"}
    if subject.startswith(f"{jetstream_api.SERVER_PREFIX}.DIRECT.GET.") and not subject.endswith(".>"):
        return {"response_type": "stream", "response_threshold": READ_RESPONSE_THRESHOLD}
    return {}
