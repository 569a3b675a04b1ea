"""Setting a bus up: streams and consumers, created if missing, checked if there, never changed.

A stream that exists with other settings is somebody's decision, or an attack on the rules that the log
stands on. Either way a person must look: it is reported in a sentence and left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from linestop.bus import api
from linestop.bus.accounts import accounts
from linestop.bus.api import ApiError
from linestop.bus.checkpoints import ensure_checkpoint_key
from linestop.bus.connection import Connection, connect
from linestop.bus.credentials import ensure_credentials, passwords_of
from linestop.bus.permissions import DEFAULT_ACCESS, AccessOptions
from linestop.bus.streams import DEFAULT_SPACE, ConsumerSpec, Space, StreamSpec, consumers, streams
from linestop.errors import ConfigError, PermissionDenied, Unreachable
from linestop.schemas.subjects import RoleName

CREATE_TIMEOUT_S: Final = 10.0

_LEFT_TO_OPERATORS: Final = frozenset({"max_bytes", "num_replicas", "compression"})
"""How much space and how many copies: a matter of the installation, not of correctness."""

_MUST_BE_ABSENT: Final = (
    "mirror",
    "sources",
    "subject_transform",
    "sealed",
    "allow_msg_counter",
    "allow_atomic",
)


class BusLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What to create: how large, how many copies, and which roles run alone with which wakes."""

    space: Space = DEFAULT_SPACE
    replicas: int = 1
    wakes: Mapping[RoleName, tuple[str, ...]] = {}


class SetUp(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: names created, and a sentence for each difference that a person must settle."""

    created: tuple[str, ...]
    differences: tuple[str, ...]

    def require_no_differences(self) -> None:
        """Raise ``ConfigError`` with all sentences if there are differences."""
        if self.differences:
            raise ConfigError(" ".join(self.differences))


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ``bus_init`` leaves for a person: the text the server needs, and how far it came.

    ``set_up`` is None while the server does not know the credentials yet; ``next_step`` says what to do.
    """

    server_config: str
    set_up: SetUp | None
    next_step: str


DEFAULT_LAYOUT: Final = BusLayout()


async def set_up(connection: Connection, layout: BusLayout = DEFAULT_LAYOUT) -> SetUp:
    """Create what is missing and compare what is there. Needs the credential ``bootstrap``.

    Raises:
        ConfigError: if something cannot be created, for instance for lack of space.
        PermissionDenied: if the connection is not ``bootstrap``'s.
        Unreachable: if the server does not answer.
    """
    created: list[str] = []
    differences: list[str] = []
    for spec in streams(layout.space, replicas=layout.replicas):
        found = await _ensure_stream(connection, spec)
        if found is None:
            created.append(f"stream {spec.name}")
        else:
            differences += _compare(f"stream {spec.name}", spec.config, found)
    for consumer in consumers(layout.wakes):
        found = await _ensure_consumer(connection, consumer)
        what = f"consumer {consumer.name} of {consumer.stream}"
        if found is None:
            created.append(what)
        else:
            differences += _compare(what, consumer.config, found)
    return SetUp(created=tuple(created), differences=tuple(differences))


async def bus_init(
    url: str,
    directory: Path,
    *,
    layout: BusLayout = DEFAULT_LAYOUT,
    access: AccessOptions = DEFAULT_ACCESS,
) -> InitResult:
    """Set up a server of somebody else's the way the embedded one is; may be repeated.

    Writes the credential files below ``directory`` (keeping those that exist) and returns the ``accounts``
    section the server needs. Once the server has it, another call creates streams and consumers.

    Args:
        url: Where the server listens; several separated by commas.
        directory: Where the credential files go.
        layout: What to create.
        access: Choices about what clients may read.

    Raises:
        ConfigError: for a damaged credential file, or if something cannot be created.
    """
    credentials = ensure_credentials(directory, url)
    ensure_checkpoint_key(directory / "credentials")
    section = msgspec.json.encode({"accounts": accounts(passwords_of(credentials), access)})
    # The braces around a JSON document are no part of what is pasted into a server's configuration.
    text = msgspec.json.format(section).decode().strip().removeprefix("{").removesuffix("}").strip("\n")
    try:
        async with await connect(credentials["bootstrap"], name="linestop bus init") as connection:
            done = await set_up(connection, layout)
    except PermissionDenied:
        step = f"put these accounts into the configuration of the server at {url}, reload it, and run this again"
        return InitResult(server_config=text, set_up=None, next_step=f"{step}.")
    except Unreachable as error:
        step = "start the server with these accounts and run this again"
        return InitResult(server_config=text, set_up=None, next_step=f"{error} Then {step}.")
    return InitResult(server_config=text, set_up=done, next_step=" ".join(done.differences))


async def _ensure_stream(connection: Connection, spec: StreamSpec) -> dict[str, Any] | None:
    """Create the stream and return None, or return the configuration of the one that exists."""
    for _ in range(2):
        try:
            reply = await connection.ask(api.stream_info(spec.name))
        except ApiError as error:
            if error.err_code != api.STREAM_NOT_FOUND:
                raise
        else:
            return _config(reply)
        try:
            await connection.ask(api.stream_create(spec.name), spec.config, timeout_s=CREATE_TIMEOUT_S)
        except ApiError as error:
            # Another process may have been faster: then look again.
            if error.err_code != api.STREAM_EXISTS:
                raise ConfigError(f"stream {spec.name} cannot be created: {error}") from None
        else:
            return None
    raise ConfigError(f"stream {spec.name} comes and goes: let only one process set up the bus.")


async def _ensure_consumer(connection: Connection, spec: ConsumerSpec) -> dict[str, Any] | None:
    """Create the consumer and return None, or return the configuration of the one that exists."""
    body = {"stream_name": spec.stream, "config": spec.config, "action": "create"}
    for _ in range(2):
        try:
            reply = await connection.ask(api.consumer_info(spec.stream, spec.name))
        except ApiError as error:
            if error.err_code != api.CONSUMER_NOT_FOUND:
                raise
        else:
            return _config(reply)
        try:
            await connection.ask(api.consumer_create(spec.stream, spec.name), body, timeout_s=CREATE_TIMEOUT_S)
        except ApiError as error:
            if error.err_code not in {api.CONSUMER_EXISTS, api.CONSUMER_NAME_USED}:
                raise ConfigError(f"consumer {spec.name} of {spec.stream} cannot be created: {error}") from None
        else:
            return None
    raise ConfigError(f"consumer {spec.name} of {spec.stream} comes and goes: let only one process set up.")


def _config(reply: Mapping[str, object]) -> dict[str, Any]:
    return msgspec.convert(reply["config"], dict[str, Any])


def _compare(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say in a sentence each what differs; a field the server leaves out has its zero value."""
    differences = [
        f"{what} has {field} {_show(found.get(field))} where linestop needs {_show(value)}: "
        "look who changed it, then set it back or delete it."
        for field, value in wanted.items()
        if field not in _LEFT_TO_OPERATORS and _normal(field, found.get(field)) != _normal(field, value)
    ]
    differences += [
        f"{what} has {field} {_show(found[field])}, which linestop does not allow: remove it."
        for field in _MUST_BE_ABSENT
        if found.get(field)
    ]
    return differences


def _normal(field: str, value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if field == "republish" and value:
        return value.get("src"), value.get("dest"), value.get("headers_only") or False
    if field in {"subjects", "filter_subjects"}:
        return sorted(value or ())
    # Zero, false, an empty list and a missing field are the same on the wire.
    return value or None


def _show(value: object) -> str:
    return "nothing" if value is None else msgspec.json.encode(value).decode()
