"""A person is called while there is still room: once for each mark, and again only after something became free."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import anyio
import msgspec
import pytest
from tests.run_logs import InMemory

from linestop.bus.interfaces import Fill, Log, Publisher
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.housekeeping import space_alerts
from linestop.runtime.housekeeping.space_alerts import SpaceWatch
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.defaults import SPACE_CHECK_EVERY_S
from linestop.schemas.subjects import ACTORS, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now


class Streams:
    """A log that reports how full streams are, and a publisher that records alerts."""

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        self.alerts: list[tuple[str, int]] = []
        self.why = ""

    async def fills(self) -> list[Fill]:
        """As ``Log``."""
        return [Fill(stream=name, used=used) for name, used in self.used.items()]

    async def alert(self, tenant: TenantId, kind: str, payload: bytes, headers: dict[str, str]) -> None:
        """As ``Publisher``."""
        del headers
        fields = msgspec.json.decode(payload, type=dict[str, object])
        assert (tenant, kind) == ("system", "space")
        self.why = str(fields["why"])
        self.alerts.append((str(fields["what"]), cast("int", fields["used_percent"])))


def make_watch(streams: Streams, directory: Path | None = None) -> SpaceWatch:
    """A watch over these streams."""
    return SpaceWatch(cast("Log", streams), cast("Publisher", streams), directory, virtual_now)


def test_each_threshold_raises_one_alert_and_another_only_after_space_became_free() -> None:
    """A fill that goes to and fro around a mark causes no alert."""
    fills_and_calls: list[tuple[float, list[int]]] = [
        (0.74, []),
        (0.75, [75]),
        (0.76, []),
        (0.74, []),
        (0.75, []),
        (0.89, []),
        (0.90, [90]),
        (0.99, []),
        (0.88, []),
        (0.91, []),
        (0.84, []),
        (0.91, [90]),
        (0.71, []),
        (0.76, []),
        (0.69, []),
        (0.95, [90]),
        (0.10, []),
        (0.80, [75]),
    ]

    async def main() -> None:
        streams = Streams()
        space_watch = make_watch(streams)
        for used, alerted in fills_and_calls:
            streams.used, streams.alerts = {"RUNS": used, "DEAD": 0.1}, []
            await space_watch.check()
            assert streams.alerts == [("RUNS", percent) for percent in alerted], used

    run_virtual(main, seed=1)


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        ("RUNS", "The stream RUNS is 80% full; from 90% new work is refused."),
        ("DEAD", "The stream DEAD is 80% full; when it is full, its oldest messages go."),
        ("CONTROL", "The stream CONTROL is 80% full; when it is full, what is sent to it is refused."),
    ],
)
def test_the_alert_names_the_consequence(stream: str, sentence: str) -> None:
    """The consequence differs between streams."""

    async def main() -> None:
        streams = Streams()
        streams.used = {stream: 0.8}
        await make_watch(streams).check()
        assert streams.why == f"{sentence} Make room (docs/operations.md)."

    run_virtual(main, seed=1)


def test_the_disk_of_the_state_folder_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same marks; each machine has its own disk."""

    def used_share(folder: Path) -> float:
        return 0.8 if folder == tmp_path else 0.0

    monkeypatch.setattr(space_alerts, "used_share", used_share)

    async def main() -> None:
        streams = Streams()
        space_watch = make_watch(streams, tmp_path)
        await space_watch.check()
        await space_watch.check()
        assert streams.alerts == [(space_alerts.DISK_LABEL, 75)]
        assert f"The disk with {tmp_path} is 80% full; when it is full, everything stops" in streams.why

    run_virtual(main, seed=1)


def test_a_recorder_checks_again_and_again_and_two_of_them_raise_one_alert() -> None:
    """Within one round of checks; alerts of several recorders at once are one alert."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        runs = broker.stream(stream_names.RUNS)
        runs.bytes_max = 100_000

        def alerts() -> int:
            return len(broker.stream(stream_names.ALERTS).matching("alerts.system.space"))

        first = ProcessSettings(worker="a#1", now=virtual_now)
        second = ProcessSettings(worker="b#1", now=virtual_now)
        recorder = [make_role("recorder", requester=None, runner=None)]
        everybody = [
            make_role(role, requester=None, runner=None) for role in ACTORS if role not in {"planner", "executor"}
        ]
        async with (
            ActorProcess(InMemory(broker), everybody, first).running(),
            ActorProcess(InMemory(broker), recorder, second).running(),
        ):
            await anyio.sleep(1)
            assert alerts() == 0
            runs.bytes_used = 80_000
            await anyio.sleep(SPACE_CHECK_EVERY_S)
            assert alerts() == 1
            await anyio.sleep(100 * SPACE_CHECK_EVERY_S)
            assert alerts() == 1

    run_virtual(main, seed=1)
