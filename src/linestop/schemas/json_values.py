"""Decoded JSON, as a type: what others wrote, and what code reads with care."""

from __future__ import annotations

from typing import Any, TypeAlias

JsonValue: TypeAlias = Any
"""Any JSON value. What it is must be checked before it is used."""

JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object, such as a JSON Schema, the arguments of a call or the body of a request."""
