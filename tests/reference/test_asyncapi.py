"""The AsyncAPI document and the reference of all subjects and events."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from tests.builders import NOW

from linestop.bus.cloud_events import HEADER_NAMES, event_headers
from linestop.bus.streams.stream_definitions import streams
from linestop.reference.asyncapi import asyncapi
from linestop.reference.asyncapi_channels import CHANNELS
from linestop.reference.events_page import events_markdown
from linestop.reference.json_schema import NAMED_EVENTS
from linestop.schemas import subjects

DOCS = Path(__file__).parents[2] / "docs"
SPECS = "@asyncapi/specs@6.11.1"


def _install(directory: Path) -> dict[str, Any]:
    """Install the official meta-schema of AsyncAPI 3.1 from its npm package."""
    npm = shutil.which("npm")
    command = [
        npm or "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(directory),
        SPECS,
    ]
    done = None if npm is None else subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done is None or done.returncode:
        why = f"{SPECS} cannot be installed: {done.stderr if done else 'there is no npm'}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    found = directory / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.1.0.json"
    schema: dict[str, Any] = msgspec.json.decode(found.read_bytes())
    return schema


def test_the_document_fits_the_official_meta_schema(tmp_path: Path) -> None:
    """AsyncAPI's own schema of 3.1 accepts it, and would not accept anything."""
    validator = jsonschema_rs.validator_for(_install(tmp_path), offline=True)
    document = asyncapi("1.2.3")
    assert [str(error) for error in validator.iter_errors(document)] == []
    document["channels"]["tasks"]["adress"] = "tasks"
    assert not validator.is_valid(document)


def test_every_reference_in_the_document_has_its_target() -> None:
    """Every schema, message and channel that the document names is in it."""
    document = asyncapi("1.2.3")
    references = set(re.findall(r'"\$ref":"#/([^"]+)"', msgspec.json.encode(document).decode()))
    assert references
    for ref in references:
        found: Any = document
        for part in ref.split("/"):
            found = found[part]


def test_every_event_has_its_channel() -> None:
    """One channel for each event of each role, and one for the stop that every role may append."""
    addresses = {channel["address"] for channel in asyncapi("1.2.3")["channels"].values()}
    for name in NAMED_EVENTS:
        role, _, event = name.partition(".")
        speaking_role = "{role}" if event == "stopped" else role
        assert f"runs.{{tenant}}.{{run}}.{speaking_role}.{event}.{{n}}" in addresses


def test_every_stored_outgoing_message_has_a_trace_and_the_attributes_of_a_cloud_event() -> None:
    """The document names the headers of events, outcomes, alerts and dead letters as the messages have them."""
    named = set(event_headers("00-…", event_id="1", role="recorder", kind="outcome", subject="r", at=NOW))
    assert named == set(HEADER_NAMES)
    document = asyncapi("1.2.3")["components"]["messages"]
    for key in ("recorderSealed", "stopped", "outcomes", "alerts", "dead"):
        assert set(document[key]["headers"]["properties"]) == named
    assert "headers" not in document["deltas"]


def test_every_stream_that_a_channel_names_takes_its_subject() -> None:
    """The table of channels and the streams agree, and no stream of messages is left out."""
    filters = {spec.name: spec.config["subjects"] for spec in streams()}
    for channel in CHANNELS:
        if channel.stream:
            first = channel.address.split(".{", 1)[0]
            assert any(first.startswith(pattern.removesuffix(".>")) for pattern in filters[channel.stream])
    # CLIENTS stores the messages of the channel `control` from clients; PROBES stores only test messages.
    named = {channel.stream for channel in CHANNELS} | {"RUNS", "CLIENTS", "PROBES"}
    assert {name for name in filters if not name.startswith("KV_")} <= named


def test_the_addresses_have_the_forms_of_the_subjects() -> None:
    """The grammar of subjects, as the module that builds them documents it, has the same forms."""
    grammar = set(re.findall(r"^    (\S+\.<\S+)", subjects.__doc__ or "", flags=re.MULTILINE))
    addresses = {channel.address.replace("{", "<").replace("}", ">") for channel in CHANNELS}
    missing = {form for form in grammar if form not in addresses} - {
        "runs.<tenant>.<run>.<role>.<event>.<n>",
        "live.<subject>",
    }
    assert missing == set()


def test_the_reference_page_is_up_to_date() -> None:
    """A change of an event or a channel needs a new page; the page says how to write it."""
    assert (DOCS / "events.md").read_text(encoding="utf-8") == events_markdown()
