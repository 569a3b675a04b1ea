"""The providers, one row each, and what an agent file may say of a provider's server.

To add a provider: write a module with its client (a ``ModelClient``) and a function ``open_client``, and add its row
here.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from linestop.errors import ConfigError

PLAYBOOK: Final = "playbook"
"""The provider of scripted models; its server is started with the process."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENDPOINTS = ("/completions", "/messages", "/responses")


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One provider.

    ``module`` speaks its API: its ``open_client`` takes the model, the key, the ``base_url`` (None: the provider's own
    host) and the tool mode. ``key_variable`` is the environment variable of its key, and ``host`` its own host: the
    host is used without a ``base_url``, and that key is sent to it alone. ``has_json_schema`` says whether
    ``tool_mode = "json_schema"`` can be chosen.
    """

    name: str
    module: str
    key_variable: str = ""
    host: str = ""
    has_json_schema: bool = True


PROVIDERS: Final = {
    provider.name: provider
    for provider in (
        Provider(
            name="anthropic",
            module="linestop.models.anthropic",
            key_variable="ANTHROPIC_API_KEY",
            host="api.anthropic.com",
            has_json_schema=False,
        ),
        Provider(name="openai", module="linestop.models.openai", key_variable="OPENAI_API_KEY", host="api.openai.com"),
        Provider(name=PLAYBOOK, module="linestop.models.playbook.client"),
    )
}


MODEL_FORMS: Final = " or ".join(f"{name}/<name>" for name in PROVIDERS).replace(" or ", ", ", len(PROVIDERS) - 2)
"""How a model is written, for sentences: ``a/<name>, b/<name> or c/<name>``."""


def key_variable(model: str, base_url: str | None = None, api_key_env: str = "") -> str:
    """The variable that holds the key for ``model``; empty where no key is sent."""
    name = model.partition("/")[0]
    if api_key_env or name not in PROVIDERS:
        return api_key_env
    return PROVIDERS[name].key_variable if is_own_host(name, base_url) else ""


def is_own_host(provider: str, base_url: str | None) -> bool:
    """Whether an address is the provider's own, regional ones included; None and "" mean the provider's own."""
    if not base_url:
        return True
    provider_host = PROVIDERS[provider].host if provider in PROVIDERS else ""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    is_provider_host = host == provider_host or host.endswith(f".{provider_host}")
    return bool(provider_host) and parts.scheme == "https" and is_provider_host


def check_api_key_env(model: str, api_key_env: str) -> None:
    """Refuse a text that is not the name of a variable, without repeating it: it may be the key itself.

    Raises:
        ConfigError: in one sentence.
    """
    if model.partition("/")[0] == PLAYBOOK:
        raise ConfigError(f"{model} needs no key; remove api_key_env.")
    if not _VARIABLE.fullmatch(api_key_env):
        raise ConfigError(
            f"api_key_env of {model} is not the name of an environment variable; write the name, never the key itself."
        )


def check_base_url(model: str, base_url: str) -> None:
    """Refuse an address for which no client could be opened.

    Raises:
        ConfigError: in one sentence.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable:
        raise ConfigError(f'base_url "{base_url}" of {model} is not an http(s) address.')
    if "@" in parts.netloc:
        raise ConfigError(f"base_url of {model} holds a user name; keys come from the environment only.")
    if parts.path.rstrip("/").endswith(_ENDPOINTS) or parts.query or parts.fragment:
        raise ConfigError(f'base_url "{base_url}" of {model} names an endpoint; end it before that, e.g. with /v1.')
