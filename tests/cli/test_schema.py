"""``linestop schema``."""

from __future__ import annotations

import msgspec
import pytest

from linestop.cli.main import run


@pytest.mark.parametrize(
    ("what", "key"), [("events", "events"), ("asyncapi", "channels"), ("tasks", "$defs"), ("control", "$defs")]
)
def test_every_document_is_printed(what: str, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Each document is JSON on stdout, on one line with --json, and the same both ways."""
    assert run(["schema", what]) == 0
    pretty = capfd.readouterr().out
    assert run(["schema", what, "--json"]) == 0
    line = capfd.readouterr().out
    assert msgspec.json.decode(pretty) == msgspec.json.decode(line)
    assert key in msgspec.json.decode(line)
    assert line.count("\n") == 1


def test_another_document_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    """A name that is none is refused with the names there are."""
    assert run(["schema", "everything"]) == 2
    assert "asyncapi" in capfd.readouterr().err
