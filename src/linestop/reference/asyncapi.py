"""The AsyncAPI 3.1 document: every channel, message and schema of the bus, for programs to read.

AsyncAPI's binding for NATS knows queue groups only, so the promises of a stream and its consumers are in
``x-jetstream``.
"""

from __future__ import annotations

import re
from typing import Final

from linestop.bus.cloud_events import HEADER_NAMES
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers, streams
from linestop.reference.asyncapi_channels import CHANNELS, PARAMETERS, Channel
from linestop.reference.json_schema import NAMED_EVENTS, Document, components, docstring_markdown
from linestop.schemas.json_values import JsonObject
from linestop.schemas.messages import REPLY_HEADER, Reply
from linestop.schemas.run.phases import STOPPED
from linestop.schemas.subjects import ROLES, VERBS

VERSION: Final = "3.1.0"
_REPLY_CHANNEL: Final = "reply"
_REPLIES: Final[Document] = {
    "address": None,
    "description": "The reply to a task or a control message, on the inbox that its sender named.",
    "messages": {_REPLY_CHANNEL: {"$ref": f"#/components/messages/{_REPLY_CHANNEL}"}},
}
_SCHEMAS: Final = "#/components/schemas/{name}"
_ENUMS: Final[dict[str, tuple[str, ...]]] = {"role": ROLES, "verb": VERBS}
_STREAM_SETTINGS_SHOWN: Final = (
    "retention",
    "discard",
    "max_age",
    "max_bytes",
    "max_msg_size",
    "max_msgs_per_subject",
    "deny_delete",
    "deny_purge",
    "allow_msg_schedules",
    "republish",
)
_BODIES: Final[dict[str, tuple[str, Document]]] = {
    "json": ("application/json", {"type": "object"}),
    "text": ("text/plain", {"type": "string"}),
    "bytes": ("application/octet-stream", {"type": "string", "format": "binary"}),
    "none": ("application/octet-stream", {"type": "string", "maxLength": 0}),
}


def asyncapi(version: str) -> Document:
    """Return the document; ``version`` is that of linestop, and so of the events."""
    log = [_event_channel(name) for name in NAMED_EVENTS if not name.endswith(f".{STOPPED}")]
    log.append(_event_channel(f"{ROLES[0]}.{STOPPED}"))
    channels = [*CHANNELS, *log]
    structs = [c.payload for c in channels if isinstance(c.payload, type)]
    return {
        "asyncapi": VERSION,
        "info": {"title": "linestop", "version": version, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {"bus": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "The bus, by default."}},
        "channels": {**{channel.key: _channel(channel) for channel in channels}, _REPLY_CHANNEL: _REPLIES},
        "operations": {_operation_name(channel): _operation(channel) for channel in channels},
        "components": {
            "schemas": components([*structs, Reply], ref=_SCHEMAS),
            "messages": {
                **{channel.key: _message(channel) for channel in channels},
                _REPLY_CHANNEL: {
                    "name": _REPLY_CHANNEL,
                    "contentType": "application/json",
                    "payload": {"$ref": _SCHEMAS.format(name="Reply")},
                },
            },
        },
    }


def _event_channel(name: str) -> Channel:
    """Return the channel of one event of the run log; any role may append a stop, so its role is a parameter."""
    role, _, event = name.partition(".")
    return Channel(
        key=STOPPED if event == STOPPED else f"{role}{event.title()}",
        address=f"runs.{{tenant}}.{{run}}.{'{role}' if event == STOPPED else role}.{event}.{{n}}",
        direction="out",
        payload=NAMED_EVENTS[name],
        stream=stream_names.RUNS,
        is_ordered=True,
        description=docstring_markdown(NAMED_EVENTS[name].__doc__ or ""),
    )


def _channel(channel: Channel) -> Document:
    document: Document = {
        "address": channel.address,
        "description": channel.description,
        "messages": {channel.key: {"$ref": f"#/components/messages/{channel.key}"}},
        "parameters": {name: _parameter(name) for name in re.findall(r"\{(\w+)\}", channel.address)},
    }
    if channel.stream:
        document["x-jetstream"] = _jetstream(channel)
    return document


def _parameter(name: str) -> Document:
    document: Document = {"description": PARAMETERS[name]}
    if name in _ENUMS:
        document["enum"] = list(_ENUMS[name])
    return document


def _jetstream(channel: Channel) -> Document:
    """Return the stream behind a channel and its consumers."""
    config = next(spec.config for spec in streams() if spec.name == channel.stream)
    pulled = [spec.name for spec in consumers() if spec.stream == channel.stream]
    document: Document = {
        "stream": channel.stream,
        "subjects": config["subjects"],
        **{key: config[key] for key in _STREAM_SETTINGS_SHOWN if key in config},
        "consumers": pulled,
    }
    if channel.is_ordered:
        document["concurrencyFilter"] = f"{channel.address.partition('.')[0]}.{{tenant}}.{{run}}.>"
    return document


def _operation_name(channel: Channel) -> str:
    return f"{'receive' if channel.direction == 'in' else 'send'}{channel.key[:1].upper()}{channel.key[1:]}"


def _operation(channel: Channel) -> Document:
    document: Document = {
        "action": "receive" if channel.direction == "in" else "send",
        "channel": {"$ref": f"#/channels/{channel.key}"},
        "summary": docstring_markdown(channel.description).split("\n", 1)[0],
        "messages": [{"$ref": f"#/channels/{channel.key}/messages/{channel.key}"}],
        "bindings": {"nats": {}},
    }
    if channel.direction == "in":
        document["reply"] = {
            "address": {
                "location": f"$message.header#/{REPLY_HEADER}",
                "description": "The inbox that the sender names; without one no reply is sent.",
            },
            "channel": {"$ref": f"#/channels/{_REPLY_CHANNEL}"},
            "messages": [{"$ref": f"#/channels/{_REPLY_CHANNEL}/messages/{_REPLY_CHANNEL}"}],
        }
    return document


def _message(channel: Channel) -> Document:
    content, body = ("application/json", {}) if isinstance(channel.payload, type) else _BODIES[channel.payload]
    if isinstance(channel.payload, type):
        body = {"$ref": _SCHEMAS.format(name=channel.payload.__name__)}
    document: Document = {"name": channel.key, "contentType": content, "payload": body}
    if headers := _headers(channel):
        document["headers"] = {"type": "object", "properties": headers}
    return document


def _headers(channel: Channel) -> JsonObject:
    text: Document = {"type": "string"}
    if channel.direction == "out" and channel.stream and channel.stream != stream_names.FORKS:
        # The events of a run carry none: everything is in the subject and the payload.
        return dict.fromkeys(HEADER_NAMES, text)
    if channel.direction == "in":
        return {REPLY_HEADER: {**text, "description": "The inbox for the reply."}}
    return {}


_DESCRIPTION: Final = """\
linestop runs AI agents on an event log that anyone can stop and everyone can check.

A run is a chain of events on `runs.{tenant}.{run}.{role}.{event}.{n}`. Each names the SHA-256 of the one
before (subject, NUL, payload), and an append that does not name the head is refused. Tenant, run, role, event
and number are read from the subject only.
"""
