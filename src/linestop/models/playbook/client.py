"""The client of a scripted model: its server speaks the API of OpenAI, and takes no key."""

from __future__ import annotations

from linestop.errors import ConfigError
from linestop.models.openai import OpenAIClient
from linestop.schemas.model_messages import NO_KEY, ModelClient, ToolMode


def open_client(model: str, key: str, base_url: str | None, tool_mode: ToolMode) -> ModelClient:
    """Open a client for ``playbook/<name>``; see ``models.providers``."""
    del key
    if base_url is None:
        raise ConfigError(f'The model "{model}" needs base_url, the address of the playbook server.')
    root = base_url.rstrip("/").removesuffix("/v1")
    return OpenAIClient(NO_KEY, f"{root}/v1", tool_mode="native" if tool_mode == "auto" else tool_mode)
