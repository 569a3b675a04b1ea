"""The providers: each translates ``linestop.schemas.model_messages`` to one API and back.

Importing this package imports no SDK; ``open_model`` imports the one it needs, because each costs a second of
CPU and 40 to 70 MB.
"""

from __future__ import annotations

import importlib
import os
import re

from linestop.errors import ConfigError
from linestop.models.providers import MODEL_FORMS, PROVIDERS, check_base_url, key_variable
from linestop.schemas.model_messages import NO_KEY, ModelClient, ToolMode

_KEY = re.compile(r"[!-~]+")

__all__ = ["ToolMode", "import_sdk", "open_model"]


def open_model(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    api_key_env: str = "",
    tool_mode: ToolMode = "auto",
) -> ModelClient:
    """Open a client for ``<provider>/<name>``, with a provider of ``models.providers``.

    Args:
        model: Provider and name. ``playbook`` is a scripted model and needs the ``base_url`` of its server.
        base_url: Of a compatible server; the provider's own by default.
        api_key: By default from ``api_key_env``.
        api_key_env: The variable that holds the key of this server. By default ANTHROPIC_API_KEY or
            OPENAI_API_KEY at the provider's own host, and no key elsewhere: the key of one host is never sent to
            another.
        tool_mode: See ``docs/models.md``. ``auto`` is ``native``, except for ``openai/`` with a ``base_url``, where
            the first answer decides.

    Raises:
        ConfigError: for an unknown provider, a missing key or an impossible ``base_url``.
    """
    provider, _, name = model.partition("/")
    if provider not in PROVIDERS or not name:
        raise ConfigError(f'The model "{model}" is not known: write {MODEL_FORMS}.')
    if base_url is not None:
        check_base_url(model, base_url)
    key = api_key or _key_of(model, base_url, api_key_env)
    if tool_mode == "json_schema" and not PROVIDERS[provider].has_json_schema:
        raise ConfigError(f'tool_mode "json_schema" of {model} is for OpenAI-compatible servers; remove it.')
    client: ModelClient = importlib.import_module(PROVIDERS[provider].module).open_client(
        model, key, base_url, tool_mode
    )
    return client


def import_sdk(model: str) -> None:
    """Import what ``open_model`` needs for this model: an SDK takes up to a second, so call this in a thread."""
    provider = model.partition("/")[0]
    if provider in PROVIDERS:
        importlib.import_module(PROVIDERS[provider].module)


def _key_of(model: str, base_url: str | None, api_key_env: str) -> str:
    variable = key_variable(model, base_url, api_key_env)
    if not variable:
        return NO_KEY
    key = os.environ.get(variable, "").strip()
    if not key:
        remedy = "" if api_key_env else ", or use playbook/<name>"
        raise ConfigError(f'The model "{model}" needs a key: set {variable}{remedy}.')
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{variable} does not hold a key: it contains a blank, a line break or an accent.")
    return key
