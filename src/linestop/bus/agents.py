"""The store of agent versions: written once under their digest, with a pointer to the present one a name."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import msgspec

from linestop.bus.ports import Shared
from linestop.errors import Conflict, Defect, InputError, LinestopError
from linestop.schemas.agents import AgentVersion
from linestop.schemas.subjects import check_name

VERSIONS_MAX = 256
TRIES_MAX = 10


class AgentStore:
    """Reads and deploys agent versions. Versions are immutable, so they are cached for ever (bounded)."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._versions: OrderedDict[str, AgentVersion] = OrderedDict()

    async def version(self, digest: str) -> AgentVersion | None:
        """The version with that digest, or None if the store does not have it."""
        if digest in self._versions:
            return self._versions[digest]
        found = await self._shared.get(f"version.{digest}")
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
        found = await self._shared.get(f"current.{name}")
        return found.value.decode() if found else ""

    async def names(self) -> list[str]:
        """All deployed agents, sorted."""
        return sorted(key.removeprefix("current.") for key in await self._shared.keys("current."))

    async def deploy(self, agent: AgentVersion) -> str:
        """Store ``agent`` and let new runs use it; return its digest. Runs under way keep theirs.

        Raises:
            InputError: one of its limits is beyond what any may be.
        """
        if reason := agent.excess():
            raise InputError(f"The agent '{agent.name}' is not deployed: {reason}.")
        digest = agent.digest()
        try:
            await self._shared.create(f"version.{digest}", agent.stored())
        except Conflict:
            if await self.version(digest) is None:
                raise
        for _ in range(TRIES_MAX):
            key = f"current.{agent.name}"
            present = await self._shared.get(key)
            try:
                if present is None:
                    await self._shared.create(key, digest.encode())
                elif present.value.decode() != digest:
                    await self._shared.update(key, digest.encode(), revision=present.revision)
            except Conflict:
                continue
            return digest
        raise LinestopError(f"The agent '{agent.name}' is being deployed by somebody else; try again.")
