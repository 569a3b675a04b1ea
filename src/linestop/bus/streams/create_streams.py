"""Sets up a bus: creates missing streams and consumers, and checks the existing ones.

A stream with other settings is somebody's choice, or an attack on the rules of the log. Either way a person must
decide, so the difference is reported in a sentence and the stream stays as it is. A stream with exactly the settings
of an older linestop is updated by the broker's administrator (see ``migrate_streams``). A durable consumer belongs to
linestop alone, so the fields that the server lets be changed are updated at once. Nothing is lost: the consumer keeps
its position and its acknowledgements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection
from linestop.bus.jetstream_api import ApiError
from linestop.bus.streams.migrate_streams import Administrator, how_to_update, is_older, update
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, Config, StreamSizes, consumers, streams
from linestop.bus.streams.stream_names import AGENTS_BUCKET, SHARED_BUCKET, bucket_stream
from linestop.errors import ConfigError
from linestop.schemas.json_values import JsonObject, JsonValue

CREATE_TIMEOUT_S: Final = 10.0
_LEFT_TO_OPERATORS: Final = frozenset({"max_bytes", "num_replicas"})
"""Space and replicas: the installation chooses them, correctness does not depend on them."""

_OLDER_BUCKETS: Final = frozenset({bucket_stream(AGENTS_BUCKET), bucket_stream(SHARED_BUCKET)})
_OLDER_RULES: Final = frozenset({"deny_purge", "allow_rollup_hdrs"})
"""Operations that two buckets of an older linestop do not refuse. No credential may change a stream, so they stay
as they are: ``budget`` could erase kill switches there, and ``operator`` accounts."""

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
    # Of a consumer: the server would push messages to that subject instead of waiting for pulls.
    "deliver_subject",
)

_MISSING: Final = frozenset({jetstream_api.STREAM_NOT_FOUND, jetstream_api.CONSUMER_NOT_FOUND})
_UPDATABLE: Final = frozenset({"ack_wait", "filter_subjects", "max_ack_pending", "max_deliver"})
"""The fields of an existing durable consumer that the server lets be changed."""


class BusLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes and the number of replicas of the streams to create."""

    sizes: StreamSizes = DEFAULT_SIZES
    replicas: int = 1


class SetUpResult(msgspec.Struct, frozen=True, kw_only=True):
    """The names that were created and updated, and a sentence for each remaining difference.

    ``outdated`` tells the broker's administrator what to do about each stream with the settings of an older linestop.
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
    """One stream or consumer: its required settings and the API requests about it."""

    label: str
    config: Config
    info_subject: str
    create_subject: str
    body: Mapping[str, JsonValue]
    exists_err_codes: frozenset[int]
    updatable: frozenset[str] = frozenset()


async def set_up(
    connection: Connection, layout: BusLayout = DEFAULT_LAYOUT, *, administrator: Administrator | None = None
) -> SetUpResult:
    """Create missing streams and consumers, update consumers, compare the rest. Needs the credential ``bootstrap``.

    With an ``administrator`` the streams of an older linestop are updated too.

    Raises:
        ConfigError: if something cannot be created or updated, for instance for lack of space.
        PermissionDenied: if the connection is not ``bootstrap``'s.
        Unreachable: if the server does not answer.
    """
    created: list[str] = []
    updated: list[str] = []
    differences: list[str] = []
    outdated: dict[str, tuple[_Definition, JsonObject, list[str]]] = {}
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
        how_to_update(name, fields, definition.config) for name, (definition, _, fields) in outdated.items()
    )
    return SetUpResult(
        created=tuple(created), updated=tuple(updated), differences=tuple(differences), outdated=outdated_sentences
    )


async def compare(connection: Connection, layout: BusLayout = DEFAULT_LAYOUT) -> tuple[str, ...]:
    """Return a sentence for each missing, outdated or different stream or consumer; change nothing.

    Raises:
        PermissionDenied: if the credential may not read them; ``Unreachable`` if the server does not answer.
    """
    sentences: list[str] = []
    for definition in _definitions(layout):
        existing = await _existing(connection, definition)
        if existing is None:
            sentences.append(f"{definition.label} is missing: `linestop dev` or `linestop bus init` creates it.")
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
        for spec in consumers()
    ]
    return definitions


async def _create_or_read(connection: Connection, definition: _Definition) -> JsonObject | None:
    """Create it and return None, or return the configuration of the one that exists."""
    for _ in range(2):
        existing = await _existing(connection, definition)
        if existing is not None:
            return existing
        # If another process was faster, read it again.
        if await _request(connection, definition, "created", definition.body):
            return None
    raise ConfigError(
        f"{definition.label} is created and deleted at the same time: let only one process set up the bus."
    )


async def _existing(connection: Connection, definition: _Definition) -> JsonObject | None:
    try:
        reply = await connection.api_request(definition.info_subject)
    except ApiError as error:
        if error.err_code not in _MISSING:
            raise
        return None
    return msgspec.convert(reply["config"], JsonObject)


async def _request(connection: Connection, definition: _Definition, verb: str, body: Mapping[str, JsonValue]) -> bool:
    """Create or update it; return False if another one was created in the meantime."""
    try:
        await connection.api_request(definition.create_subject, body, timeout_s=CREATE_TIMEOUT_S)
    except ApiError as error:
        if error.err_code in definition.exists_err_codes:
            return False
        raise ConfigError(f"{definition.label} cannot be {verb}: {error}") from None
    return True


def _updatable_fields(definition: _Definition, existing: Mapping[str, JsonValue]) -> list[str]:
    """Return the fields that can be updated, if nothing else differs."""
    fields = _differing(definition, existing)
    return fields if definition.updatable.issuperset(fields) and not _forbidden(definition, existing) else []


def _older_fields(definition: _Definition, existing: Mapping[str, JsonValue]) -> list[str]:
    """Return the fields of a stream that have the values of an older linestop, if nothing else differs."""
    fields = _differing(definition, existing)
    return (
        fields
        if is_older(str(definition.config["name"]), fields, existing) and not _forbidden(definition, existing)
        else []
    )


async def _update(admin: Connection, definition: _Definition, existing: Mapping[str, JsonValue]) -> None:
    try:
        await update(admin, definition.config, existing)
    except ApiError as error:
        raise ConfigError(f"{definition.label} cannot be brought up to date: {error}") from None


def _compare(definition: _Definition, existing: Mapping[str, JsonValue]) -> list[str]:
    """Return a sentence for each difference."""
    differences = [
        f"{definition.label} has {field} {_shown_value(existing.get(field))} where linestop needs "
        f"{_shown_value(definition.config[field])}: "
        "find out who changed it, then have the broker's administrator set it back or delete it (docs/operations.md)."
        for field in _differing(definition, existing)
    ]
    differences += [
        f"{definition.label} has {field} {_shown_value(existing[field])}, which linestop does not allow: "
        "have the broker's administrator remove it (docs/operations.md)."
        for field in _forbidden(definition, existing)
    ]
    return differences


def _differing(definition: _Definition, existing: Mapping[str, JsonValue]) -> list[str]:
    """Return the fields that do not have the required value; a field that the server omits has its zero value."""
    return [
        field
        for field, value in definition.config.items()
        if field not in _LEFT_TO_OPERATORS
        and not (field in _OLDER_RULES and existing.get("name") in _OLDER_BUCKETS)
        and _normal(field, existing.get(field)) != _normal(field, value)
    ]


def _forbidden(definition: _Definition, existing: Mapping[str, JsonValue]) -> list[str]:
    fields = [field for field in _MUST_BE_ABSENT if existing.get(field)]
    # An older linestop republished more to ``live.``. To another subject the server would publish what roles may not.
    republish = msgspec.convert(existing.get("republish") or {}, JsonObject)
    if "republish" not in definition.config and not republish.get("dest", "live.").startswith("live."):
        fields.append("republish")
    return fields


def _normal(field: str, value: JsonValue) -> JsonValue:
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
