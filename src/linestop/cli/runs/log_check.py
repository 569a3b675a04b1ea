"""What a check of a run's log needs, from the broker or a file, and its verdict in words: ``verify`` and ``export``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from linestop.bus.jetstream.reads import Reader
from linestop.bus.run_outcomes_and_alerts import Outcome
from linestop.bus.stores.signed_checkpoints import trusted_checkpoint_key
from linestop.bus.streams import stream_names
from linestop.cli.output import printing
from linestop.cli.run_argument import SHORT_RUN
from linestop.client import Client
from linestop.client.run_names import named_runs
from linestop.client.run_reader import LAST_RUN
from linestop.config.project_file import load_project
from linestop.errors import InputError, NotFound, TooLarge
from linestop.schemas.defaults import BLOB_BYTES_MAX
from linestop.schemas.events import Answered, AnyEvent, BlobRef, Edited, Judged, Proposed, Resolved, Text
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import RunId, TenantId, parse_run_event, run_outcome_filter
from linestop.schemas.verify.checkpoint_signature import Checkpoint, TrustedKey
from linestop.schemas.verify.export_bundle import Bundle
from linestop.schemas.verify.verdict import Verdict

KEY_DIGITS: Final = 64
LINE_BYTES_MAX: Final = 2 * BLOB_BYTES_MAX
"""Of an exported log: the longest text in base64, and room for the JSON around it."""

TEXTS_MAX: Final = 256
"""Blobs fetched for one check; texts beyond it are not recomputed, but the chain still covers them."""


def run_in_file(name: RunId, tenant: TenantId, bundle: Bundle) -> RunId:
    """The run of an exported log that ``last`` or the beginning of its id names, as with a broker; else ``name``."""
    keys = named_runs([subject for subject, _, _ in bundle.messages if _is_run_event(subject)])
    runs = [run for of, run in keys if of == tenant]
    if len(runs) == 1 and SHORT_RUN.fullmatch(name) and (name == LAST_RUN or runs[0].startswith(name)):
        return runs[0]
    return name


def _is_run_event(subject: str) -> bool:
    try:
        parse_run_event(subject)
    except InputError:
        return False
    return True


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none of them longer than the longest text that a log may refer to.

    Raises:
        TooLarge: a line is longer, so the file is not a log.
    """
    while line := file.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise TooLarge(f"A line has over {LINE_BYTES_MAX} bytes, more than any line of an exported log.")
        yield line


def trusted_keys(keys: Sequence[str], directory: Path) -> dict[str, TrustedKey]:
    """The keys of the project's people, the recorder's in the state folder, and those of the command line."""
    people = load_project().config.people.items()
    trusted = {name: TrustedKey(public_key=key, purpose="person", name=name) for name, key in people}
    trusted |= trusted_checkpoint_key(directory.parent if directory.is_file() else directory / "credentials")
    for text in keys:
        key_id, _, public_key = text.partition("=")
        if not key_id or len(public_key) != KEY_DIGITS or not all(char in "0123456789abcdef" for char in public_key):
            raise InputError(f"--key {text!r} is not ID=HEX: an Ed25519 public key has {KEY_DIGITS} digits 0-9, a-f.")
        trusted[key_id] = TrustedKey(public_key=public_key, purpose="checkpoint")
    return trusted


async def fetch_bundle(client: Client, tenant: TenantId, run: RunId) -> Bundle:
    """The log as the stream's leader stores it, and the texts that its arguments refer to.

    Raises:
        NotFound: the run has no event.
    """
    stored = await client.load(tenant, run, leader=True)
    if not stored:
        raise NotFound(f"There is no run '{run}' of tenant '{tenant}'; `linestop runs` lists them.")
    messages = [(message.subject, message.payload, message.seq) for message in stored]
    outcomes = await Reader(client.bus.wire, stream_names.OUTCOMES).last_of_each(run_outcome_filter(tenant, run))
    checkpoints = [found for outcome in outcomes or () if (found := _checkpoint(outcome.payload)) is not None]
    state = fold_messages(tenant, run, messages)
    if state.sealed is not None and not checkpoints:
        printing.note("No checkpoint of this run is stored: cannot rule out that the whole log was rewritten.")
    digests = [ref.sha256 for entry in state.entries if entry.event for ref in _blob_refs(entry.event)]
    texts: dict[str, bytes] = await _agent_version(client, state)
    for sha256 in digests[:TEXTS_MAX]:
        try:
            texts[sha256] = await client.bus.blobs().get(tenant, sha256)
        except NotFound:
            printing.note(f"The text {sha256} is not stored any more, so its content is not checked.")
    return Bundle(messages=tuple(messages), checkpoints=tuple(checkpoints), texts=texts)


async def _agent_version(client: Client, state: Run) -> dict[str, bytes]:
    """The deployed version of the agent that the run was opened with, which is compared with the log."""
    if state.opened is None:
        return {}
    digest = state.opened.agent.digest
    found = await client.bus.bucket(stream_names.AGENTS_BUCKET).get(f"version.{digest}")
    if found is None:
        printing.note(f"The agent's version {digest} is not stored, so the agent of the run is not checked.")
    return {digest: found.value} if found is not None else {}


def _checkpoint(outcome: bytes) -> Checkpoint | None:
    """The checkpoint in a stored outcome, if there is one; only its signature proves it."""
    try:
        return msgspec.json.decode(outcome, type=Outcome).checkpoint
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _blob_refs(event: AnyEvent) -> list[BlobRef]:
    """The texts of this event that are stored as blobs and checked: arguments, and texts that people signed."""
    match event:
        case Proposed() | Judged():
            texts: list[Text] = [call.args for call in event.calls]
        case Edited():
            texts = [event.args]
        case Answered():
            texts = [event.answer]
        case Resolved():
            texts = [event.result]
        case _:
            texts = []
    return [text for text in texts if isinstance(text, BlobRef)]


def print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """Print the verdict: a sentence, and a line for each problem."""
    if as_json:
        document: Mapping[str, object] = {"verdict": verdict.sentence, **msgspec.to_builtins(verdict)}
        printing.print_json(document)
        return
    end = "" if verdict.broken or verdict.sealed else f"; it ends at event {verdict.events} and is not sealed"
    head = verdict.head_sha256 or "none"
    printing.print_text(f"{verdict.run}: {verdict.sentence}; {verdict.events} events, head {head}{end}")
    for problem in verdict.problems:
        printing.print_text(f"  {problem.n:>5}  {problem.level:<8} {problem.rule:<10} {problem.sentence}")
