"""A project: ``linestop.toml``, its profile, the variables ``LINESTOP_*``, and the agents beside it.

This module only reads files; it opens no connection and loads no tool. Every table is closed: a misspelt key
is an error that names file and key, because otherwise a limit would silently not apply. Without any file
everything has its default, so that ``linestop dev`` works in an empty folder.

Later wins: defaults, ``linestop.toml``, its table ``[profiles.<profile>]``, ``LINESTOP_*``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal, cast, get_args

import msgspec

from linestop.bus.access.credentials import require_urls
from linestop.config.toml_files import convert, read_text, read_toml
from linestop.errors import ConfigError, InputError
from linestop.schemas.broker_defaults import Retention
from linestop.schemas.defaults import DEFAULT_TENANT, AccountLimits, WorkerLimits
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.subjects import check_name

CONFIG_FILE: Final = "linestop.toml"
ED25519_KEY_BYTES: Final = 32
PORT_MAX: Final = 65_535
MICROS_MAX: Final = 10**15
"""A billion dollars: more is a mistake, and accounts are stored in 64 bits."""

WORKER_LIMIT_MAX: Final = 100_000
DIGITS_MAX: Final = 9
WORKER_VARIABLES: Final = {"runs_max": "LINESTOP_RUNS_MAX", "starts_max": "LINESTOP_STARTS_MAX"}
AGENTS_FOLDER: Final = "agents"

ProfileName = Literal["dev", "staging", "prod"]
PROFILES: Final[tuple[ProfileName, ...]] = get_args(ProfileName)
Sync = Literal["1s", "always"]
"""How often the embedded server syncs to disk; a power failure may lose what is not synced."""

ENVIRONMENT: Final = {
    "LINESTOP_PROJECT": "the project's folder",
    "LINESTOP_PROFILE": "dev, staging or prod",
    "LINESTOP_DIR": "the state folder",
    "LINESTOP_NATS": "address of the broker; several separated by commas",
    "LINESTOP_TENANT": "the tenant of commands",
    "LINESTOP_SYNC": "1s or always",
    "LINESTOP_RUNS_MAX": "how many runs a process works on at once",
    "LINESTOP_STARTS_MAX": "how many model requests and tool calls a process makes at once",
    "LINESTOP_LOG": "how much processes log: debug, info, warning or error",
}
"""The variables that override the configuration, with their meaning."""


class Egress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hosts that tools may reach: ``host``, ``*.host``, ``host:port`` or ``*``. No host, if left out."""

    allow: tuple[str, ...] = ()


class Nats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker: ``url`` of an outside one (``up``, ``actor``), ``port`` and ``sync`` of the embedded one."""

    url: str = ""
    port: int = 0
    sync: Sync = "1s"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``linestop.toml``. ``secrets`` are ``env:NAME`` or ``file:path``, never values.

    ``worker`` bounds the concurrent work of one process. ``people`` gives each person's Ed25519 public key in hex: once
    there is one, decisions must be signed. ``tools`` are ``python:package.module`` or paths of ``.py`` files;
    ``playbooks`` are paths, or patterns, of scripted models.
    """

    profile: ProfileName = "dev"
    dir: str = ".linestop"
    tenant: str = DEFAULT_TENANT
    nats: Nats = Nats()
    accounts: AccountLimits = AccountLimits()
    worker: WorkerLimits = WorkerLimits()
    keep: Retention = Retention()
    people: dict[str, str] = {}
    egress: Egress = Egress()
    secrets: dict[str, str] = {}
    tools: tuple[str, ...] = ()
    playbooks: tuple[str, ...] = ("playbooks/*.toml",)
    profiles: dict[ProfileName, JsonObject] = {}


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project with all overrides applied. ``file`` is None without a ``linestop.toml``; paths are absolute."""

    root: Path
    config: Config
    file: Path | None = None
    digest: str = ""
    is_broker_from_file: bool = False
    """Whether ``nats.url`` comes from the file, not from the environment or an option."""

    @property
    def directory(self) -> Path:
        """The state folder: broker, credentials, locks, archive."""
        return (self.root / self.config.dir).absolute()

    @property
    def describes_effects(self) -> bool:
        """Whether effects above ``read`` are described instead of performed."""
        return self.config.profile == "staging"

    @property
    def build(self) -> str:
        """The build that every event names: the version of linestop and the configuration digest."""
        return f"{package_version()} {self.digest[:12]}"

    def with_broker(self, url: str | None) -> Project:
        """The same project with its broker at ``url``, if one is given.

        Raises:
            ConfigError: ``url`` is not the address of a broker.
        """
        if not url:
            return self
        require_urls(url, "--nats")
        nats = msgspec.structs.replace(self.config.nats, url=url)
        config = msgspec.structs.replace(self.config, nats=nats)
        return msgspec.structs.replace(self, config=config, is_broker_from_file=False)

    def broker_url(self, credential: Path) -> str:
        """The address of the broker for this credential file; empty if the project does not name one.

        A project folder from a stranger could name this user's state folder, and the stranger's broker.

        Raises:
            ConfigError: the address is in a file whose folder does not hold the credential.
        """
        url = self.config.nats.url
        if self.is_broker_from_file and url and not credential.resolve().is_relative_to(self.root.resolve()):
            raise ConfigError(
                f"{self._location('nats.url')}: the broker {url} is not used with {credential}, which is not in that "
                "file's folder: if that broker belongs to the state folder, name it with LINESTOP_NATS or --nats."
            )
        return url

    def agent_files(self) -> tuple[Path, ...]:
        """The agents' files, by name; those of the built-in project if this one has none."""
        project_files = tuple(sorted((self.root / AGENTS_FOLDER).glob("*.toml")))
        return project_files or tuple(sorted((builtin_folder() / AGENTS_FOLDER).glob("*.toml")))

    def playbook_files(self) -> tuple[Path, ...]:
        """The files of the scripted models, the built-in ones last.

        Raises:
            ConfigError: a named file does not exist.
        """
        files: list[Path] = []
        for pattern in self.config.playbooks:
            matches = [Path(pattern)] if Path(pattern).is_absolute() else sorted(self.root.glob(pattern))
            if not matches and "*" not in pattern:
                raise ConfigError(f"{self._location('playbooks')}: there is no file {pattern} in {self.root}.")
            files.extend(matches)
        return (*files, *sorted((builtin_folder() / "playbooks").glob("*.toml")))

    def secret_values(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Read the secrets; their values are removed from tool results and from the texts of models.

        Raises:
            ConfigError: a secret is not set.
        """
        # Imported here: only a process that serves needs the providers.
        from linestop.models.providers import PROVIDERS  # noqa: PLC0415

        environment = os.environ if environ is None else environ
        keys = (provider.key_variable for provider in PROVIDERS.values() if provider.key_variable)
        secrets = {name: environment.get(name, "") for name in keys}
        for name, source in self.config.secrets.items():
            secrets[name] = self._secret(name, source, environment)
        return {name: value for name, value in secrets.items() if value}

    def _secret(self, name: str, source: str, environ: Mapping[str, str]) -> str:
        kind, _, rest = source.partition(":")
        assert kind in {"env", "file"}, "checked when the project was read"
        if kind == "file":
            return read_text(self.root / rest, f"{self._location('secrets.' + name)}").strip()
        if value := environ.get(rest, "").strip():
            return value
        raise ConfigError(f"{self._location('secrets.' + name)}: the environment variable {rest} is not set.")

    def _location(self, key: str) -> str:
        return f"{self.file or CONFIG_FILE}, {key}"


def package_version() -> str:
    """The installed version of linestop."""
    try:
        return version("linestop")
    except PackageNotFoundError:
        return "0"


def builtin_folder() -> Path:
    """The project that comes with linestop: one agent on a scripted model, for an empty folder."""
    return Path(__file__).parents[1] / "cli" / "builtin"


def load_project(root: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Project:
    """Read the project in ``root`` (default: ``LINESTOP_PROJECT``, else the current folder).

    Raises:
        ConfigError: the configuration is invalid; one sentence with file and key.
    """
    environment = os.environ if environ is None else environ
    folder = (root or Path(environment.get("LINESTOP_PROJECT") or ".")).absolute()
    if not folder.is_dir():
        raise ConfigError(f"The project folder {folder} does not exist: name another with --project.")
    file = folder / CONFIG_FILE
    raw = read_toml(file) if file.exists() else {}
    source = str(file if file.exists() else CONFIG_FILE)
    file_config = convert(raw, Config, source)
    profile = _profile(environment, file_config.profile)
    merged = _merged(raw, _profile_table(raw, file_config, profile, source))
    config = convert({**merged, "profile": profile}, Config, source)
    config = _overridden(config, environment)
    _check(config, source, environment)
    digest = hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()
    return Project(
        root=folder,
        config=config,
        file=file if file.exists() else None,
        digest=digest,
        is_broker_from_file=not environment.get("LINESTOP_NATS"),
    )


def _profile(environ: Mapping[str, str], file_profile: ProfileName) -> ProfileName:
    profile = environ.get("LINESTOP_PROFILE") or file_profile
    for name in PROFILES:
        if name == profile:
            return name
    raise ConfigError(f"LINESTOP_PROFILE is {profile!r}: use one of {', '.join(PROFILES)}.")


def _profile_table(raw: Mapping[str, JsonValue], file_config: Config, profile: ProfileName, source: str) -> JsonObject:
    for name, table in file_config.profiles.items():
        if not {"profile", "profiles"}.isdisjoint(table):
            raise ConfigError(f"{source}, profiles.{name}: a profile cannot choose or hold profiles.")
        # Checked for every profile: an error in `prod` must not wait for the day of the deployment.
        try:
            convert(_merged(raw, table), Config, source)
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{source}, ", f"{source}, profiles.{name}.", 1)) from None
    return file_config.profiles.get(profile, {})


def _merged(base: Mapping[str, JsonValue], overrides: Mapping[str, JsonValue]) -> JsonObject:
    """``base`` with the values of ``overrides``; tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in overrides.items():
        base_value = merged.get(key)
        if isinstance(base_value, dict) and isinstance(value, dict):
            merged[key] = _merged(cast("JsonObject", base_value), cast("JsonObject", value))
        else:
            merged[key] = value
    return merged


def _overridden(config: Config, environ: Mapping[str, str]) -> Config:
    sync = environ.get("LINESTOP_SYNC") or config.nats.sync
    if sync not in get_args(Sync):
        raise ConfigError(f"LINESTOP_SYNC is {sync!r}: use one of {', '.join(get_args(Sync))}.")
    nats = msgspec.structs.replace(config.nats, url=environ.get("LINESTOP_NATS") or config.nats.url, sync=sync)
    worker = {
        name: _whole_number(variable, environ.get(variable), getattr(config.worker, name))
        for name, variable in WORKER_VARIABLES.items()
    }
    return msgspec.structs.replace(
        config,
        nats=nats,
        worker=WorkerLimits(**worker),
        dir=environ.get("LINESTOP_DIR") or config.dir,
        tenant=environ.get("LINESTOP_TENANT") or config.tenant,
    )


def _whole_number(variable: str, text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or len(text) > DIGITS_MAX:
        raise ConfigError(f"{variable} is {text!r}: give a whole number, 0 for the default.")
    return int(text)


def _check(config: Config, source: str, environ: Mapping[str, str]) -> None:
    def location(key: str, variable: str) -> str:
        return variable if environ.get(variable) else f"{source}, {key}"

    try:
        check_name("tenant", config.tenant)
    except InputError as error:
        raise ConfigError(f"{location('tenant', 'LINESTOP_TENANT')}: {error}") from None
    for name, key in config.people.items():
        if not _is_public_key(key):
            raise ConfigError(
                f"{source}, people.{name}: an Ed25519 public key has {2 * ED25519_KEY_BYTES} hexadecimal digits."
            )
    if not config.dir or "\0" in config.dir:
        raise ConfigError(f"{location('dir', 'LINESTOP_DIR')}: name a folder, or leave it out.")
    if not 0 <= config.nats.port <= PORT_MAX:
        raise ConfigError(f"{source}, nats.port: {config.nats.port} is not a port: use 0 (any free one) to {PORT_MAX}.")
    if config.nats.url:
        require_urls(config.nats.url, location("nats.url", "LINESTOP_NATS"))
    _check_amounts(config, source, location)
    _check_paths(config, source)


def _check_amounts(config: Config, source: str, location: Callable[[str, str], str]) -> None:
    for name in config.accounts.__struct_fields__:
        if not 0 <= getattr(config.accounts, name) <= MICROS_MAX:
            raise ConfigError(f"{source}, accounts.{name}: give 0 to {MICROS_MAX:,} micro-dollars.")
    for name, variable in WORKER_VARIABLES.items():
        if not 0 <= (value := getattr(config.worker, name)) <= WORKER_LIMIT_MAX:
            sentence = f"{value} is not between 0 (by the cores) and {WORKER_LIMIT_MAX}"
            raise ConfigError(f"{location(f'worker.{name}', variable)}: {sentence}.")


def _check_paths(config: Config, source: str) -> None:
    """Check the values that are used only by a run, so that a mistake would appear long after the start."""
    for pattern in config.playbooks:
        if not pattern or "\0" in pattern:
            raise ConfigError(f"{source}, playbooks: {pattern!r} is not a path: name a file, or leave it out.")
    for name, secret in config.secrets.items():
        kind, _, rest = secret.partition(":")
        if kind not in {"env", "file"} or not rest:
            raise ConfigError(f"{source}, secrets.{name}: write env:NAME or file:PATH, never the secret itself.")
    if config.egress.allow:
        # Imported here: few commands need the module, and all of them read the project.
        from linestop.sandbox.http.addresses import parse_allow  # noqa: PLC0415

        try:
            parse_allow(config.egress.allow)
        except ConfigError as error:
            raise ConfigError(f"{source}, egress.{str(error).removesuffix('.')}.") from None


def _is_public_key(key: str) -> bool:
    try:
        return len(bytes.fromhex(key)) == ED25519_KEY_BYTES
    except ValueError:
        return False
