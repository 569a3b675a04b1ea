"""The key that signs checkpoints, and the logs that it proves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
from tests.builders import NOW, RUN, TENANT, at_work, reply

from linestop.bus.run_outcomes_and_alerts import Outcome, encode_outcome
from linestop.bus.stores.signed_checkpoints import (
    KEY_FILE,
    PUBLIC_FILE,
    copy_checkpoint_key,
    ensure_checkpoint_key,
    load_checkpoint_signer,
    trusted_checkpoint_key,
)
from linestop.cli.main import run as command
from linestop.errors import ConfigError
from linestop.schemas.verify.check_log import verify
from linestop.schemas.verify.checkpoint_signature import Checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of credentials with a key."""
    ensure_checkpoint_key(tmp_path)
    return tmp_path


def signed(folder: Path) -> Checkpoint:
    """The checkpoint of a run that ended."""
    signer = load_checkpoint_signer(folder, lambda: NOW)
    assert signer is not None
    return signer.checkpoint(at_work().run)


def test_the_recorders_checkpoint_makes_a_log_authentic_to_its_end(folder: Path) -> None:
    """The signature in the outcome is checked with the public key alone."""
    story = at_work()
    signer = load_checkpoint_signer(folder, lambda: NOW)
    assert signer is not None
    assert story.run.sealed is not None
    stored = msgspec.json.decode(
        encode_outcome(story.run, story.run.sealed, signer.checkpoint(story.run)), type=Outcome
    )
    assert stored.checkpoint is not None
    keys = trusted_checkpoint_key(folder)
    verdict = verify(TENANT, RUN, story.messages, checkpoints=[stored.checkpoint], keys=keys)
    assert verdict.sentence == f"authentic up to {story.run.n}"


def test_a_log_that_was_rewritten_after_its_outcome_is_broken(folder: Path) -> None:
    """An attacker who can rewrite the stream cannot rewrite the recorder's signature."""
    checkpoint, keys = signed(folder), trusted_checkpoint_key(folder)
    other = at_work()
    rewritten = type(other)().open_run().run_until_idle().finish_model(reply(text="something else"))
    verdict = verify(TENANT, RUN, rewritten.messages, checkpoints=[checkpoint], keys=keys)
    assert verdict.broken
    assert any("vouches for another event" in problem.sentence for problem in verdict.problems)


def test_the_key_is_created_once_for_its_owner_alone(folder: Path) -> None:
    """Another start finds it, and writes the public key again if that is missing or different."""
    key, public = (folder / KEY_FILE).read_text(), (folder / PUBLIC_FILE).read_text()
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    (folder / PUBLIC_FILE).write_text("00")
    ensure_checkpoint_key(folder)
    assert ((folder / KEY_FILE).read_text(), (folder / PUBLIC_FILE).read_text()) == (key, public)


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    """The message holds the command that repairs it."""
    (folder / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_checkpoint_signer(folder, lambda: NOW)


@pytest.mark.parametrize("text", ["", "no key", "ab" * 31, "\u00e9" * 64])
def test_a_damaged_key_is_reported(folder: Path, text: str) -> None:
    """A recorder that silently signed nothing, or a check without a trusted key, would look correct."""
    for name in (KEY_FILE, PUBLIC_FILE):
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=KEY_FILE):
        load_checkpoint_signer(folder, lambda: NOW)
    with pytest.raises(ConfigError, match=PUBLIC_FILE):
        trusted_checkpoint_key(folder)


@pytest.mark.parametrize("name", [KEY_FILE, PUBLIC_FILE])
def test_a_key_path_that_is_not_a_regular_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """A pipe would block until a process writes into it."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=name):
        _ = load_checkpoint_signer(tmp_path, lambda: NOW), trusted_checkpoint_key(tmp_path)


def test_without_a_key_nothing_is_signed_and_no_key_is_trusted(tmp_path: Path) -> None:
    """A recorder set up before there were keys continues; its log is consistent, not authentic."""
    assert load_checkpoint_signer(tmp_path, lambda: NOW) is None
    assert trusted_checkpoint_key(tmp_path) == {}


def test_a_process_that_only_verifies_gets_the_public_half_only(folder: Path, tmp_path: Path) -> None:
    """The recorder's process gets both."""
    for name, signs, files in (("people", False, {PUBLIC_FILE}), ("recorder", True, {KEY_FILE, PUBLIC_FILE})):
        target = tmp_path / name
        target.mkdir()
        copy_checkpoint_key(folder, target, signs=signs)
        assert {path.name for path in target.iterdir()} == files
        assert trusted_checkpoint_key(target) == trusted_checkpoint_key(folder)


def test_set_up_gives_each_process_its_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``bus init --copy`` gives the recorder both keys and people the public one; other roles get neither."""
    monkeypatch.chdir(tmp_path)
    copies = [text for name in ("recorder", "client", "planner") for text in ("--copy", name, str(tmp_path / name))]
    assert command(["bus", "init", "--config-file", str(tmp_path / "nats.conf"), *copies]) == 0
    found = {name: {path.name for path in (tmp_path / name).iterdir()} for name in ("recorder", "client", "planner")}
    assert found == {
        "recorder": {"recorder.json", KEY_FILE, PUBLIC_FILE},
        "client": {"client.json", PUBLIC_FILE},
        "planner": {"planner.json"},
    }
