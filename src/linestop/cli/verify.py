"""``verify``: check a run's log, from the broker or from an exported file, without trusting either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from linestop.cli import output
from linestop.client import Client
from linestop.errors import InputError, NotFound
from linestop.project import load_project
from linestop.schemas.events import AnyEvent, BlobRef, Edited, Judged, Proposed
from linestop.schemas.run import fold_messages
from linestop.schemas.subjects import RunId, TenantId, run_id, tenant_id
from linestop.schemas.verify import TrustedKey, Verdict
from linestop.schemas.verify import verify as check
from linestop.schemas.verify.bundle import Bundle, read_bundle

EXIT_BROKEN: Final = 9
KEY_DIGITS: Final = 64
TEXTS_MAX: Final = 256
"""Blobs fetched for one check; what is left out is not recomputed, which the chain covers all the same."""


@click.command("verify")
@click.argument("run")
@click.option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An exported log, offline.")
@click.option("--key", "keys", multiple=True, metavar="ID=HEX", help="Trust this key for checkpoints; repeatable.")
@output.common
def verify(run: str, *, file: Path | None, keys: Sequence[str], **options: Any) -> None:  # noqa: ANN401 - as click gives
    """Check that the log of RUN is whole and keeps the rules; exit code 9 if it is broken.

    The people whose signatures count are those of the project (`people` in linestop.toml). With --file
    no broker is asked.
    """
    tenant, name, trusted = tenant_id(options["tenant"]), run_id(run), _trusted(keys)
    if file is not None:
        with file.open("rb") as lines:
            bundle = read_bundle(lines)
    else:
        bundle = output.with_client(options["directory"], lambda client: _fetch(client, tenant, name))
    verdict = check(tenant, name, bundle.messages, checkpoints=bundle.checkpoints, keys=trusted, texts=bundle.texts)
    _print(verdict, as_json=options["as_json"])
    output.finish(EXIT_BROKEN if verdict.broken else output.EXIT_DONE)


def _trusted(keys: Sequence[str]) -> dict[str, TrustedKey]:
    """The keys of the project's people, and those named on the command line for checkpoints."""
    people = load_project().config.people.items()
    found = {name: TrustedKey(public_key=key, purpose="person", name=name) for name, key in people}
    for text in keys:
        key_id, _, public_key = text.partition("=")
        if not key_id or len(public_key) != KEY_DIGITS or not all(char in "0123456789abcdef" for char in public_key):
            raise InputError(f"--key {text!r} is not ID=HEX: an Ed25519 public key has {KEY_DIGITS} digits 0-9, a-f.")
        found[key_id] = TrustedKey(public_key=public_key, purpose="checkpoint")
    return found


async def _fetch(client: Client, tenant: TenantId, run: RunId) -> Bundle:
    """The log as the stream's leader has it, and the texts that its arguments refer to.

    Raises:
        NotFound: the run has no event.
    """
    stored = await client.stream.log().load(tenant, run, leader=True)
    if not stored:
        raise NotFound(f"There is no run '{run}' of tenant '{tenant}'; `linestop runs` lists them.")
    messages = [(message.subject, message.payload, message.seq) for message in stored]
    state = fold_messages(tenant, run, messages)
    wanted = [ref.sha256 for entry in state.entries if entry.event for ref in _arguments(entry.event)]
    texts: dict[str, bytes] = {}
    for sha256 in wanted[:TEXTS_MAX]:
        try:
            texts[sha256] = await client.stream.blobs().get(tenant, sha256)
        except NotFound:
            output.note(f"The text {sha256} is not stored any more, so the arguments in it are not checked.")
    return Bundle(messages=tuple(messages), texts=texts)


def _arguments(event: AnyEvent) -> list[BlobRef]:
    """The arguments of calls in this event that are stored elsewhere."""
    match event:
        case Proposed() | Judged():
            return [call.args for call in event.calls if isinstance(call.args, BlobRef)]
        case Edited():
            return [event.args] if isinstance(event.args, BlobRef) else []
        case _:
            return []


def _print(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        document: Mapping[str, object] = {"verdict": verdict.sentence, **msgspec.to_builtins(verdict)}
        output.say_json(document)
        return
    output.say(f"{verdict.run}: {verdict.sentence}; {verdict.events} events, head {verdict.head_sha256 or 'none'}")
    for problem in verdict.problems:
        output.say(f"  {problem.n:>5}  {problem.level:<8} {problem.rule:<10} {problem.sentence}")
