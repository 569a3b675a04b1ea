"""Changing a default in ``schemas/defaults.py`` or ``schemas/broker_defaults.py`` changes what linestop does."""

from __future__ import annotations

import json

import pytest
from tests.changed_default import changed_default, default_names
from tests.schemas.default_cases import archive, broker, limits, processes, tools

CASES = {**limits.CASES, **processes.CASES, **tools.CASES, **broker.CASES, **archive.CASES}


def test_every_default_has_a_case_and_every_case_a_default() -> None:
    """So a new default cannot be forgotten, and one that does nothing cannot be added."""
    assert sorted(CASES) == sorted(default_names())


@pytest.mark.parametrize("name", sorted(CASES))
def test_another_default_is_another_behaviour(name: str) -> None:
    """Twice the same with the default as it is, and something else with another one."""
    value, see = CASES[name]
    before = json.dumps(see())
    assert json.dumps(see()) == before, "the case depends on more than the default"
    with changed_default(name, value):
        assert json.dumps(see()) != before
