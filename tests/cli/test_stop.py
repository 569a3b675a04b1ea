"""``stop`` for many runs at once, and ``switch``, against the whole of linestop."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.stack import Ran, Stack, background_stack, command, seen

from linestop.schemas.kill_switches import switch_name

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Everything, running in another thread."""
    with background_stack(tmp_path_factory.mktemp("line")) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(line: Stack) -> Generator[None]:
    """No open run and no closed kill switch is left behind."""
    yield
    for name in cli(line, "switch", "list", "--json").json["closed"]:
        assert cli(line, "switch", "open", name).code == 0
    assert cli(line, "stop", "--all").code == 0


def cli(line: Stack, *args: str) -> Ran:
    """Run a command on the running whole."""
    return command(line.directory, *args)


def waiting(line: Stack, *args: str) -> str:
    """A run that waits for an approval."""
    ran = cli(line, "run", "desk", "pay 5", "--json", *args)
    assert ran.code == 6
    run: str = ran.json["questions"][0]["run"]
    return run


def stopped(line: Stack, *args: str) -> set[str]:
    """The runs that a stop of many says it stopped."""
    ran = cli(line, "stop", "--json", *args)
    assert ran.code == 0, ran.err
    return set(ran.json["stopped"])


def test_a_stop_of_a_scope_stops_the_runs_that_it_names_and_no_others(line: Stack) -> None:
    """By user, by tool, by agent, by tenant, and all."""
    ann, bob, other = waiting(line, "--user", "ann"), waiting(line, "--user", "bob"), waiting(line, "--tenant", "other")
    assert stopped(line, "--user", "ann") == {ann}
    assert stopped(line, "--agent", "nobody") == set()
    assert stopped(line, "--tool", "no.such") == set()
    assert stopped(line, "--tool", "pay", "--tenant", "default") == {bob}
    assert stopped(line, "--tenant", "other") == {other}
    again, more = waiting(line), waiting(line, "--tenant", "other")
    assert stopped(line, "--all") == {again, more}
    ran = cli(line, "show", bob, "--json")
    assert (ran.json["status"], ran.json["stopped"]["why"]) == ("stopped", "stopped by hand")


def test_a_name_that_nothing_has_is_told_of_and_taken_all_the_same(line: Stack) -> None:
    """A misspelt name would stop nothing in silence; one that is still to come may be closed beforehand."""
    waiting(line, "--tenant", "acme")
    for kind, wrong, near in (("agent", "dsek", "desk"), ("tool", "payy", "pay"), ("tenant", "acne", "acme")):
        closed = cli(line, "switch", "close", f"{kind}:{wrong}", "--json")
        assert f"{kind}:{wrong}" in closed.json["closed"]
        stopped_none = cli(line, "stop", f"--{kind}", wrong, "--json")
        for ran in (closed, stopped_none):
            assert (ran.code, f"'{wrong}'" in ran.err, f"The nearest name is '{near}'." in ran.err) == (0, True, True)
        assert "nearest" not in cli(line, "switch", "close", f"{kind}:{near}", "--json").err
    assert "nearest" not in cli(line, "stop", "--agent", "desk", "--json").err
    assert cli(line, "switch", "close", "user:nobody", "--json").err == ""


def test_a_stop_of_nothing_in_particular_is_refused(line: Stack) -> None:
    """Nobody stops everything by leaving a word out."""
    assert cli(line, "stop").code == 2
    assert "--all" in cli(line, "stop").err
    assert cli(line, "stop", "r1", "--all").code == 2
    assert cli(line, "stop", "--all", "--agent", "desk").code == 2


@pytest.mark.parametrize("switch", ["all", "tenant:default", "agent:desk", "user:ann"])
def test_a_closed_switch_keeps_runs_out_and_is_shown(line: Stack, switch: str) -> None:
    """A task is refused with the switch's name; ``runs`` and ``switch list`` say what is closed."""
    assert cli(line, "switch", "close", switch).code == 0
    line.read_facts()
    ran = cli(line, "run", "desk", "say hello", "--user", "ann")
    assert ran.code == 3
    assert f"The kill switch '{switch}' was closed by an operator" in ran.err
    assert switch in cli(line, "runs").err
    assert cli(line, "switch", "list").out == f"Closed: {switch}. What a closed kill switch names starts nothing.\n"
    assert cli(line, "switch", "open", switch).out == "No kill switch is closed.\n"
    line.read_facts()
    assert cli(line, "run", "desk", "say hello", "--user", "ann").code == 0


def test_a_closed_switch_stops_an_open_run_before_its_next_start(line: Stack) -> None:
    """What was approved meanwhile does not begin."""
    run = waiting(line)
    assert cli(line, "switch", "close", "tool:pay").code == 0
    line.read_facts()
    before = len(line.effects.paid)
    assert cli(line, "approve", run, *seen(line.directory, run)).code == 0
    assert cli(line, "watch", run).code == 4
    assert len(line.effects.paid) == before


def test_a_switch_that_is_none_or_is_not_closed_is_refused(line: Stack) -> None:
    """With what there is."""
    assert "use all, tenant:NAME" in cli(line, "switch", "close", "agents:desk").err
    assert "is not closed; closed: none is" in cli(line, "switch", "open", "agent:desk").err


def test_names_of_switches_are_checked(tmp_path: Path) -> None:
    """A misspelt one would close nothing."""
    del tmp_path
    for text in ("all", "tool:refunds.create", "user:Ann Lee"):
        assert switch_name(text) == text
