"""What a project has: its credentials, its tools, its agents, and what they lack."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec

from linestop.bus.access.credentials import Credential, credential_path, load_credential
from linestop.bus.access.rights import CredentialName
from linestop.config.agent_files import AgentTooLargeError, load_agents
from linestop.config.project_file import CONFIG_FILE, Project
from linestop.errors import ConfigError
from linestop.models.planner_function import PREFIX, load_planner
from linestop.models.planner_function_constants import constants_of
from linestop.models.playbook import load_playbook
from linestop.models.providers import PLAYBOOK, key_variable
from linestop.sandbox.tools.registry import Registry, load_registry
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import ModelChoice
from linestop.schemas.model_messages import ModelFailed


def stored_credentials(project: Project, names: Sequence[CredentialName]) -> dict[CredentialName, Credential]:
    """The credential files of ``names`` in the state folder, at ``nats.url`` if that is set.

    Raises:
        ConfigError: if one is missing or damaged, or not for the broker that the project's file names.
    """
    found: dict[CredentialName, Credential] = {}
    for name in names:
        path = credential_path(project.directory, name)
        credential = load_credential(path)
        url = project.broker_url(path) or credential.url
        found[name] = msgspec.structs.replace(credential, url=url)
    return found


def load_tools(project: Project) -> Registry:
    """The built-in tools and those of the project.

    Raises:
        ConfigError: a tool cannot be loaded, or its contract is invalid.
    """
    make_importable(project)
    try:
        return load_registry(project.config.tools, base=project.root)
    except ConfigError as error:
        if not str(error).startswith("tools: "):
            raise
        raise ConfigError(f"{project.file or CONFIG_FILE}, {str(error).removesuffix('.')}.") from None


def make_importable(project: Project) -> None:
    """Let ``python:<module>`` name the project's own modules; its folder comes last and hides no package."""
    if (root := str(project.root.absolute())) not in sys.path:
        sys.path.append(root)


def load_project_agents(
    project: Project, registry: Registry, *, on_left_out: Callable[[AgentTooLargeError], None] | None = None
) -> tuple[AgentVersion, ...]:
    """The project's agents with the contracts of its tools; ``on_left_out`` is called for each agent that is too large.

    Raises:
        ConfigError: an agent is invalid, or names a planner function that does not exist.
    """
    make_importable(project)
    agents = load_agents(project, registry.contracts(), on_left_out=on_left_out)
    return tuple(_with_constants(agent) if agent.planner.startswith(PREFIX) else agent for agent in agents)


def _with_constants(agent: AgentVersion) -> AgentVersion:
    """The agent with the constants in the code of its planner function."""
    try:
        return msgspec.structs.replace(agent, constants=constants_of(load_planner(agent.planner)))
    except ModelFailed as failed:
        raise ConfigError(f"The agent '{agent.name}', planner: {failed}") from None


def missing_playbooks(project: Project, agents: Sequence[AgentVersion]) -> tuple[str, ...]:
    """A sentence for each scripted model that an agent names and that does not exist, so that its runs cannot work.

    Raises:
        ConfigError: if a playbook cannot be read.
    """
    known = {f"{PLAYBOOK}/{load_playbook(file).name}" for file in project.playbook_files()}
    return tuple(
        f"The agent {agent.name} uses {model}, and there is no such playbook; there is {', '.join(sorted(known))}."
        for agent, choice in _model_choices(agents)
        if (model := choice.model).startswith(f"{PLAYBOOK}/") and not choice.base_url and model not in known
    )


def missing_keys(agents: Sequence[AgentVersion]) -> tuple[str, ...]:
    """A sentence for each agent's model that needs a key which is not set in the environment."""
    return tuple(
        f"The agent {agent.name} uses {choice.model}: {choice.model} needs {variable}, which is not set."
        for agent, choice in _model_choices(agents)
        if (variable := key_variable(choice.model, choice.base_url, choice.api_key_env))
        and not os.environ.get(variable)
    )


def _model_choices(agents: Sequence[AgentVersion]) -> Iterator[tuple[AgentVersion, ModelChoice]]:
    """The models that each agent may request."""
    for agent in agents:
        if agent.planner == "model":
            yield from ((agent, agent.settings(choice)) for choice in (agent.model, *agent.fallbacks))
