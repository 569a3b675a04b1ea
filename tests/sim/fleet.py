"""Runs many seeds in child processes, in batches: a simulated kill leaves coroutines that must never continue."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from tests.sim.simulate import Verdict, simulate

BATCH = 8
BATCH_MAX_S = 120.0
"""A batch that takes longer hangs; its process is killed and its next seed is reported as red."""


@dataclass(slots=True)
class _Child:
    pid: int
    pipe: int
    seeds: list[int]
    data: bytes = b""
    done: list[int] = field(default_factory=list[int])


def run_seeds(seeds: list[int], processes: int) -> Iterator[Verdict]:
    """Yield the verdict of each seed as it ends; closing the iterator ends the children."""
    batches = [seeds[i : i + BATCH] for i in range(0, len(seeds), BATCH)]
    children: dict[int, _Child] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while batches or children:
                while batches and len(children) < processes:
                    child = _fork(batches.pop(0))
                    children[child.pipe] = child
                    selector.register(child.pipe, selectors.EVENT_READ)
                ready = selector.select(BATCH_MAX_S)
                if not ready:
                    for child in children.values():
                        os.kill(child.pid, signal.SIGKILL)
                for key, _ in ready:
                    child = children[key.fd]
                    chunk = os.read(child.pipe, 1 << 16)
                    yield from _read(child, chunk)
                    if not chunk:
                        selector.unregister(child.pipe)
                        del children[child.pipe]
                        yield from _reap(child)
        finally:
            for child in children.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                os.close(child.pipe)


def _fork(seeds: list[int]) -> _Child:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(pid, reading, seeds)
    os.close(reading)
    for seed in seeds:
        try:
            verdict, _, _ = simulate(seed)
        except BaseException:  # noqa: BLE001 - after any error the seed is red
            verdict = Verdict(seed=seed, problems=[traceback.format_exc()[-3_000:]])
        os.write(writing, msgspec.json.encode(verdict) + b"\n")
    os._exit(0)


def _read(child: _Child, chunk: bytes) -> Iterator[Verdict]:
    *lines, child.data = (child.data + chunk).split(b"\n")
    for line in lines:
        verdict = msgspec.json.decode(line, type=Verdict)
        child.done.append(verdict.seed)
        yield verdict


def _reap(child: _Child) -> Iterator[Verdict]:
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    missing = [seed for seed in child.seeds if seed not in child.done]
    if missing:
        yield Verdict(seed=missing[0], problems=[f"its process ended with status {status} before it had a verdict"])
