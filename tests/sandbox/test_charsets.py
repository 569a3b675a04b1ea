"""The charsets of a response that are accepted."""

from __future__ import annotations

import pytest

from linestop.sandbox.http.transport import readable_content_type


@pytest.mark.parametrize(
    ("content_type", "read"),
    [
        ("text/html; charset=ISO-8859-15", "text/html; charset=ISO-8859-15"),
        ("text/html; charset=Shift_JIS", "text/html; charset=Shift_JIS"),
        ("text/plain", "text/plain"),
        ("text/plain; charset=punycode", "text/plain"),
        ("text/plain; charset=idna", "text/plain"),
        ("text/plain; charset=zip", "text/plain"),
        ("text/plain; charset=unicode_escape", "text/plain"),
        ("text/plain; charset=nonsense", "text/plain"),
        ("application/json; charset=rot13", "application/json"),
    ],
)
def test_only_charsets_of_text_are_accepted(content_type: str, read: str) -> None:
    """A codec that takes quadratic time, or returns no text, is never used."""
    assert readable_content_type(content_type) == read
