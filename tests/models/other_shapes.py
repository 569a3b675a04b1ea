"""A type with the name of another one in ``argument_shapes``, and other fields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Address:
    zip_code: int
