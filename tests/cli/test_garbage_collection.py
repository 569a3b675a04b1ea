"""Garbage collections while a process serves."""

from __future__ import annotations

import gc

from linestop.cli.serving.garbage_collection import YOUNG_OBJECTS_MAX, rare_collections


def test_collections_are_rare_while_a_process_serves_and_as_before_afterwards() -> None:
    """What existed before is walked by none of them; a cycle that is made meanwhile is still freed."""
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    older: list[object] = [[]]
    with rare_collections():
        assert gc.get_threshold()[0] == YOUNG_OBJECTS_MAX > thresholds[0]
        assert gc.get_freeze_count() > 10_000
        assert not any(each is older for each in gc.get_objects())
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == frozen
    assert any(each is older for each in gc.get_objects())
