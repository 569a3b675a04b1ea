"""An agent's version and its digest."""

from __future__ import annotations

import msgspec
from tests.builders import agent, contract

from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits


def test_equal_versions_have_one_digest_and_others_another() -> None:
    """The digest covers the whole configuration."""
    assert agent().digest() == agent().digest()
    changed = [
        agent(prompt="x"),
        agent(limits={"turns_max": 1}),
        agent(tools=()),
        agent(version="2"),
        agent(pinned=("a",)),
    ]
    assert len({agent().digest(), *(version.digest() for version in changed)}) == 6


def test_a_version_read_back_has_the_same_digest() -> None:
    """The stored bytes can be read back without changing the digest."""
    version = agent(limits={"tool_timeout_s": 3})
    again = msgspec.json.decode(msgspec.json.encode(version), type=AgentVersion)
    assert again.digest() == version.digest()
    assert again.limits == Limits(tool_timeout_s=3)


def test_a_tool_is_found_by_name() -> None:
    """A name without a tool gives None."""
    version = agent(tools=(contract("a"), contract("b")))
    assert version.tool("b") is version.tools[1]
    assert version.tool("c") is None


def test_a_contract_that_declares_nothing_is_the_worst_case() -> None:
    """Destructive, and not safe to repeat; any changed promise is another digest."""
    bare = msgspec.structs.replace(contract("x"), tier="destructive")
    assert not bare.safe_to_repeat
    assert contract("x").safe_to_repeat
    assert bare.digest() != contract("x").digest()
