"""``dead ls``, ``dead show`` and ``dead requeue`` against the whole of linestop."""

from __future__ import annotations

from collections.abc import Generator

import anyio
import pytest
from tests.stack import Ran, Stack, background_stack, command

from linestop.client import Client, Letter

pytestmark = pytest.mark.broker

SOON_S = 20.0


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Everything, running in another thread."""
    with background_stack(tmp_path_factory.mktemp("line")) as running:
        yield running


def cli(line: Stack, *args: str) -> Ran:
    """Run a command on the running whole."""
    return command(line.directory, *args)


def letters(line: Stack, *, send: bool, count: int) -> list[Letter]:
    """The dead letters as soon as there are so many, after sending a task for a tenant that cannot be."""

    async def work() -> list[Letter]:
        async with Client.connect(line.directory, as_="operator") as operator:
            if send:
                await operator.bus.wire.ask("tasks.Not_A_Name.desk", b'{"text":"\x1b[31m"}')
            with anyio.fail_after(SOON_S):
                while len(found := await operator.dead_letters()) < count:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            return found

    return anyio.run(work)


def test_a_dead_letter_is_listed_shown_and_sent_again(line: Stack) -> None:
    """From an empty list to the message sent a second time, with what it held escaped."""
    none = cli(line, "dead", "ls")
    assert (none.code, none.out) == (0, "")
    assert cli(line, "dead", "ls", "--json").json == []
    letter = letters(line, send=True, count=1)[0]
    assert "does not have the form" in cli(line, "dead", "ls").out
    assert [each["seq"] for each in cli(line, "dead", "ls", "--json").json] == [letter.seq]
    shown = cli(line, "dead", "show", str(letter.seq))
    assert "subject  tasks.Not_A_Name.desk" in shown.out
    assert "\x1b" not in shown.out
    assert "\\x1b[31m" in shown.out
    assert cli(line, "dead", "show", str(letter.seq), "--json").json["payload"] == '{"text":"\x1b[31m"}'
    again = cli(line, "dead", "requeue", str(letter.seq), "--json")
    assert (again.code, again.json["requeued"]) == (0, True)
    assert len(letters(line, send=False, count=2)) == 2
    assert "was sent again" in cli(line, "dead", "requeue", str(letter.seq)).out


def test_a_letter_that_is_not_there_exits_1(line: Stack) -> None:
    """Nothing on stdout, and the way to find those that are."""
    ran = cli(line, "dead", "show", "4711")
    assert (ran.code, ran.out) == (1, "")
    assert "linestop dead ls" in ran.err
    assert cli(line, "dead", "requeue", "4711").code == 1
