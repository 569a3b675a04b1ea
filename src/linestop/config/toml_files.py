"""TOML files, read and converted to types strictly; an error is one sentence with file and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from linestop.bus.read_file import read_regular
from linestop.config.known_values import known_values
from linestop.errors import ConfigError
from linestop.schemas.json_values import JsonObject, JsonValue

FILE_BYTES_MAX: Final = 1024 * 1024
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
T = TypeVar("T")


def read_toml(path: Path) -> JsonObject:
    """Read a TOML file of at most ``FILE_BYTES_MAX``, or raise ``ConfigError`` naming it."""
    return parse_toml(read_text(path, str(path)), str(path))


def parse_toml(text: str, source: str) -> JsonObject:
    """Read TOML, or raise ``ConfigError`` naming ``source``."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{source} is not TOML: its values are nested too deeply.") from None
    except ValueError as error:
        # Invalid TOML, or a number with more digits than Python reads.
        raise ConfigError(f"{source} is not TOML: {error}.") from None


def read_text(path: Path, location: str) -> str:
    """Read a text file of at most ``FILE_BYTES_MAX``; ``location`` names it by file and key."""
    label = location if location == str(path) else f"{location}: {path}"
    try:
        data, _ = read_regular(path, FILE_BYTES_MAX)
        # Some editors begin a file with a byte order mark, which does not belong to the text.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{label} is not UTF-8 text.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{label} cannot be read ({reason}).") from None


def convert(raw: Mapping[str, JsonValue], kind: type[T], source: str) -> T:
    """Convert the content of a TOML file to ``kind``, strictly, or raise ``ConfigError`` with file and key."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        sentence = str(error)
        match = _PATH.search(sentence)
        key = match.group(1) if match else ""
        known = known_values(kind, key, of_keys="`key` in" in sentence)
        message = f"{_PATH.sub('', sentence)}" + (f"; there is {known}" if known else "")
        if "price" in key and "got `float`" in sentence:
            message += "; a price is a whole number of micro-dollars per million tokens, so $0.15 is 150000"
        raise ConfigError(f"{source}, {key or 'the top level'}: {message}.") from None
