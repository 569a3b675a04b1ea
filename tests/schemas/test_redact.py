"""The removal of secrets."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linestop.schemas.redact import HELD_CHARS_MAX, SECRET_CHARS_MIN, Pieces, Redactor

# Made up here, piece by piece, so that no scanner takes this file for a leak.
LETTERS = "abcdEFGH1234ijklMNOP5678qrstUVWX90yz"
SHAPED = {
    "anthropic_key": "sk-" + "ant-api03-" + LETTERS,
    "openai_key": "sk-" + "proj-" + LETTERS,
    "aws_key_id": "AK" + "IAIOSFODNN7EXAMPLE",
    "github_token": "gh" + "p_" + LETTERS + "ab12",
    "slack_token": "xo" + "xb-123456789012-" + LETTERS,
    "jwt": "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIEow+/=\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", SHAPED)
def test_a_credential_is_known_by_its_shape(kind: str) -> None:
    """Each well-known shape is replaced by its kind, and the text around it stays."""
    assert Redactor().text(f"before {SHAPED[kind]} after") == f"before [redacted:{kind}] after"


def test_a_password_in_a_url_is_removed_and_the_host_stays() -> None:
    """The reader still sees where a request went."""
    assert (
        Redactor().text("GET https://bob:hunter2@example.com/x") == "GET https://[redacted:url_password]@example.com/x"
    )


@pytest.mark.parametrize("line", ["Authorization: Bearer {}", "authorization: basic {}", "bearer {}"])
def test_a_bearer_token_is_removed(line: str) -> None:
    """Authorization headers lose their value, whatever their case."""
    assert Redactor().text(line.format(LETTERS)) == line.format("[redacted:bearer]")


def test_a_key_that_was_cut_off_is_removed_too() -> None:
    """A PEM block without its end line is still a key."""
    assert Redactor().text("x -----BEGIN PRIVATE KEY-----\nMIIEvQ") == "x [redacted:private_key]"


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn is a library",
        "the bearer of this letter",
        "see https://example.com/a:b@c and mailto:someone@example.com",
        "DE89 3704 0044 0532 0130 00",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "eyJ is how it begins",
    ],
)
def test_ordinary_text_is_untouched(text: str) -> None:
    """Prose, addresses, account numbers and digests are no secrets."""
    assert Redactor().text(text) == text


def test_a_known_secret_is_removed_in_every_form() -> None:
    """A value the process holds is found as it is, escaped, quoted and encoded."""
    secret = 'p"a ss/w+örd?\n'
    raw = secret.encode()
    forms = (
        secret,
        json.dumps(secret),
        quote(secret, safe=""),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    )
    for form in forms:
        redacted = Redactor([secret]).text(f"<{form}>")
        assert "[redacted:secret]" in redacted
        assert form not in redacted


def test_a_short_secret_is_not_replaced() -> None:
    """Removing a word of a few letters would destroy texts and betray the word."""
    assert Redactor(["x" * (SECRET_CHARS_MIN - 1), ""]).text("x" * 7) == "x" * 7


def test_values_are_redacted_inside_and_keys_too() -> None:
    """Every string of a JSON value is looked at; everything else stays what it is."""
    key = SHAPED["github_token"]
    value = {"a": [1, None, {"b": f"t={key}"}], key: True}
    assert Redactor().value(value) == {
        "a": [1, None, {"b": "t=[redacted:github_token]"}],
        "[redacted:github_token]": True,
    }


def test_nesting_is_bounded() -> None:
    """A value nested beyond any result is refused instead of exhausting the stack."""
    value: object = "x"
    for _ in range(500):
        value = [value]
    with pytest.raises(ValueError, match="nested deeper"):
        Redactor().value(value)


def test_the_redactor_does_not_show_its_secrets() -> None:
    """Its repr may be logged."""
    assert "hunter2hunter2" not in repr(Redactor(["hunter2hunter2"]))


@pytest.mark.parametrize(
    "unit",
    [
        "eyJ",
        "eyJaaaaaaaaa.",
        " eyJaaaaaaaa.eyJaaaaaaaa",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "://a:",
        "://" + "a" * 100,
        "bearer ",
        "sk-ant-",
        "xoxb-",
        "A" * 40,
        "AKIA",
        "aws_secret_access_key=",
    ],
)
def test_time_grows_linearly_on_hostile_text(unit: str) -> None:
    """Four times the text takes about four times as long, not sixteen."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        best = 1e9
        for _ in range(3):
            begin = time.perf_counter()
            Redactor().text(text)
            best = min(best, time.perf_counter() - begin)
        return best

    assert seconds(400_000) < 10 * seconds(100_000) + 0.02


@given(st.text())
def test_redaction_is_stable(text: str) -> None:
    """Redacting twice changes nothing more."""
    once = Redactor().text(text)
    assert Redactor().text(once) == once


def shown(redactor: Redactor, pieces: list[str]) -> list[str]:
    """What of a text in pieces is shown after each of them, and at its end."""
    held = Pieces(redactor)
    return [*(held.add(piece) for piece in pieces), held.rest()]


@given(st.lists(st.text("hunter2 \n", max_size=9)), st.integers(0, 15))
def test_a_known_secret_that_comes_in_pieces_is_never_shown(pieces: list[str], at: int) -> None:
    """Wherever it is broken; and what is no secret comes out as it went in."""
    for secret in ("hunter2 hunter2", "rrrrrrrr"):
        told = "".join(shown(Redactor([secret]), [*pieces, secret[:at], secret[at:], *pieces]))
        assert secret not in told
        assert told.replace("[redacted:secret]", secret) == "".join([*pieces, secret, *pieces])


def test_a_text_in_pieces_is_shown_word_by_word_and_never_kept_back_for_long() -> None:
    """Watchers see it grow, also where nobody writes blanks between words."""
    assert shown(Redactor(), ["Hel", "lo the", "re you"]) == ["", "Hello ", "there ", "you"]
    without = shown(Redactor(["hunter2hunter2"]), ["\u5b57" * 100] * 10)
    assert max(len(piece) for piece in without) <= HELD_CHARS_MAX + 120
    assert sum(1 for piece in without if piece) > 1
