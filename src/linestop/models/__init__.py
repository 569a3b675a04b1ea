"""The providers: each turns ``linestop.schemas.model`` into one API and back.

Importing this package imports no SDK; ``open_model`` imports the one it needs, because each costs a second of
CPU and 40 to 70 MB.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

from linestop.errors import ConfigError
from linestop.schemas.model import ModelClient, ToolMode

_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
_NO_KEY = "none"
_ENDPOINTS = ("/completions", "/messages", "/responses")

__all__ = ["ToolMode", "check_base_url", "open_model"]


def open_model(
    model: str, *, base_url: str | None = None, api_key: str | None = None, tool_mode: ToolMode = "auto"
) -> ModelClient:
    """Open a client for ``anthropic/<name>``, ``openai/<name>`` or ``playbook/<name>``.

    Args:
        model: Provider and name. ``playbook`` is a scripted model and needs the ``base_url`` of its server.
        base_url: Of a compatible server; the provider's own by default.
        api_key: By default from ANTHROPIC_API_KEY or OPENAI_API_KEY, which are never sent to a loopback
            server: none needs them there.
        tool_mode: See ``docs/models.md``. ``auto`` is ``native`` but for ``openai/`` with a ``base_url``, where
            the first answer decides.

    Raises:
        ConfigError: for an unknown provider, a missing key or an impossible ``base_url``.
    """
    provider, _, name = model.partition("/")
    if provider not in (*_KEYS, "playbook") or not name:
        raise ConfigError(
            f'The model "{model}" is not known: write anthropic/<name>, openai/<name> or playbook/<name>.'
        )
    if base_url is not None:
        check_base_url(model, base_url)
    if provider == "playbook":
        return _open_playbook(model, base_url, tool_mode)
    key = api_key or _key(model, provider, base_url)
    if provider == "anthropic":
        if tool_mode == "json_schema":
            raise ConfigError(f'tool_mode "json_schema" of {model} is for OpenAI-compatible servers; remove it.')
        from linestop.models import anthropic  # noqa: PLC0415 - imported only when it is used

        return anthropic.AnthropicClient(key, base_url or anthropic.BASE_URL)
    from linestop.models import openai  # noqa: PLC0415 - imported only when it is used

    return openai.OpenAIClient(key, base_url or openai.BASE_URL, tool_mode=tool_mode)


def _open_playbook(model: str, base_url: str | None, tool_mode: ToolMode) -> ModelClient:
    if base_url is None:
        raise ConfigError(f'The model "{model}" needs base_url, the address of the playbook server.')
    from linestop.models.openai import OpenAIClient  # noqa: PLC0415 - imported only when it is used

    root = base_url.rstrip("/").removesuffix("/v1")
    return OpenAIClient(_NO_KEY, f"{root}/v1", tool_mode="native" if tool_mode == "auto" else tool_mode)


def _key(model: str, provider: str, base_url: str | None) -> str:
    if base_url is not None and _is_loopback(base_url):
        return _NO_KEY
    key = os.environ.get(_KEYS[provider], "").strip()
    if not key:
        raise ConfigError(f'The model "{model}" needs a key: set {_KEYS[provider]}, or use playbook/<name>.')
    return key


def check_base_url(model: str, base_url: str) -> None:
    """Refuse an address that no client could be opened with.

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


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
