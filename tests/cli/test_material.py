"""The file of ``linestop run --material``."""

from __future__ import annotations

from pathlib import Path

import pytest

from linestop.cli.command_input import material
from linestop.errors import InputError, TooLarge
from linestop.schemas.defaults import MATERIAL_BYTES_MAX


def test_a_text_file_is_read_whole(tmp_path: Path) -> None:
    """As it is, up to the limit; without a file there is none."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear shop, é", encoding="utf-8")
    assert material(str(path)) == "Dear shop, é"
    assert not material("")


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (b"\xff", InputError, "is not UTF-8 text"),
        (b"x" * (MATERIAL_BYTES_MAX + 1), TooLarge, "has more than"),
        ("é".encode() * MATERIAL_BYTES_MAX, TooLarge, "has more than"),
        (None, InputError, "cannot be read"),
    ],
)
def test_unusable_material_is_refused_in_one_sentence(
    tmp_path: Path, data: bytes | None, error: type[Exception], sentence: str
) -> None:
    """A missing file, a file that is not text, or one that is too large."""
    path = tmp_path / "letter.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(error, match=sentence):
        material(str(path))
