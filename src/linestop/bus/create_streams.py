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
from linestop.bus.stream_definitions import DEFAULT_SIZES, Config, StreamSizes, consumers, streams
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

    sizes: StreamSizes = DEFAULT_SIZES
    replicas: int = 1
    wakes: Mapping[RoleName, tuple[str, ...]] = {}


class SetUpResult(msgspec.Struct, frozen=True, kw_only=True):
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


class _Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One stream or consumer: what it must be, and how the server is asked about it."""

    label: str
    config: Config
    info_subject: str
    create_subject: str
    body: Mapping[str, Any]
    exists_err_codes: frozenset[int]
    updatable: frozenset[str] = frozenset()


async def set_up(
    connection: Connection, layout: BusLayout = DEFAULT_LAYOUT, *, administrator: Administrator | None = None
) -> SetUpResult:
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
    outdated: dict[str, tuple[_Definition, dict[str, Any], list[str]]] = {}
    for definition in _definitions(layout):
        existing = await _create_or_read(connection, definition)
        if existing is None:
            created.append(definition.label)
        elif fields := _older_fields(definition, existing):
            outdated[definition.config["name"]] = definition, existing, fields
        elif fields := _updatable_fields(definition, existing):
            await _request(connection, definition, "updated", {**definition.body, "action": "update"})
            updated.append(f"{definition.label} ({', '.join(fields)})")
        else:
            differences += _compare(definition, existing)
    if outdated and administrator is not None:
        async with administrator() as admin:
            for definition, existing, fields in outdated.values():
                await _update(admin, definition, existing)
                updated.append(f"{definition.label} ({', '.join(fields)})")
        outdated = {}
    outdated_sentences = tuple(
        how_to_update(name, fields, wanted.config) for name, (wanted, _, fields) in outdated.items()
    )
    return SetUpResult(
        created=tuple(created), updated=tuple(updated), differences=tuple(differences), outdated=outdated_sentences
    )


async def compare(connection: Connection, layout: BusLayout = DEFAULT_LAYOUT) -> tuple[str, ...]:
    """Say in a sentence each what is missing, older or different, and change nothing.

    Raises:
        PermissionDenied: if the connection may not look; ``Unreachable`` if the server does not answer.
    """
    sentences: list[str] = []
    for definition in _definitions(layout):
        existing = await _existing(connection, definition)
        if existing is None:
            sentences.append(f"{definition.label} is missing: `linestop dev` or `linestop bus init` makes it.")
        elif fields := _older_fields(definition, existing):
            sentences.append(how_to_update(definition.config["name"], fields, definition.config))
        elif fields := _updatable_fields(definition, existing):
            sentences.append(
                f"{definition.label} is as an older linestop made it ({', '.join(fields)}): `linestop dev` or "
                "`linestop bus init` brings it up to date."
            )
        else:
            sentences += _compare(definition, existing)
    return tuple(sentences)


def _definitions(layout: BusLayout) -> list[_Definition]:
    definitions = [
        _Definition(
            label=f"stream {spec.name}",
            config=spec.config,
            info_subject=jetstream_api.stream_info(spec.name),
            create_subject=jetstream_api.stream_create(spec.name),
            body=spec.config,
            exists_err_codes=frozenset({jetstream_api.STREAM_EXISTS}),
        )
        for spec in streams(layout.sizes, replicas=layout.replicas)
    ]
    definitions += [
        _Definition(
            label=f"consumer {spec.name} of {spec.stream}",
            config=spec.config,
            info_subject=jetstream_api.consumer_info(spec.stream, spec.name),
            create_subject=jetstream_api.consumer_create(spec.stream, spec.name),
            body={"stream_name": spec.stream, "config": spec.config, "action": "create"},
            exists_err_codes=frozenset({jetstream_api.CONSUMER_EXISTS, jetstream_api.CONSUMER_NAME_USED}),
            updatable=_UPDATABLE,
        )
        for spec in consumers(layout.wakes)
    ]
    return definitions


async def _create_or_read(connection: Connection, definition: _Definition) -> dict[str, Any] | None:
    """Create it and return None, or return the configuration of the one that exists."""
    for _ in range(2):
        existing = await _existing(connection, definition)
        if existing is not None:
            return existing
        # Another process may have been faster: then look again.
        if await _request(connection, definition, "created", definition.body):
            return None
    raise ConfigError(f"{definition.label} comes and goes: let only one process set up the bus.")


async def _existing(connection: Connection, definition: _Definition) -> dict[str, Any] | None:
    try:
        reply = await connection.api_request(definition.info_subject)
    except ApiError as error:
        if error.err_code not in _MISSING:
            raise
        return None
    return msgspec.convert(reply["config"], dict[str, Any])


async def _request(connection: Connection, definition: _Definition, verb: str, body: Mapping[str, Any]) -> bool:
    """Create or update it; return whether that was done, False if there is another one by now."""
    try:
        await connection.api_request(definition.create_subject, body, timeout_s=CREATE_TIMEOUT_S)
    except ApiError as error:
        if error.err_code in definition.exists_err_codes:
            return False
        raise ConfigError(f"{definition.label} cannot be {verb}: {error}") from None
    return True


def _updatable_fields(definition: _Definition, existing: Mapping[str, Any]) -> list[str]:
    """Name the fields that can be brought up to date, if nothing else differs."""
    fields = _differing(definition, existing)
    return fields if definition.updatable.issuperset(fields) and not _forbidden(definition, existing) else []


def _older_fields(definition: _Definition, existing: Mapping[str, Any]) -> list[str]:
    """Name the fields of a stream that are as an older linestop made them, if nothing else differs."""
    fields = _differing(definition, existing)
    return (
        fields
        if is_older(str(definition.config["name"]), fields, existing) and not _forbidden(definition, existing)
        else []
    )


async def _update(admin: Connection, definition: _Definition, existing: Mapping[str, Any]) -> None:
    try:
        await update(admin, definition.config, existing)
    except ApiError as error:
        raise ConfigError(f"{definition.label} cannot be brought up to date: {error}") from None


def _compare(definition: _Definition, existing: Mapping[str, Any]) -> list[str]:
    """Say in a sentence each what differs."""
    differences = [
        f"{definition.label} has {field} {_shown_value(existing.get(field))} where linestop needs "
        f"{_shown_value(definition.config[field])}: "
        "look who changed it, then have the broker's administrator set it back or delete it (docs/operations.md)."
        for field in _differing(definition, existing)
    ]
    differences += [
        f"{definition.label} has {field} {_shown_value(existing[field])}, which linestop does not allow: "
        "have the broker's administrator remove it (docs/operations.md)."
        for field in _forbidden(definition, existing)
    ]
    return differences


def _differing(definition: _Definition, existing: Mapping[str, Any]) -> list[str]:
    """Name what is not as it must be; a field the server leaves out has its zero value."""
    return [
        field
        for field, value in definition.config.items()
        if field not in _LEFT_TO_OPERATORS
        and not (field in _OLDER_RULES and existing.get("name") in _OLDER_BUCKETS)
        and _normal(field, existing.get(field)) != _normal(field, value)
    ]


def _forbidden(definition: _Definition, existing: Mapping[str, Any]) -> list[str]:
    fields = [field for field in _MUST_BE_ABSENT if existing.get(field)]
    # To ``live.`` an older linestop republished more. Elsewhere it would have the server say what roles may not.
    republish = msgspec.convert(existing.get("republish") or {}, dict[str, Any])
    if "republish" not in definition.config and not republish.get("dest", "live.").startswith("live."):
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


def _shown_value(value: object) -> str:
    return "nothing" if value is None else msgspec.json.encode(value).decode()
