"""The store of agent versions: written once under their digest, with a pointer to the present one a name.

A person who rolls an agent back or undeploys it leaves a mark, so that a process that starts with other files does not
undo it. The mark is written before the pointer moves and read after the pointer was, and the pointer is moved by its
revision: whoever starts in between finds the mark, or has the pointer moved again after it.
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
"""What a person did to an agent that only a person undoes."""

_MARKS: Final[dict[bytes, Mark]] = {b"rolled back": "rolled back", b"undeployed": "undeployed"}


class AgentStore:
    """Reads and deploys agent versions. Versions are immutable, so they are cached for ever (bounded)."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._versions: OrderedDict[str, AgentVersion] = OrderedDict()

    async def version(self, digest: str) -> AgentVersion | None:
        """The version with that digest, or None if the store does not have it."""
        if digest in self._versions:
            return self._versions[digest]
        found = await self._bucket.get(f"version.{digest}")
        if found is None:
            return None
        if hashlib.sha256(found.value).hexdigest() != digest:
            raise Defect(f"The stored agent version {digest} has another content than its digest says.")
        agent = msgspec.json.decode(found.value, type=AgentVersion)
        self._versions[digest] = agent
        if len(self._versions) > VERSIONS_MAX:
            self._versions.popitem(last=False)
        return agent

    async def current(self, name: str) -> AgentVersion | None:
        """The version that new runs of ``name`` get, or None if there is no such agent."""
        digest = await self.current_digest(name)
        return await self.version(digest) if digest else None

    async def current_digest(self, name: str) -> str:
        """The digest of that version, empty if there is no such agent.

        Raises:
            InputError: that is no name of an agent.
        """
        check_name("agent", name)
        found = await self._bucket.get(f"current.{name}")
        return found.value.decode() if found else ""

    async def names(self) -> list[str]:
        """All deployed agents, sorted."""
        return sorted(key.removeprefix("current.") for key in await self._bucket.keys("current."))

    async def mark(self, name: str) -> Mark:
        """What a person did to the agent last, if only `linestop deploy` undoes it."""
        found = await self._bucket.get(f"mark.{name}")
        return _MARKS.get(found.value, "rolled back") if found else ""

    async def deploy(self, agent: AgentVersion) -> str:
        """Store ``agent`` and let new runs use it; return its digest. Runs under way keep theirs.

        Raises:
            InputError: one of its limits is beyond what any may be.
        """
        digest = await self._store(agent)
        await self._set_current(agent.name, digest)
        if await self.mark(agent.name):
            await self._bucket.delete(f"mark.{agent.name}")
        return digest

    async def deploy_at_start(self, agent: AgentVersion) -> Mark:
        """Deploy what a process finds in its files, unless a person decided otherwise: then return what they did."""
        digest = await self._store(agent)
        return await self._set_current(agent.name, digest, unless_marked=True)

    async def roll_back(self, version: AgentVersion) -> None:
        """Let new runs use this version of its agent until a person deploys another."""
        digest = await self._store(version)
        await self._set_mark(version.name, "rolled back")
        await self._set_current(version.name, digest)

    async def undeploy(self, name: str) -> None:
        """Let the agent have no new runs until a person deploys it. Runs under way keep their version.

        Raises:
            NotFound: it is not deployed.
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
    return LinestopError(f"The agent '{name}' is being deployed by somebody else; try again.")
