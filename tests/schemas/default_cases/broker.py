"""What the defaults of messages, streams and the broker do."""

# ruff: noqa: PLC0415 - each run has its own import of linestop

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import anyio
from tests.schemas.default_cases import Cases, failure, virtually

CASES = Cases()
case = CASES.case


@case("APPEND_TRIES_MAX", "2")
def appends_while_another_is_in_flight() -> object:
    """How often one is repeated."""
    from linestop.bus.jetstream import retry

    asked: list[int] = []

    async def request(*_: Any, **__: Any) -> object:
        asked.append(1)
        return SimpleNamespace(data=b"")

    async def main() -> int:
        with patch.object(retry, "read_ack"), patch.object(retry, "meaning", return_value="in_flight"):
            await retry.publish(cast("Any", SimpleNamespace(request=request)), "runs.x", b"", headers=b"")
        return len(asked)

    return virtually(main)


@case("ARCHIVE_DAYS_MAX", "10")
def a_hundred_days_in_the_archive() -> object:
    """Whether that is allowed."""
    from linestop.schemas.broker_defaults import Retention

    return failure(lambda: Retention(archive_days=100))


@case("Retention.runs_days", "10")
@case("Retention.archive_days", "10")
def the_planned_space() -> object:
    """What ``linestop bus plan`` prints for a project without configuration."""
    printed = StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"LINESTOP_PROJECT": folder}),
        redirect_stdout(printed),
    ):
        from linestop.cli.commands.bus import plan

        figures = {"runs_per_day": 100, "turns": 5, "text_bytes": 100, "long_bytes": 0, "days": 90}
        assert plan.callback is not None
        plan.callback(disk=10**11, **figures, runs_days=None, as_json=False)
    return printed.getvalue()


@case("MESSAGE_BYTES_MAX", "100_000")
@case("CONTROL_BYTES_MAX", "10_000")
@case("BLOB_PART_BYTES", "10_000")
@case("CONTROL_DAYS", "1")
@case("ALERT_DAYS", "1")
@case("DEAD_LETTER_DAYS", "1")
@case("DEAD_LETTERS_PER_SUBJECT_MAX", "1")
@case("STOP_ACK_WAIT_S", "9.0")
@case("ACK_WAIT_S", "9.0")
def what_the_broker_is_configured_with() -> object:
    """The sizes of messages, how long they are stored, and when they are delivered again."""
    from linestop.bus.streams.stream_definitions import consumers, streams

    return [spec.config for spec in streams()], [spec.config for spec in consumers()]


@case("BLOB_BYTES_MAX", "10")
def a_long_blob() -> object:
    """Whether it is stored."""
    from tests.builders import NOW, TENANT, at_once

    from linestop.testing.memory import MemoryBroker

    return failure(lambda: at_once(MemoryBroker(lambda: NOW).blobs().put(TENANT, b"x" * 11)))


@case("DISK_FULL_BYTES", "10**11")
@case("DISK_TO_WARN_BYTES", "10**11")
@case("SPACE_TO_WARN", "0.1")
def a_disk_that_is_half_full() -> object:
    """Whether ``linestop doctor`` warns, and whether it counts as full."""
    from linestop.bus import disk_space
    from linestop.cli.doctor import stream_checks

    here, free = Path(), 10**10
    with (
        patch.object(stream_checks, "free_bytes", return_value=free),
        patch.object(stream_checks, "used_share", return_value=0.5),
        patch.object(disk_space, "free_bytes", return_value=free),
    ):
        return disk_space.is_full(here), failure(lambda: stream_checks.check_disk(here))


@case("SPACE_HYSTERESIS", "0.001")
def a_stream_about_its_mark() -> object:
    """How often a person is told."""
    from tests.runtime.test_space_alerts import Streams, make_watch

    async def main() -> int:
        streams = Streams()
        watch = make_watch(streams)
        for used in (0.76, 0.74, 0.76):
            streams.used = {"RUNS": used}
            await watch.check()
        return len(streams.alerts)

    return virtually(main)


@case("SPACE_TO_WATCH", "0.1")
def a_stream_with_space() -> object:
    """Whether it has so much that nothing is watched."""
    from tests.runtime.test_stream_space import LIMIT, SlowLog, stream_space

    return virtually(lambda: stream_space().has_ample_space(cast("Any", SlowLog(LIMIT // 3))))


@case("STREAMS_DISK_SHARE", "0.1")
def the_sizes_of_new_streams() -> object:
    """On a large disk."""
    from linestop.bus.streams.stream_sizes import sizes_for

    return sizes_for(10**12).runs


@case("BROKER_LOG_BYTES_MAX", "1_000")
def the_configuration_of_the_server() -> object:
    """As it is written."""
    from linestop.bus.server.nats_config import Listen, server_config

    listen = Listen(port=4222, store_dir=Path("store"), file_store_bytes_max=10**9, log_file=Path("nats.log"))
    return server_config(listen, {}).decode()


@case("BROKER_CONNECT_TIMEOUT_S", "1.0")
@case("BROKER_REQUEST_TIMEOUT_S", "1.0")
def a_connection() -> object:
    """How long it waits for the server, and for the reply to a request."""
    from linestop.bus import connection
    from linestop.bus.access.credentials import Credential

    seen: list[float] = []

    async def opened(_: object, *, name: str, timeout_s: float) -> None:
        assert name
        seen.append(timeout_s)

    async def wait_connected(*, within_s: float) -> bool:
        seen.append(within_s)
        return True

    async def request(*_: object, timeout_s: float, **__: object) -> None:
        seen.append(timeout_s)

    async def main() -> list[float]:
        with patch.object(connection.Connection, "open", opened):
            made = await connection.connect(Credential(url="nats://127.0.0.1:1", user="client"), name="test")
        made.wire = cast("Any", SimpleNamespace(wait_connected=wait_connected, request=request))
        await made.request("x")
        return seen

    return asyncio.run(main())


@case("BROKER_RETRY_FOR_S", "1.0")
def a_request_without_a_reply() -> object:
    """Whether it is still repeated after five seconds."""
    from linestop.bus.jetstream.retry import with_retries
    from linestop.errors import Unreachable

    async def wait_connected(*, within_s: float) -> bool:
        return within_s > 0

    async def request() -> None:
        raise Unreachable("no reply")

    async def main() -> bool:
        began = anyio.current_time()
        try:
            await with_retries(cast("Any", SimpleNamespace(wait_connected=wait_connected)), request)
        except Unreachable:
            return anyio.current_time() - began > 5
        return True

    return virtually(main)


@case("BROKER_CRASHES_MAX", "2")
@case("BROKER_CRASH_WINDOW_S", "-1.0")
def a_server_that_crashes_eight_times() -> object:
    """How often it is started again."""
    from linestop.bus.server.embedded import EmbeddedServer

    waits: list[int] = []
    started: list[int] = []

    async def wait() -> int:
        waits.append(1)
        if len(waits) > 8:
            await anyio.sleep_forever()
        return 1

    async def start_again(_: object) -> None:
        started.append(1)

    def report(*_: object) -> None:
        return None

    process = SimpleNamespace(wait=wait, last_error=lambda: "", log_file="nats.log")
    server = SimpleNamespace(
        _running=lambda: process, _restarting=False, _start_again=start_again, _report_event=report
    )

    async def main() -> int:
        with anyio.move_on_after(600):
            await EmbeddedServer._supervise(cast("Any", server))  # pyright: ignore[reportPrivateUsage]
        return len(started)

    return virtually(main)


@case("DELIVERIES_IN_FLIGHT_MAX", "1")
def two_tasks_at_once() -> object:
    """How many of them a process handles."""
    from tests.builders import NOW
    from tests.run_logs import InMemory

    from linestop.bus.interfaces import Delivery
    from linestop.bus.streams import stream_names
    from linestop.bus.streams.stream_definitions import consumer_spec
    from linestop.runtime.message_loops import Pumps
    from linestop.testing.memory import MemoryBroker

    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.subject)
        await anyio.sleep_forever()

    async def main() -> list[str]:
        broker = MemoryBroker(lambda: NOW)
        for agent in ("a", "b"):
            await broker.publish(f"tasks.acme.{agent}", b"{}")
        with anyio.move_on_after(0.5):
            await Pumps(InMemory(broker), lambda: True).pull(
                "validator", consumer_spec(stream_names.TASKS_CONSUMER), handle
            )
        return handled

    return virtually(main)


@case("DELIVERY_ATTEMPTS_MAX", "2")
@case("DELIVERY_RETRY_S", "9.0")
def a_message_that_failed_three_times() -> object:
    """Whether it is delivered again, and when."""
    from linestop.runtime import intake

    done: list[object] = []

    async def settle(*what: object) -> None:
        done.append(what)

    async def dead_letter(*_: object) -> None:
        done.append("dead letter")

    delivery = SimpleNamespace(
        subject="tasks.acme.a", attempt=3, seq=1, headers=dict[str, str](), payload=b"", nak=settle, term=settle
    )
    publisher = SimpleNamespace(dead_letter=dead_letter)
    asyncio.run(
        intake._retry_or_dead_letter(  # pyright: ignore[reportPrivateUsage]
            cast("Any", publisher), cast("Any", delivery), ValueError("it fails"), role="validator"
        )
    )
    return done


@case("OUTCOME_RETRY_S", "9.0")
def an_outcome_without_space() -> object:
    """When it is delivered again."""
    from linestop.errors import TooLarge
    from linestop.runtime.actor_process import ActorProcess

    naks: list[float] = []

    async def advance(*_: object) -> object:
        return SimpleNamespace(run=SimpleNamespace(sealed=object(), run="r1"))

    async def publish_outcome(_: object) -> None:
        raise TooLarge("OUTCOMES is full")

    async def nak(delay_s: float) -> None:
        naks.append(delay_s)

    shell = SimpleNamespace(advance=advance, outbox=SimpleNamespace(publish_outcome=publish_outcome))
    delivery = SimpleNamespace(subject="runs.acme.r1.recorder.sealed.9", nak=nak)
    process = cast("Any", SimpleNamespace(shell=shell))
    asyncio.run(ActorProcess._on_seal(process, cast("Any", delivery)))  # pyright: ignore[reportPrivateUsage]
    return naks


@case("REPLY_WAIT_S", "2.0")
def a_stop_that_no_role_handles() -> object:
    """When the client gives up."""
    from linestop.client import sender
    from linestop.errors import TimedOut
    from linestop.schemas.messages import Control
    from linestop.schemas.subjects import RunId, TenantId

    async def nothing(*_: object, **__: object) -> None:
        return None

    async def main() -> float:
        connection = SimpleNamespace(credential=SimpleNamespace(user="client"), subscribe=nothing)
        one = sender.Sender(cast("Any", connection), cast("Any", None), None)
        began = anyio.current_time()
        with patch.object(sender, "publish", nothing):
            try:
                await one.send_control(TenantId("acme"), RunId("r1"), "stop", Control(by="ann"))
            except TimedOut:
                return anyio.current_time() - began
        return 0.0

    return virtually(main)


@case("STOP_WITHIN_S", "2.0")
def a_stop_of_a_run_that_moves() -> object:
    """Whether it is still tried after five seconds."""
    from tests.bus.test_stop_run import StopScene

    from linestop.errors import TimedOut

    async def main() -> bool:
        began = anyio.current_time()
        try:
            await StopScene(conflicts_to_cause=10**9).stop()
        except TimedOut:
            return anyio.current_time() - began > 5
        return True

    return virtually(main)
