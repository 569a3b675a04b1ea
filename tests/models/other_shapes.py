"""A type that shares its name with one in ``argument_shapes``, but has other fields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Address:
    zip_code: int
