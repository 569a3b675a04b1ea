"""``dead ls``, ``dead show`` and ``dead requeue`` against a running system."""

from __future__ import annotations

import anyio
import pytest
from tests.stack import Stack, cli

from linestop.client import Client, DeadLetter

pytestmark = pytest.mark.broker

SOON_S = 20.0


def wait_for_dead_letters(system: Stack, *, send: bool, count: int) -> list[DeadLetter]:
    """The dead letters once there are ``count`` of them, after a task for an invalid tenant if ``send``."""

    async def work() -> list[DeadLetter]:
        async with Client.connect(system.directory, as_="operator") as operator:
            if send:
                await operator.bus.wire.request("tasks.Not_A_Name.desk", b'{"text":"\x1b[31m"}')
            with anyio.fail_after(SOON_S):
                while len(found := await operator.dead_letters()) < count:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            return found

    return anyio.run(work)


def test_a_dead_letter_is_listed_shown_and_sent_again(system: Stack) -> None:
    """From an empty list to the message sent a second time, with its control characters escaped."""
    none = cli(system, "dead", "ls")
    assert (none.code, none.out) == (0, "")
    assert cli(system, "dead", "ls", "--json").json == []
    dead_letter = wait_for_dead_letters(system, send=True, count=1)[0]
    assert "does not have the form" in cli(system, "dead", "ls").out
    assert [each["seq"] for each in cli(system, "dead", "ls", "--json").json] == [dead_letter.seq]
    shown = cli(system, "dead", "show", str(dead_letter.seq))
    assert "subject  tasks.Not_A_Name.desk" in shown.out
    assert "\x1b" not in shown.out
    assert "\\x1b[31m" in shown.out
    assert cli(system, "dead", "show", str(dead_letter.seq), "--json").json["payload"] == '{"text":"\x1b[31m"}'
    again = cli(system, "dead", "requeue", str(dead_letter.seq), "--json")
    assert (again.code, again.json["requeued"]) == (0, True)
    assert len(wait_for_dead_letters(system, send=False, count=2)) == 2
    assert "was sent again" in cli(system, "dead", "requeue", str(dead_letter.seq)).out


def test_an_unknown_dead_letter_exits_1(system: Stack) -> None:
    """Nothing on stdout, and the way to find those that are."""
    ran = cli(system, "dead", "show", "4711")
    assert (ran.code, ran.out) == (1, "")
    assert "linestop dead ls" in ran.err
    assert cli(system, "dead", "requeue", "4711").code == 1
