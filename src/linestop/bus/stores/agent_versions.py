"""The store of agent versions: each is written once under its digest, and each name points to its current version.

Rolling an agent back or undeploying it leaves a mark, so that a process that starts with other files does not undo it.
The mark is written before the pointer moves, and a starting process reads it after the pointer. The pointer is moved
by its revision. So a process that starts in between finds the mark, or the pointer is moved again afterwards.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final, Literal

import msgspec

from linestop.bus.interfaces import Bucket
from linestop.errors import Conflict, Defect, InputError, LinestopError, NotFound
from linestop.schemas.agents import AgentVersion
from linestop.schemas.subjects import check_name

VERSIONS_MAX = 256
TRIES_MAX = 10

Mark = Literal["", "rolled back", "undeployed"]
"""A person's change to an agent that only a person reverts."""

_MARKS: Final[dict[bytes, Mark]] = {b"rolled back": "rolled back", b"undeployed": "undeployed"}


class AgentStore:
    """Reads and deploys agent versions. Versions are immutable, so the cache is never refreshed, only bounded."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._versions: OrderedDict[str, AgentVersion] = OrderedDict()

    async def version(self, digest: str) -> AgentVersion | None:
        """Return the version with that digest, None if it is not stored."""
        if digest in self._versions:
            return self._versions[digest]
        found = await self._bucket.get(f"version.{digest}")
        if found is None:
            return None
        if hashlib.sha256(found.value).hexdigest() != digest:
            raise Defect(f"The content of the stored agent version {digest} does not match its digest.")
        agent = msgspec.json.decode(found.value, type=AgentVersion)
        self._versions[digest] = agent
        if len(self._versions) > VERSIONS_MAX:
            self._versions.popitem(last=False)
        return agent

    async def current(self, name: str) -> AgentVersion | None:
        """Return the version that new runs of ``name`` get, None if the agent is not deployed."""
        digest = await self.current_digest(name)
        return await self.version(digest) if digest else None

    async def current_digest(self, name: str) -> str:
        """Return the digest of that version, empty if the agent is not deployed.

        Raises:
            InputError: ``name`` is not a valid agent name.
        """
        check_name("agent", name)
        found = await self._bucket.get(f"current.{name}")
        return found.value.decode() if found else ""

    async def names(self) -> list[str]:
        """Return the names of all deployed agents, sorted."""
        return sorted(key.removeprefix("current.") for key in await self._bucket.keys("current."))

    async def mark(self, name: str) -> Mark:
        """Return the mark of the agent, which only `linestop deploy` removes; empty if it has none."""
        found = await self._bucket.get(f"mark.{name}")
        return _MARKS.get(found.value, "rolled back") if found else ""

    async def deploy(self, agent: AgentVersion) -> str:
        """Store ``agent`` and let new runs use it; return its digest. Open runs keep their version.

        Raises:
            InputError: one of its limits is over the maximum.
        """
        digest = await self._store(agent)
        await self._set_current(agent.name, digest)
        if await self.mark(agent.name):
            await self._bucket.delete(f"mark.{agent.name}")
        return digest

    async def deploy_at_start(self, agent: AgentVersion) -> Mark:
        """Deploy the version in a starting process's files; if the agent has a mark, only return the mark."""
        digest = await self._store(agent)
        return await self._set_current(agent.name, digest, unless_marked=True)

    async def roll_back(self, version: AgentVersion) -> None:
        """Let new runs use this version until a person deploys another one."""
        digest = await self._store(version)
        await self._set_mark(version.name, "rolled back")
        await self._set_current(version.name, digest)

    async def undeploy(self, name: str) -> None:
        """Refuse new runs of the agent until a person deploys it. Open runs keep their version.

        Raises:
            NotFound: the agent is not deployed.
        """
        for _ in range(TRIES_MAX):
            current = await self._bucket.get(f"current.{check_name('agent', name)}")
            if current is None:
                raise NotFound(f"There is no agent {name!r} deployed; `linestop agents` lists them.")
            await self._set_mark(name, "undeployed")
            try:
                await self._bucket.delete(f"current.{name}", revision=current.revision)
            except Conflict:
                continue
            return
        raise _contended_error(name)

    async def _store(self, agent: AgentVersion) -> str:
        if reason := agent.excessive_limit():
            raise InputError(f"The agent '{agent.name}' is not deployed: {reason}.")
        digest = agent.digest()
        try:
            await self._bucket.create(f"version.{digest}", agent.stored_bytes())
        except Conflict:
            if await self.version(digest) is None:
                raise
        return digest

    async def _set_current(self, name: str, digest: str, *, unless_marked: bool = False) -> Mark:
        key = f"current.{name}"
        for _ in range(TRIES_MAX):
            current = await self._bucket.get(key)
            if current is not None and current.value.decode() == digest:
                return ""
            if unless_marked and (mark := await self.mark(name)):
                return mark
            try:
                if current is None:
                    await self._bucket.create(key, digest.encode())
                else:
                    await self._bucket.update(key, digest.encode(), revision=current.revision)
            except Conflict:
                continue
            return ""
        raise _contended_error(name)

    async def _set_mark(self, name: str, mark: Mark) -> None:
        for _ in range(TRIES_MAX):
            current = await self._bucket.get(f"mark.{name}")
            try:
                if current is None:
                    await self._bucket.create(f"mark.{name}", mark.encode())
                else:
                    await self._bucket.update(f"mark.{name}", mark.encode(), revision=current.revision)
            except Conflict:
                continue
            return
        raise _contended_error(name)


def _contended_error(name: str) -> LinestopError:
    return LinestopError(f"The agent '{name}' is being deployed by another process; try again.")
