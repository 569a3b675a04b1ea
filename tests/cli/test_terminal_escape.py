"""Terminals of every kind: their encoding, and whether they want colours."""

from __future__ import annotations

import io
import json
import sys

import pytest

from linestop.cli.main import run
from linestop.cli.output import printing
from linestop.cli.output.terminal_escape import accept_any_text, writes_unicode


def terminal(encoding: str) -> tuple[io.TextIOWrapper, io.BytesIO]:
    """A stream of that encoding, and the bytes that reach it."""
    raw = io.BytesIO()
    return io.TextIOWrapper(raw, encoding=encoding, write_through=True), raw


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "cp437"])
def test_a_terminal_without_unicode_gets_ascii_spellings(encoding: str) -> None:
    """Our own signs are spelled out, all others are escaped, and nothing fails."""
    stream, raw = terminal(encoding)
    accept_any_text(stream)
    stream.write("✓ waits… 漢 \N{PILE OF POO}")
    shown = raw.getvalue().decode(encoding)
    assert shown.endswith("\\u6f22 \\U0001f4a9")
    assert "waits..." in shown
    assert not writes_unicode(stream)


def test_json_stays_json_on_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program behind a pipe reads the same value in any locale."""
    stream, raw = terminal("iso-8859-1")
    monkeypatch.setattr(sys, "stdout", stream)
    value = {"text": "é 漢 \N{PILE OF POO} \u202e"}
    printing.print_json(value)
    assert json.loads(raw.getvalue().decode("ascii")) == value


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_switched_off(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even at a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    run(["doctor"])
    assert "\x1b[" in shown.getvalue()
    shown.truncate(0)
    monkeypatch.setenv(name, value)
    run(["doctor"])
    assert "\x1b[" not in shown.getvalue()
