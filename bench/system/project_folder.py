"""The measured project: agents whose limits are never reached, and two tools."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from bench.report import ROOT

UNLIMITED: Final = 10**9
UNLIMITED_LIMITS: Final = ("tokens_max", "cost_max_micros", "turns_max", "calls_max", "calls_per_tool_max")
CAPACITY: Final = 100_000


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent; ``name`` is also the script of its model (see ``instant_process``)."""

    name: str
    turns: int = 1


def working_agent(turns: int, text: int = 900) -> Agent:
    """An agent that calls a tool in each turn before its last, with ``text`` bytes of argument and of result."""
    return Agent(name=f"turns-{turns}-text-{text}", turns=turns)


TEN_TURNS: Final = working_agent(10)
ONE_TURN: Final = working_agent(1)
NEVER: Final = Agent(name="never")
"""Its model never replies."""

ASKS: Final = Agent(name="asks")
"""Its first call needs the approval of a person."""

TOOLS: Final = '''"""The tools; ``bench.system.instant_process`` runs another function in their place."""

from linestop import Context, tool


@tool(tier="read")
async def look(ctx: Context, q: str) -> str:
    """Look something up."""
    del ctx
    return q


@tool(tier="irreversible")
async def send(ctx: Context, q: str) -> str:
    """Send something."""
    del ctx
    return q
'''


def write_project(folder: Path, agents: Iterable[Agent], *, many_starts: bool = False) -> None:
    """Write the project. ``many_starts``: one process may wait for as many models as a measurement needs."""
    config = [f"[accounts]\nuser_day_micros = {10**12}\ntenant_day_micros = {10**12}\nsystem_hour_micros = {10**12}\n"]
    if many_starts:
        config.append(f"[worker]\nruns_max = {CAPACITY}\nstarts_max = {CAPACITY}\n")
    (folder / "linestop.toml").write_text('tools = ["tools.py"]\n' + "".join(config), encoding="utf-8")
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    (folder / "agents").mkdir(exist_ok=True)
    limits = dict.fromkeys(UNLIMITED_LIMITS, UNLIMITED) | {"wall_s": 86_400, "model_deadline_s": 86_400}
    for agent in agents:
        (folder / "agents" / f"{agent.name}.md").write_text("Work.", encoding="utf-8")
        (folder / "agents" / f"{agent.name}.toml").write_text(
            f'model = "playbook/{agent.name}"\nwindow_tokens = {UNLIMITED}\ntools = ["look", "send"]\n'
            "[price]\ninput = 100_000\noutput = 500_000\n[limits]\n"
            + "".join(f"{name} = {value}\n" for name, value in limits.items()),
            encoding="utf-8",
        )


def environment(directory: Path, inherited: dict[str, str]) -> dict[str, str]:
    """The environment of a process of linestop that uses the state folder ``directory``."""
    without_settings = {name: value for name, value in inherited.items() if not name.startswith(("LINESTOP_", "OTEL_"))}
    return without_settings | {"LINESTOP_DIR": str(directory), "PYTHONPATH": str(ROOT)}
