"""Calls that cannot be made in any state of the run: secrets are removed from their arguments.

The arguments of a call that is made must stay exactly as the model wrote them. Arguments for an unknown tool, or ones
that do not fit the tool's schema, are never used, but the log, prompts, alerts and exports would repeat them.
The validator judges the redacted form and must reject that, too: a value that was too long with a secret in it
may fit without the secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.model_messages import ToolCall
from linestop.schemas.strict_json import decode_strict
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.tool_contracts import Contract, canonical

REMOVED: Final = '"[redacted arguments]"'
"""Replaces arguments that would be valid without their secrets: a text is never a valid object of arguments."""

_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\(/)")


def clean_call(call: ToolCall, tools: Sequence[Contract], redactor: Redactor) -> ToolCall:
    """Return the call as it is if it can be made or holds no secret, else with its secrets replaced.

    Args:
        call: The call as the model wrote it.
        tools: The tools of the run.
        redactor: Replaces the secrets.
    """
    contract = next((contract for contract in tools if contract.name == call.name), None)
    name = call.name if contract is not None else redactor.text(call.name)
    args = _unescape(call.args)
    if (redactor.is_clean(call.args) and redactor.is_clean(args)) or _fits(call.args, contract):
        return call if name == call.name else msgspec.structs.replace(call, name=name)
    try:
        value = decode_strict(call.args)
        clean = redactor.value(value)
        text = call.args if clean == value else canonical(clean).decode()
    except ValueError:
        clean = redactor.text(args)
        text = call.args if clean == args else clean
    if _fits(text, contract):
        text = REMOVED
    return msgspec.structs.replace(call, name=name, args=text)


def _fits(args: str, contract: Contract | None) -> bool:
    return contract is not None and check_arguments(args, contract).args is not None


def _unescape(text: str) -> str:
    """Return JSON text with escaped characters written out, as far as that is possible without decoding the JSON."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
