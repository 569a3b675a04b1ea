"""``stop`` for many runs at once, and ``switch``, against a running system."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.stack import Stack, cli, shown_option

from linestop.schemas.kill_switches import switch_name

pytestmark = pytest.mark.broker


@pytest.fixture(autouse=True)
def _clean(system: Stack) -> Generator[None]:
    """End every open run and open every kill switch after each test."""
    yield
    for name in cli(system, "switch", "list", "--json").json["closed"]:
        assert cli(system, "switch", "open", name).code == 0
    assert cli(system, "stop", "--all").code == 0


def waiting(system: Stack, *args: str) -> str:
    """A run that waits for an approval."""
    ran = cli(system, "run", "desk", "pay 5", "--json", *args)
    assert ran.code == 6
    run: str = ran.json["questions"][0]["run"]
    return run


def stopped(system: Stack, *args: str) -> set[str]:
    """The runs in the result of a stop of many runs."""
    ran = cli(system, "stop", "--json", *args)
    assert ran.code == 0, ran.err
    return set(ran.json["stopped"])


def test_a_stop_of_a_scope_stops_the_runs_that_it_names_and_no_others(system: Stack) -> None:
    """By user, by tool, by agent, by tenant, and all."""
    ann, bob, other = (
        waiting(system, "--user", "ann"),
        waiting(system, "--user", "bob"),
        waiting(system, "--tenant", "other"),
    )
    assert stopped(system, "--user", "ann") == {ann}
    assert stopped(system, "--agent", "nobody") == set()
    assert stopped(system, "--tool", "no.such") == set()
    assert stopped(system, "--tool", "pay", "--tenant", "default") == {bob}
    assert stopped(system, "--tenant", "other") == {other}
    again, more = waiting(system), waiting(system, "--tenant", "other")
    assert stopped(system, "--all") == {again, more}
    ran = cli(system, "show", bob, "--json")
    assert (ran.json["status"], ran.json["stopped"]["why"]) == ("stopped", "stopped by hand")


def test_an_unknown_name_is_reported_and_still_stopped(system: Stack) -> None:
    """A misspelt name would stop nothing in silence; one that is still to come may be closed beforehand."""
    waiting(system, "--tenant", "acme")
    for kind, wrong, near in (("agent", "dsek", "desk"), ("tool", "payy", "pay"), ("tenant", "acne", "acme")):
        closed = cli(system, "switch", "close", f"{kind}:{wrong}", "--json")
        assert f"{kind}:{wrong}" in closed.json["closed"]
        stopped_none = cli(system, "stop", f"--{kind}", wrong, "--json")
        for ran in (closed, stopped_none):
            assert (ran.code, f"'{wrong}'" in ran.err, f"The nearest name is '{near}'." in ran.err) == (0, True, True)
        assert "nearest" not in cli(system, "switch", "close", f"{kind}:{near}", "--json").err
    assert "nearest" not in cli(system, "stop", "--agent", "desk", "--json").err
    assert cli(system, "switch", "close", "user:nobody", "--json").err == ""


def test_a_stop_without_a_target_is_refused(system: Stack) -> None:
    """A missing argument must not stop everything."""
    assert cli(system, "stop").code == 2
    assert "--all" in cli(system, "stop").err
    assert cli(system, "stop", "r1", "--all").code == 2
    assert cli(system, "stop", "--all", "--agent", "desk").code == 2


@pytest.mark.parametrize("switch", ["all", "tenant:default", "agent:desk", "user:ann"])
def test_a_closed_switch_keeps_runs_out_and_is_shown(system: Stack, switch: str) -> None:
    """A task is refused with the switch's name; ``runs`` and ``switch list`` name the closed switches."""
    assert cli(system, "switch", "close", switch).code == 0
    system.read_facts()
    ran = cli(system, "run", "desk", "say hello", "--user", "ann")
    assert ran.code == 3
    assert f"The kill switch '{switch}' was closed by an operator" in ran.err
    assert switch in cli(system, "runs").err
    assert (
        cli(system, "switch", "list").out == f"Closed: {switch}. Nothing that a closed kill switch names can start.\n"
    )
    assert cli(system, "switch", "open", switch).out == "No kill switch is closed.\n"
    system.read_facts()
    assert cli(system, "run", "desk", "say hello", "--user", "ann").code == 0


def test_a_closed_switch_stops_an_open_run_before_its_next_start(system: Stack) -> None:
    """A call that is approved in the meantime does not start."""
    run = waiting(system)
    assert cli(system, "switch", "close", "tool:pay").code == 0
    system.read_facts()
    before = len(system.effects.paid)
    assert cli(system, "approve", run, *shown_option(system.directory, run)).code == 0
    assert cli(system, "watch", run).code == 4
    assert len(system.effects.paid) == before


def test_an_unknown_or_open_switch_cannot_be_opened(system: Stack) -> None:
    """The sentence names the existing ones."""
    assert "use all, tenant:NAME" in cli(system, "switch", "close", "agents:desk").err
    assert "is not closed; closed: none is" in cli(system, "switch", "open", "agent:desk").err


def test_names_of_switches_are_checked(tmp_path: Path) -> None:
    """A misspelt one would close nothing."""
    del tmp_path
    for text in ("all", "tool:refunds.create", "user:Ann Lee"):
        assert switch_name(text) == text
