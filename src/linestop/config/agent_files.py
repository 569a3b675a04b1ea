"""Agents as files: ``agents/<name>.toml`` with the prompt beside it, read into ``AgentVersion``.

The contracts of a version's tools and the prices of its models are resolved here, once, and pinned. A name that
matches no tool is an error, because an agent that lacks a tool fails late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from linestop.config.project_file import Project
from linestop.config.toml_files import convert, read_text, read_toml
from linestop.errors import ConfigError, InputError, Refused
from linestop.models.providers import MODEL_FORMS, PLAYBOOK, PROVIDERS, check_api_key_env, check_base_url
from linestop.schemas.agents import AgentVersion
from linestop.schemas.argument_validation import schema_error
from linestop.schemas.defaults import MESSAGE_BYTES_MAX, WINDOW_TOKENS, Limits, excessive_limit
from linestop.schemas.events import ModelChoice, Policy
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import FUNCTION_MODEL_PREFIX, Price, ToolMode
from linestop.schemas.subjects import check_name
from linestop.schemas.tool_contracts import Contract

EXAMPLE_PRICE: Final = Price(
    input=3_000_000, output=15_000_000, cache_read=300_000, cache_write=3_750_000, table="example price of a playbook"
)
"""The price of a scripted model ($3 and $15 per million tokens), so that a demo shows budgets."""

FREE: Final = Price(input=0, output=0, table="a planner function costs nothing")
FUNCTION_PREFIX: Final = "python:"

Micros = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
"""A price: a negative one would refund money, and no budget would hold."""

Tokens = Annotated[int, msgspec.Meta(ge=1, le=10**9)]


AGENT_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 4_096
"""The largest size of a stored agent: one message, minus room for its envelope."""


class AgentTooLargeError(ConfigError):
    """Raised for an agent that is too large to be deployed; the others of its folder can be deployed."""

    def __init__(self, sentence: str, *, agent: str) -> None:
        super().__init__(sentence)
        self.agent = agent


class PriceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[price]``: micro-dollars per million tokens, so $3.00 is 3_000_000."""

    input: Micros
    output: Micros
    cache_read: Micros = 0
    cache_write: Micros = 0

    def price(self) -> Price:
        """The table as a price that names its source."""
        return Price(**msgspec.structs.asdict(self), table="agent file")


class ModelTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and its settings: the keys of the file itself, or of one of its ``[[fallbacks]]``."""

    model: str = ""
    base_url: str = ""
    api_key_env: str = ""
    tool_mode: ToolMode = "auto"
    params: JsonObject = {}
    price: PriceTable | None = None
    window_tokens: Tokens = WINDOW_TOKENS
    output_tokens_max: Tokens = Limits().model_output_tokens_max


class PolicyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[policy]``; see ``schemas.events.Policy``."""

    clear: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    ask_on_spend: bool = False
    provenance: bool = True
    deciders: tuple[str, ...] = ()
    quorum: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


class LimitsTable(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``: an unknown name is an error here, while a log may hold limits of a later version."""


class AgentFile(ModelTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``agents/<name>.toml``; its own model keys apply to the main model only.

    ``prompt`` is a file beside it, ``<name>.md`` if left out. ``tools`` are names or patterns (``orders.*``),
    ``scopes`` likewise what these tools may need.
    ``output_schema`` is a JSON Schema as a table, or the name of a JSON file beside it.
    """

    prompt: str = ""
    version: str = "1"
    description: str = ""
    planner: str = "model"
    fallbacks: tuple[str | ModelTable, ...] = ()
    on_model_down: Literal["queue", "fall_back", "fail", "hand_off"] = "fall_back"
    tools: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    limits: LimitsTable = LimitsTable()
    policy: PolicyTable = PolicyTable()
    output_schema: str | JsonObject | None = None


def load_agents(
    project: Project, contracts: Sequence[Contract], *, on_left_out: Callable[[AgentTooLargeError], None] | None = None
) -> tuple[AgentVersion, ...]:
    """All agents of the project, by name; ``contracts`` are those of the existing tools.

    ``on_left_out`` is called for each agent that is too large; without it, such an agent is an error.

    Raises:
        ConfigError: an agent file is invalid; one sentence with file and key.
    """
    agents: list[AgentVersion] = []
    for path in project.agent_files():
        try:
            agents.append(load_agent(path, contracts))
        except AgentTooLargeError as error:
            if on_left_out is None:
                raise
            on_left_out(error)
    return tuple(agents)


def load_agent(path: Path, contracts: Sequence[Contract]) -> AgentVersion:
    """One agent from its file; its name is the file's.

    Raises:
        ConfigError: an agent file is invalid; one sentence with file and key.
    """
    file = convert(read_toml(path), AgentFile, str(path))
    try:
        name = check_name("agent", path.stem)
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None
    _check(path, file)
    models = _models(path, file)
    prompt = path.parent / (file.prompt or f"{name}.md")
    _check_prompt_size(path, prompt, name)
    agent = AgentVersion(
        name=name,
        prompt=_prompt(path, file, prompt),
        model=models[0],
        version=file.version,
        description=file.description,
        fallbacks=models[1:],
        on_model_down=file.on_model_down,
        tools=_tools(path, file.tools, contracts),
        limits=Limits(**msgspec.structs.asdict(file.limits)),
        policy=Policy(**msgspec.structs.asdict(file.policy)),
        output_schema=_schema(path, file.output_schema),
        planner=file.planner,
        pinned=file.pinned,
        scopes=file.scopes,
    )
    _check_scopes(path, agent)
    _check_policy(path, agent)
    if (size := len(agent.stored_bytes())) > AGENT_BYTES_MAX:
        sentence = f"{path}: with its prompt and the contracts of its tools the agent has {size:,} bytes; at most "
        raise AgentTooLargeError(
            f"{sentence}{AGENT_BYTES_MAX:,} can be stored: shorten {prompt}, or give the agent fewer tools.", agent=name
        )
    return agent


def _prompt(path: Path, file: AgentFile, prompt: Path) -> str:
    """The prompt; a planner function needs none, so it may be missing unless the file names one."""
    if file.planner.startswith(FUNCTION_PREFIX) and not file.prompt and not prompt.exists():
        return ""
    return read_text(prompt, f"{path}, prompt")


def _check_prompt_size(path: Path, prompt: Path, name: str) -> None:
    """Refuse a prompt that is too long before it is read, in a sentence that names the file."""
    try:
        size = prompt.stat().st_size
    except OSError:
        return
    if size > AGENT_BYTES_MAX:
        raise AgentTooLargeError(
            f"{path}, prompt: {prompt} has {size:,} bytes; at most {AGENT_BYTES_MAX:,} can be stored: shorten it, or "
            "let a tool look the rest up.",
            agent=name,
        )


def _check(path: Path, file: AgentFile) -> None:
    if file.planner != "model" and not file.planner.startswith(FUNCTION_PREFIX):
        raise ConfigError(f'{path}, planner: write "model" or "python:<module>.<function>", not "{file.planner}".')
    if file.planner == "model" and not file.model:
        raise ConfigError(f"{path}, model: name one: {MODEL_FORMS}.")
    for limit in file.limits.__struct_fields__:
        if getattr(file.limits, limit) < 0:
            raise ConfigError(f"{path}, limits.{limit}: no limit may be negative.")
    if reason := excessive_limit(file.limits):
        raise ConfigError(f"{path}, {reason}.")


def _check_policy(path: Path, agent: AgentVersion) -> None:
    """Refuse unknown tools in the policy: with a misspelt one, a person would silently not be asked."""
    policy = agent.policy
    for key, patterns in (("ask", policy.ask), ("clear", policy.clear)):
        for pattern in patterns:
            if not any(fnmatchcase(contract.name, pattern) for contract in agent.tools):
                known = ", ".join(contract.name for contract in agent.tools) or "none"
                raise ConfigError(f"{path}, policy.{key}: the agent has no tool {pattern!r}; its tools are {known}.")
    if policy.deciders and policy.quorum > len(set(policy.deciders)):
        raise ConfigError(
            f"{path}, policy.quorum: {policy.quorum} people must agree, but deciders names {len(set(policy.deciders))}."
        )


def _check_scopes(path: Path, agent: AgentVersion) -> None:
    for contract in agent.tools:
        if not agent.has_scopes_for(contract):
            needs = ", ".join(f'"{scope}"' for scope in contract.scopes)
            raise ConfigError(
                f"{path}, scopes: the tool '{contract.name}' needs {needs}; grant it in scopes = [{needs}], "
                "or leave the tool out."
            )


def _models(path: Path, file: AgentFile) -> tuple[ModelChoice, ...]:
    """The main model, then the fallbacks, each with its own settings only."""
    tables = [entry if isinstance(entry, ModelTable) else ModelTable(model=entry) for entry in file.fallbacks]
    fallbacks = [_model(f"{path}, fallbacks {place}", table) for place, table in enumerate(tables, 1)]
    if file.planner.startswith(FUNCTION_PREFIX):
        main = ModelChoice(model=FUNCTION_MODEL_PREFIX + file.planner.removeprefix(FUNCTION_PREFIX), price=FREE)
    else:
        main = _model(str(path), file)
    for place, choice in enumerate(fallbacks):
        if any(choice.is_requested_by(earlier) for earlier in (main, *fallbacks[:place])):
            raise ConfigError(
                f"{path}, fallbacks {place + 1}: {choice.model} is named twice for one server; leave one out, "
                "or give it a base_url of its own."
            )
    return (main, *fallbacks)


def _model(where: str, table: ModelTable) -> ModelChoice:
    model = table.model
    provider, _, name = model.partition("/")
    if provider not in PROVIDERS or not name:
        raise ConfigError(f'{where}, model: "{model}" is not a model; write {MODEL_FORMS}.')
    for key, value, check in (
        ("base_url", table.base_url, check_base_url),
        ("api_key_env", table.api_key_env, check_api_key_env),
    ):
        try:
            if value:
                check(model, value)
        except ConfigError as error:
            raise ConfigError(f"{where}, {key}: {error}") from None
    if table.tool_mode == "json_schema" and not PROVIDERS[provider].has_json_schema:
        raise ConfigError(f'{where}, tool_mode: "json_schema" is for OpenAI-compatible servers; remove it.')
    return ModelChoice(
        model=model,
        price=_price(where, model, table.price),
        window_tokens=table.window_tokens,
        output_tokens_max=table.output_tokens_max,
        base_url=table.base_url,
        api_key_env=table.api_key_env,
        tool_mode=table.tool_mode,
        params=table.params,
    )


def _price(where: str, model: str, table: PriceTable | None) -> Price:
    """The price in the file, else the one in the table that comes with linestop."""
    if table is not None:
        return table.price()
    if model.partition("/")[0] == PLAYBOOK:
        return EXAMPLE_PRICE
    # Imported here because the table takes a quarter of a second to load, and a scripted model does not need it.
    from linestop.models.prices import price_of  # noqa: PLC0415

    try:
        return price_of(model)
    except Refused as error:
        raise ConfigError(f"{where}, model: {error}") from None


def _tools(path: Path, patterns: Iterable[str], contracts: Sequence[Contract]) -> tuple[Contract, ...]:
    """The contracts that match the names and patterns, by name."""
    chosen: dict[str, Contract] = {}
    for pattern in patterns:
        matches = {c.name: c for c in contracts if fnmatchcase(c.name, pattern)}
        if not matches:
            known = ", ".join(sorted(c.name for c in contracts))
            raise ConfigError(f"{path}, tools: no tool is called {pattern!r}; there is {known or 'none'}.")
        chosen |= matches
    return tuple(chosen[name] for name in sorted(chosen))


def _schema(path: Path, output_schema: str | JsonObject | None) -> JsonObject | None:
    if output_schema is None:
        return None
    schema = output_schema if isinstance(output_schema, dict) else _schema_file(path, path.parent / output_schema)
    if reason := schema_error(schema):
        raise ConfigError(f"{path}, output_schema: this JSON Schema cannot be used ({reason}).")
    return schema


def _schema_file(path: Path, file: Path) -> JsonObject:
    try:
        return msgspec.json.decode(read_text(file, f"{path}, output_schema"), type=JsonObject)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{path}, output_schema: {file} is not a JSON Schema ({error}).") from None
