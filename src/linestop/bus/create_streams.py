"""Setting a bus up: streams and consumers, created if missing, checked if there.

A stream that exists with other settings is somebody's decision, or an attack on the rules that the log
stands on. Either way a person must look: it is reported in a sentence and left as it is. A stream that is exactly as an
older linestop made it is brought up to date by the broker's administrator (see ``migrate``). A durable consumer is
linestop's own tool: an older linestop made it as that needed it, so what the server lets be changed is brought
up to date. Nothing is lost by that: what was delivered and acknowledged stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection
from linestop.bus.jetstream_api import ApiError
from linestop.bus.migrate_streams import Administrator, how_to_update, is_older, update
from linestop.bus.stream_definitions import DEFAULT_SPACE, Config, Space, consumers, streams
from linestop.bus.stream_names import AGENTS_BUCKET, SHARED_BUCKET, bucket_stream
from linestop.errors import ConfigError
from linestop.schemas.subjects import RoleName

CREATE_TIMEOUT_S: Final = 10.0
_LEFT_TO_OPERATORS: Final = frozenset({"max_bytes", "num_replicas"})
"""How much space and how many copies: a matter of the installation, not of correctness."""

_OLDER_BUCKETS: Final = frozenset({bucket_stream(AGENTS_BUCKET), bucket_stream(SHARED_BUCKET)})
_OLDER_RULES: Final = frozenset({"deny_purge", "allow_rollup_hdrs"})
"""What two buckets of an older linestop do not refuse. No credential may change a stream, so they stay as they are:
``budget`` could erase doors there, and ``operator`` accounts."""

_MUST_BE_ABSENT: Final = (
    "mirror",
    "sources",
    "subject_transform",
    "sealed",
    "allow_msg_counter",
    "allow_atomic",
    "allow_batched",
    "no_ack",
    "persist_mode",
    # Of a consumer: the server would deliver to that subject instead of waiting to be asked.
    "deliver_subject",
)

_MISSING: Final = frozenset({jetstream_api.STREAM_NOT_FOUND, jetstream_api.CONSUMER_NOT_FOUND})
_UPDATABLE: Final = frozenset({"ack_wait", "backoff", "filter_subjects", "max_ack_pending", "max_deliver"})
"""What the server changes in a durable consumer that is there."""


class BusLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What to create: how large, how many copies, and which roles run alone with which wakes."""

    space: Space = DEFAULT_SPACE
    replicas: int = 1
    wakes: Mapping[RoleName, tuple[str, ...]] = {}


class SetUp(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: names created and brought up to date, and a sentence for each difference left.

    ``outdated`` says of each stream that is as an older linestop made it what the broker's administrator has to do.
    """

    created: tuple[str, ...]
    updated: tuple[str, ...]
    differences: tuple[str, ...]
    outdated: tuple[str, ...] = ()

    def require_no_differences(self) -> None:
        """Raise ``ConfigError`` with all sentences if there are differences."""
        if self.differences:
            raise ConfigError(" ".join(self.differences))


DEFAULT_LAYOUT: Final = BusLayout()


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One stream or consumer: what it must be, and how the server is asked about it."""

    what: str
    config: Config
    info: str
    create: str
    body: Mapping[str, Any]
    taken: frozenset[int]
    updatable: frozenset[str] = frozenset()


async def set_up(
    connection: Connection, layout: BusLayout = DEFAULT_LAYOUT, *, administrator: Administrator | None = None
) -> SetUp:
    """Create what is missing, bring consumers up to date, compare the rest. Needs the credential ``bootstrap``.

    With an ``administrator`` it also brings up to date what streams an older linestop made.

    Raises:
        ConfigError: if something cannot be created or updated, for instance for lack of space.
        PermissionDenied: if the connection is not ``bootstrap``'s.
        Unreachable: if the server does not answer.
    """
    created: list[str] = []
    updated: list[str] = []
    differences: list[str] = []
    outdated: dict[str, tuple[_Wanted, dict[str, Any], list[str]]] = {}
    for wanted in _all(layout):
        found = await _ensure(connection, wanted)
        if found is None:
            created.append(wanted.what)
        elif fields := _older(wanted, found):
            outdated[wanted.config["name"]] = wanted, found, fields
        elif fields := _outdated(wanted, found):
            await _request(connection, wanted, "updated", {**wanted.body, "action": "update"})
            updated.append(f"{wanted.what} ({', '.join(fields)})")
        else:
            differences += _compare(wanted, found)
    if outdated and administrator is not None:
        async with administrator() as admin:
            for wanted, found, fields in outdated.values():
                await _update(admin, wanted, found)
                updated.append(f"{wanted.what} ({', '.join(fields)})")
        outdated = {}
    left = tuple(how_to_update(name, fields, wanted.config) for name, (wanted, _, fields) in outdated.items())
    return SetUp(created=tuple(created), updated=tuple(updated), differences=tuple(differences), outdated=left)


async def compare(connection: Connection, layout: BusLayout = DEFAULT_LAYOUT) -> tuple[str, ...]:
    """Say in a sentence each what is missing, older or different, and change nothing.

    Raises:
        PermissionDenied: if the connection may not look; ``Unreachable`` if the server does not answer.
    """
    told: list[str] = []
    for wanted in _all(layout):
        found = await _found(connection, wanted)
        if found is None:
            told.append(f"{wanted.what} is missing: `linestop dev` or `linestop bus init` makes it.")
        elif fields := _older(wanted, found):
            told.append(how_to_update(wanted.config["name"], fields, wanted.config))
        elif fields := _outdated(wanted, found):
            told.append(
                f"{wanted.what} is as an older linestop made it ({', '.join(fields)}): `linestop dev` or "
                "`linestop bus init` brings it up to date."
            )
        else:
            told += _compare(wanted, found)
    return tuple(told)


def _all(layout: BusLayout) -> list[_Wanted]:
    wanted = [
        _Wanted(
            what=f"stream {spec.name}",
            config=spec.config,
            info=jetstream_api.stream_info(spec.name),
            create=jetstream_api.stream_create(spec.name),
            body=spec.config,
            taken=frozenset({jetstream_api.STREAM_EXISTS}),
        )
        for spec in streams(layout.space, replicas=layout.replicas)
    ]
    wanted += [
        _Wanted(
            what=f"consumer {spec.name} of {spec.stream}",
            config=spec.config,
            info=jetstream_api.consumer_info(spec.stream, spec.name),
            create=jetstream_api.consumer_create(spec.stream, spec.name),
            body={"stream_name": spec.stream, "config": spec.config, "action": "create"},
            taken=frozenset({jetstream_api.CONSUMER_EXISTS, jetstream_api.CONSUMER_NAME_USED}),
            updatable=_UPDATABLE,
        )
        for spec in consumers(layout.wakes)
    ]
    return wanted


async def _ensure(connection: Connection, wanted: _Wanted) -> dict[str, Any] | None:
    """Create it and return None, or return the configuration of the one that exists."""
    for _ in range(2):
        found = await _found(connection, wanted)
        if found is not None:
            return found
        # Another process may have been faster: then look again.
        if await _request(connection, wanted, "created", wanted.body):
            return None
    raise ConfigError(f"{wanted.what} comes and goes: let only one process set up the bus.")


async def _found(connection: Connection, wanted: _Wanted) -> dict[str, Any] | None:
    try:
        reply = await connection.ask(wanted.info)
    except ApiError as error:
        if error.err_code not in _MISSING:
            raise
        return None
    return msgspec.convert(reply["config"], dict[str, Any])


async def _request(connection: Connection, wanted: _Wanted, verb: str, body: Mapping[str, Any]) -> bool:
    """Create or update it; return whether that was done, False if there is another one by now."""
    try:
        await connection.ask(wanted.create, body, timeout_s=CREATE_TIMEOUT_S)
    except ApiError as error:
        if error.err_code in wanted.taken:
            return False
        raise ConfigError(f"{wanted.what} cannot be {verb}: {error}") from None
    return True


def _outdated(wanted: _Wanted, found: Mapping[str, Any]) -> list[str]:
    """Name the fields that can be brought up to date, if nothing else differs."""
    fields = _differing(wanted, found)
    return fields if wanted.updatable.issuperset(fields) and not _forbidden(wanted, found) else []


def _older(wanted: _Wanted, found: Mapping[str, Any]) -> list[str]:
    """Name the fields of a stream that are as an older linestop made them, if nothing else differs."""
    fields = _differing(wanted, found)
    return fields if is_older(str(wanted.config["name"]), fields, found) and not _forbidden(wanted, found) else []


async def _update(admin: Connection, wanted: _Wanted, found: Mapping[str, Any]) -> None:
    try:
        await update(admin, wanted.config, found)
    except ApiError as error:
        raise ConfigError(f"{wanted.what} cannot be brought up to date: {error}") from None


def _compare(wanted: _Wanted, found: Mapping[str, Any]) -> list[str]:
    """Say in a sentence each what differs."""
    differences = [
        f"{wanted.what} has {field} {_show(found.get(field))} where linestop needs {_show(wanted.config[field])}: "
        "look who changed it, then have the broker's administrator set it back or delete it (docs/operations.md)."
        for field in _differing(wanted, found)
    ]
    differences += [
        f"{wanted.what} has {field} {_show(found[field])}, which linestop does not allow: "
        "have the broker's administrator remove it (docs/operations.md)."
        for field in _forbidden(wanted, found)
    ]
    return differences


def _differing(wanted: _Wanted, found: Mapping[str, Any]) -> list[str]:
    """Name what is not as it must be; a field the server leaves out has its zero value."""
    return [
        field
        for field, value in wanted.config.items()
        if field not in _LEFT_TO_OPERATORS
        and not (field in _OLDER_RULES and found.get("name") in _OLDER_BUCKETS)
        and _normal(field, found.get(field)) != _normal(field, value)
    ]


def _forbidden(wanted: _Wanted, found: Mapping[str, Any]) -> list[str]:
    fields = [field for field in _MUST_BE_ABSENT if found.get(field)]
    # To ``live.`` an older linestop republished more. Elsewhere it would have the server say what roles may not.
    republish = msgspec.convert(found.get("republish") or {}, dict[str, Any])
    if "republish" not in wanted.config and not republish.get("dest", "live.").startswith("live."):
        fields.append("republish")
    return fields


def _normal(field: str, value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if field == "republish" and value:
        return value.get("src"), value.get("dest"), value.get("headers_only") or False
    if field in {"subjects", "filter_subjects"}:
        return sorted(value or ())
    if field == "compression" and value == "none":
        return None
    # Zero, false, an empty list and a missing field are the same on the wire.
    return value or None


def _show(value: object) -> str:
    return "nothing" if value is None else msgspec.json.encode(value).decode()
