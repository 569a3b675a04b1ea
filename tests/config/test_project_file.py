"""The values that a project's files may have, and the sentence for each invalid one."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from linestop.config.agent_files import EXAMPLE_PRICE, load_agent, load_agents
from linestop.config.project_file import Project, load_project
from linestop.errors import ConfigError
from linestop.sandbox.tools.registry import load_registry
from linestop.schemas.tool_contracts import Contract

KEY = "ab" * 32
LOOKUP_CONTRACT = Contract(name="orders.look", description="Look.", parameters={"type": "object"}, tier="read")
PAY_CONTRACT = Contract(name="orders.pay", description="Pay.", parameters={"type": "object"}, tier="irreversible")


def project(folder: Path, text: str = "", **environ: str) -> Project:
    """The project that ``text`` describes."""
    (folder / "linestop.toml").write_text(text)
    return load_project(folder, environ=environ)


def agent_file(folder: Path, text: str, name: str = "support") -> Path:
    """An agent's file with a prompt beside it."""
    (folder / "agents").mkdir(exist_ok=True)
    (folder / "agents" / f"{name}.md").write_text("Be kind.")
    path = folder / "agents" / f"{name}.toml"
    path.write_text(text)
    return path


def test_an_empty_folder_has_every_default_and_the_built_in_agent(tmp_path: Path) -> None:
    """Nothing has to be written before the first start."""
    found = load_project(tmp_path, environ={})
    assert (found.config.profile, found.config.tenant, found.file) == ("dev", "default", None)
    assert found.directory == tmp_path / ".linestop"
    (hello,) = load_agents(found, load_registry().contracts())
    assert (hello.name, hello.model.model, hello.model.price) == ("hello", "playbook/hello", EXAMPLE_PRICE)
    assert [path.stem for path in found.playbook_files()] == ["hello"]


def test_a_profile_wins_over_the_file_and_the_environment_over_both(tmp_path: Path) -> None:
    """Tables are merged key by key, and later wins."""
    text = '[nats]\nurl = "nats://a:1"\nport = 7\n[profiles.prod.nats]\nurl = "nats://b:2"\n'
    assert project(tmp_path, text).config.nats.url == "nats://a:1"
    chosen = project(tmp_path, text, LINESTOP_PROFILE="prod")
    assert (chosen.config.nats.url, chosen.config.nats.port, chosen.config.profile) == ("nats://b:2", 7, "prod")
    everything = {"LINESTOP_NATS": "nats://c:3", "LINESTOP_DIR": "state", "LINESTOP_SYNC": "always"}
    over = project(tmp_path, text, LINESTOP_PROFILE="prod", LINESTOP_TENANT="acme", **everything)
    assert (over.config.nats.url, over.config.nats.sync) == ("nats://c:3", "always")
    assert (over.directory, over.config.tenant) == (tmp_path / "state", "acme")


def test_worker_limits_are_set_by_file_and_environment(tmp_path: Path) -> None:
    """0, the default, means that the cores decide."""
    assert project(tmp_path).config.worker.runs_max == 0
    text = "[worker]\nruns_max = 7\nstarts_max = 9\n"
    found = project(tmp_path, text, LINESTOP_STARTS_MAX="3").config.worker
    assert (found.runs_max, found.starts_max) == (7, 3)
    assert project(tmp_path, "[keep]\nruns_days = 14\narchive_days = 30\n").config.keep.runs_days == 14
    with pytest.raises(ConfigError, match="runs_days 0 is not between 1 and 90"):
        project(tmp_path, "[keep]\nruns_days = 0\n")
    with pytest.raises(ConfigError, match=r"archive_days -1 is not between 0 \(no limit\)"):
        project(tmp_path, "[keep]\narchive_days = -1\n")
    with pytest.raises(ConfigError, match=r"worker\.runs_max: -1 is not between 0"):
        project(tmp_path, "[worker]\nruns_max = -1\n")


def test_only_staging_is_a_dry_run(tmp_path: Path) -> None:
    """Only staging describes effects instead of doing them."""
    assert [project(tmp_path, LINESTOP_PROFILE=name).describes_effects for name in ("dev", "staging", "prod")] == [
        False,
        True,
        False,
    ]


def test_the_digest_changes_with_the_configuration_and_with_nothing_else(tmp_path: Path) -> None:
    """Events name the configuration of their writer."""
    one = project(tmp_path, 'tenant = "a"')
    assert project(tmp_path, '# a comment\ntenant = "a"').digest == one.digest
    assert project(tmp_path, 'tenant = "b"').digest != one.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tenant = ", "is not TOML"),
        ("tennant = 'a'", "unknown field `tennant`"),
        ("tenant = 'A B'", "linestop.toml, tenant: tenant 'A B' is not a name"),
        ("tenant = 1", "linestop.toml, tenant: Expected `str`, got `int`"),
        ("profile = 'test'", "linestop.toml, profile: Invalid enum value 'test'"),
        ("dir = ''", "linestop.toml, dir: name a folder"),
        ("[nats]\nport = 'x'", "linestop.toml, nats.port: Expected `int`"),
        ("[nats]\nsync = '5s'", "linestop.toml, nats.sync: Invalid enum value '5s'"),
        ("[accounts]\nday = 1", "linestop.toml, accounts: Object contains unknown field `day`"),
        ("[people]\nann = 'abc'", "linestop.toml, people.ann: an Ed25519 public key has 64"),
        ("[egress]\nallow = 'a.example'", "linestop.toml, egress.allow: Expected `array`"),
        ("[profiles.test]\ntenant = 'a'", "linestop.toml, profiles: Invalid enum value 'test'; there is dev, prod"),
        ("tennant = 'a'", "there is profile, dir, tenant"),
        ("[nats]\nsync = '5s'", "there is 1s, always"),
        ("[nats]\nport = 70000", "linestop.toml, nats.port: 70000 is not a port"),
        ("[nats]\nport = -1", "linestop.toml, nats.port: -1 is not a port"),
        ("[nats]\nurl = 'broker:4222'", "linestop.toml, nats.url: 'broker:4222' is not the address of a broker"),
        ("[nats]\nurl = 'nats://a:b@broker'", "linestop.toml, nats.url: 'broker' is not the address of a broker"),
        ("[accounts]\nuser_day_micros = -1", "linestop.toml, accounts.user_day_micros: give 0 to"),
        ("[accounts]\nuser_day_micros = 99999999999999999999", "accounts.user_day_micros: give 0 to"),
        ("[egress]\nallow = ['http://a.example/']", "linestop.toml, egress.allow: 'http://a.example/' is not a host"),
        ("[secrets]\nmail = 'hunter2'", "linestop.toml, secrets.mail: write env:NAME or file:PATH"),
        ("playbooks = ['']", "linestop.toml, playbooks: '' is not a path"),
        ("x = " + "[" * 100_000, "is not TOML: its values are nested too deeply"),
        ("x = " + "9" * 5_000, "is not TOML: Exceeds the limit"),
        ("#" * 1_100_000, "cannot be read (it has over 1048576 bytes)"),
        ("[profiles.prod]\ntenant = 1", "linestop.toml, profiles.prod.tenant: Expected `str`"),
        ("[profiles.prod]\nprofile = 'dev'", "linestop.toml, profiles.prod: a profile cannot choose"),
    ],
)
def test_bad_configuration_is_one_sentence_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    """Also of a profile that is not chosen, because it will be one day."""
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, text)
    assert words in str(caught.value)
    assert "linestop.toml" in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LINESTOP_PROFILE", "live"),
        ("LINESTOP_SYNC", "2s"),
        ("LINESTOP_TENANT", "A B"),
        ("LINESTOP_NATS", "garbage"),
        ("LINESTOP_RUNS_MAX", "many"),
        ("LINESTOP_STARTS_MAX", "-1"),
        ("LINESTOP_STARTS_MAX", "100001"),
    ],
)
def test_a_bad_variable_is_refused(tmp_path: Path, variable: str, value: str) -> None:
    """The environment is checked as strictly as the file, and the sentence names the variable."""
    with pytest.raises(ConfigError, match=value) as caught:
        project(tmp_path, **{variable: value})
    assert str(caught.value).startswith(variable)


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Some editors write one; it does not belong to the text."""
    (tmp_path / "linestop.toml").write_bytes(b"\xef\xbb\xbftenant = 'a'\r\n")
    assert load_project(tmp_path, environ={}).config.tenant == "a"


def test_a_special_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device may never end."""
    os.mkfifo(tmp_path / "linestop.toml")
    with pytest.raises(ConfigError, match=r"linestop\.toml cannot be read \(it is not a regular file\)"):
        load_project(tmp_path, environ={})


def test_secrets_come_from_the_environment_or_a_file_and_never_from_the_configuration(tmp_path: Path) -> None:
    """The configuration names where they are."""
    (tmp_path / "key").write_text("from-file\n")
    found = project(tmp_path, '[secrets]\na = "env:MAIL_KEY"\nb = "file:key"\n')
    environ = {"MAIL_KEY": "from-env", "OPENAI_API_KEY": "sk"}
    assert found.secret_values(environ) == {"a": "from-env", "b": "from-file", "OPENAI_API_KEY": "sk"}
    with pytest.raises(ConfigError, match=r"secrets\.a: the environment variable MAIL_KEY is not set"):
        found.secret_values({})


def test_an_agent_file_becomes_a_version_with_contracts_and_prices(tmp_path: Path) -> None:
    """Everything that decisions need is resolved once."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "answer.json").write_text('{"type": "object"}')
    text = """
    model = "openai/gpt-4o"
    fallbacks = ["playbook/spare", { model = "anthropic/own", price = { input = 5, output = 6 } }]
    tools = ["orders.*"]
    output_schema = "answer.json"
    [price]
    input = 1_000_000
    output = 2_000_000
    [limits]
    turns_max = 3
    [policy]
    clear = ["orders.pay"]
    """
    agent = load_agent(agent_file(tmp_path, text), [PAY_CONTRACT, LOOKUP_CONTRACT])
    assert (agent.name, agent.prompt, agent.limits.turns_max) == ("support", "Be kind.", 3)
    assert agent.tools == (LOOKUP_CONTRACT, PAY_CONTRACT)
    assert (agent.model.price.input, agent.model.price.table) == (1_000_000, "agent file")
    assert [choice.price.input for choice in agent.fallbacks] == [EXAMPLE_PRICE.input, 5]
    assert agent.output_schema == {"type": "object"}
    assert agent.policy.clear == ("orders.pay",)


def test_a_known_model_gets_its_price_from_the_table(tmp_path: Path) -> None:
    """Known models need no price in the file."""
    agent = load_agent(agent_file(tmp_path, 'model = "openai/gpt-4o"'), [])
    assert agent.model.price.input > 0
    assert agent.model.price.table.startswith("genai-prices")


def test_an_agent_has_the_scopes_that_its_file_grants(tmp_path: Path) -> None:
    """A pattern that matches a tool does not grant the scopes that the tool needs."""
    pay = msgspec.structs.replace(PAY_CONTRACT, scopes=("orders:write", "bank:pay"))
    text = 'model = "playbook/a"\ntools = ["orders.*"]\nscopes = [SCOPES]'
    sentence = (
        r"""scopes: the tool 'orders.pay' needs "orders:write", "bank:pay"; grant it in scopes = \["orders:write", """
    )
    for scopes in ("", '"orders:*"'):
        with pytest.raises(ConfigError, match=sentence):
            load_agent(agent_file(tmp_path, text.replace("SCOPES", scopes)), [pay, LOOKUP_CONTRACT])
    granted = load_agent(agent_file(tmp_path, text.replace("SCOPES", '"orders:*", "bank:pay"')), [pay, LOOKUP_CONTRACT])
    assert granted.tools == (LOOKUP_CONTRACT, pay)
    assert granted.scopes == ("orders:*", "bank:pay")


def test_an_agent_file_says_how_its_server_is_offered_tools(tmp_path: Path) -> None:
    """By default the first answer shows it."""
    text = "model = 'openai/m'\nbase_url = 'http://127.0.0.1:1/v1'\nprice = {input = 1, output = 1}\n"
    assert load_agent(agent_file(tmp_path, text), []).model.tool_mode == "auto"
    assert load_agent(agent_file(tmp_path, text + 'tool_mode = "json_schema"'), []).model.tool_mode == "json_schema"


def test_a_planner_function_costs_nothing(tmp_path: Path) -> None:
    """A fixed procedure needs no model."""
    agent = load_agent(agent_file(tmp_path, 'planner = "python:flows.refund"'), [])
    assert (agent.planner, agent.model.price.input, agent.model.price.output) == ("python:flows.refund", 0, 0)


def test_a_planner_function_needs_no_prompt_file(tmp_path: Path) -> None:
    """It reads none; one that is named must be there, and a model needs one."""
    path = agent_file(tmp_path, 'planner = "python:flows.refund"')
    path.with_suffix(".md").unlink()
    assert load_agent(path, []).prompt == ""
    path.write_text('planner = "python:flows.refund"\nprompt = "other.md"')
    with pytest.raises(ConfigError, match=r"other\.md cannot be read"):
        load_agent(path, [])
    path.write_text('model = "playbook/a"')
    with pytest.raises(ConfigError, match=r"support\.md cannot be read"):
        load_agent(path, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "support.toml, model: name one"),
        ("model = 'gpt-4o'", 'support.toml, model: "gpt-4o" is not a model'),
        ("model = 'openai/no-such-model'", 'support.toml, model: No price of "openai/no-such-model"'),
        ("model = 'playbook/a'\nfallbacks = ['b']", 'support.toml, fallbacks 1, model: "b" is not a model'),
        ("model = 'playbook/a'\ntools = ['orders.loook']", "support.toml, tools: no tool is called 'orders.loook'"),
        ("model = 'playbook/a'\nprompt = 'no.md'", "support.toml, prompt: "),
        ("model = 'playbook/a'\nplanner = 'flows'", "support.toml, planner: write"),
        ("model = 'playbook/a'\n[limits]\nturn_max = 1", "support.toml, limits: Object contains unknown field"),
        ("model = 'playbook/a'\n[limits]\nturns_max = -1", "support.toml, limits.turns_max: no limit may be negative"),
        ("model = 'playbook/a'\n[limits]\nwall_s = 1000000000000000000", "support.toml, limits.wall_s: 1e+18 is not"),
        ("model = 'playbook/a'\n[limits]\nmodel_deadline_s = nan", "limits.model_deadline_s: nan is not between 0 and"),
        ("model = 'playbook/a'\n[policy]\nquorum = 0", "support.toml, policy.quorum: Expected `int` >= 1"),
        ("model = 'playbook/a'\n[policy]\nquorum = 2\ndeciders = ['ann', 'ann']", "policy.quorum: 2 people must agree"),
        ("model = 'playbook/a'\n[policy]\nask = ['orders.loook']", "policy.ask: the agent has no tool 'orders.loook'"),
        ("model = 'playbook/a'\n[policy]\nclear = ['a*']", "policy.clear: the agent has no tool 'a*'"),
        ("model = 'playbook/a'\n[price]\ninput = -1\noutput = 1", "price.input: Expected `int` >= 0"),
        ("model = 'playbook/a'\n[price]\ninput = 0.15\noutput = 1", "so $0.15 is 150000"),
        ("model = 'playbook/a'\nwindow_tokens = 0", "support.toml, window_tokens: Expected `int` >= 1"),
        ("model = 'playbook/a'\noutput_tokens_max = -4", "support.toml, output_tokens_max: Expected `int` >= 1"),
        (
            "model = 'openai/m'\nbase_url = 'localhost:1'\nprice = {input=1, output=1}",
            "support.toml, base_url: base_url",
        ),
        ("model = 'playbook/a'\ntool_mode = 'probe'", "support.toml, tool_mode: Invalid enum value 'probe'"),
        (
            "model = 'anthropic/m'\ntool_mode = 'json_schema'",
            'support.toml, tool_mode: "json_schema" is for OpenAI-compatible servers',
        ),
        ("model = 'playbook/a'\n[output_schema]\ntype = 'obj'", "support.toml, output_schema: this JSON Schema"),
        ("model = 'playbook/a'\noutput_schema = 'no.json'", "support.toml, output_schema: "),
    ],
)
def test_a_bad_agent_is_one_sentence_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    """An agent that cannot work is refused before it is deployed."""
    with pytest.raises(ConfigError) as caught:
        load_agent(agent_file(tmp_path, text), [LOOKUP_CONTRACT])
    assert words in str(caught.value)


def test_a_schema_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    """The reader must not run out of stack."""
    agent = agent_file(tmp_path, "model = 'playbook/a'\noutput_schema = 'bomb.json'")
    (agent.parent / "bomb.json").write_text('{"not":' * 5_000)
    with pytest.raises(ConfigError, match=r"output_schema: .*bomb\.json is not a JSON Schema"):
        load_agent(agent, [])


def test_an_agent_is_named_after_its_file(tmp_path: Path) -> None:
    """The name is part of subjects, so it must be valid there."""
    with pytest.raises(ConfigError, match="is not a name"):
        load_agent(agent_file(tmp_path, "model = 'playbook/a'", name="My Agent"), [])


def test_the_example_project_can_be_loaded_without_findings() -> None:
    """The example in the repository is right."""
    folder = Path(__file__).parents[2] / "examples" / "support"
    found = load_project(folder, environ={})
    registry = load_registry(found.config.tools, base=folder)
    (support,) = load_agents(found, registry.contracts())
    assert {tool.name for tool in support.tools} == {"ask.person", "orders.lookup", "orders.note", "refunds.create"}
