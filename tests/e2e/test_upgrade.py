"""A state directory of an older linestop: waiting runs continue after the upgrade, without a manual repair."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.stack import Stack, stack

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection, connect
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import compare
from linestop.bus.streams.stream_definitions import SECOND_NS, Config, ConsumerSpec, consumers
from linestop.cli.serving.assemble_process import prepare
from linestop.client import Client
from linestop.schemas import subjects
from linestop.schemas.subjects import Verb

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]
WITHIN_S = 30.0
OLD_VERBS: tuple[Verb, ...] = ("stop", "pause", "resume", "approve", "deny", "edit", "answer", "resolve")


def as_it_was(spec: ConsumerSpec) -> Config:
    """A consumer of an older version, in which control messages, timers and seals were redelivered after 30 s."""
    old = {**spec.config, "ack_wait": 30 * SECOND_NS}
    if spec.name == stream_names.REQUESTS_CONSUMERS[0][1]:
        old["filter_subjects"] = [subjects.control_filter(verb) for verb in OLD_VERBS]
    return old


AGED = tuple(s for s in consumers() if s.stream == stream_names.CONTROL or s.name in {"timers", "sealed"})


@asynccontextmanager
async def bootstrap_of(system: Stack) -> AsyncGenerator[Connection]:
    """A connection with the credential that sets up the bus."""
    async with await connect(system.server.credential("bootstrap"), name="test") as bootstrap:
        yield bootstrap


async def test_a_run_that_waits_in_an_older_folder_ends_after_the_upgrade(tmp_path: Path) -> None:
    """Every process updates all consumers of an older linestop in place when it starts."""
    async with stack(tmp_path, actors=False) as system, Client.connect(tmp_path, as_="operator") as client:
        async with bootstrap_of(system) as bootstrap:
            for spec in AGED:
                body = {"stream_name": spec.stream, "config": as_it_was(spec), "action": "update"}
                await bootstrap.api_request(jetstream_api.consumer_create(spec.stream, spec.name), body)
        async with system.actors():
            run = (await client.submit("desk", "pay 5")).run
            async for entry in client.events(run, follow=True):
                if entry.name == "asked":
                    break
        updated = await prepare(system.server.credential("bootstrap"))
        assert [each.partition(" (")[0] for each in updated] == [f"consumer {s.name} of {s.stream}" for s in AGED]
        assert "consumer control_approver of CONTROL (filter_subjects, ack_wait)" in updated
        assert await prepare(system.server.credential("bootstrap")) == ()
        async with bootstrap_of(system) as bootstrap:
            assert await compare(bootstrap) == ()
        async with system.actors():
            await client.approve(run)
            outcome = await client.outcome(run, timeout_s=WITHIN_S)
    assert (outcome.status, system.effects.paid) == ("completed", [5])
