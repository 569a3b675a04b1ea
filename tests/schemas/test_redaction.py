"""The removal of secrets."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linestop.schemas.defaults import SECRET_CHARS_MIN
from linestop.schemas.text import redaction
from linestop.schemas.text.redaction import PENDING_CHARS_MAX, Redactor, StreamRedactor

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
    """Prose, addresses, account numbers and digests are not secrets."""
    assert Redactor().text(text) == text


def test_a_known_secret_is_removed_in_every_form() -> None:
    """A value of the process is found plain, escaped, quoted and encoded."""
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
    """Every string of a JSON value is checked; everything else stays unchanged."""
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


@pytest.mark.timeout(60)
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
def test_hostile_text_takes_bounded_time(unit: str) -> None:
    """A megabyte of partial secrets takes seconds at most; a search that starts again at each would take hours."""
    text = unit * (1_000_000 // len(unit))
    assert Redactor().text(text)


@given(st.text())
def test_redaction_is_stable(text: str) -> None:
    """Redacting twice changes nothing more."""
    once = Redactor().text(text)
    assert Redactor().text(once) == once


def stream_redacted(redactor: Redactor, pieces: list[str]) -> list[str]:
    """Return the part of a text in pieces that is shown after each of them, and at its end."""
    stream = StreamRedactor(redactor)
    return [*(stream.add(piece) for piece in pieces), stream.finish()]


SECRETS = ("hunter2 hunter2", "r2 hunting", "rrrrrrrr", 'q"\u00e4/long' * 40)
SAMPLES = (
    *SHAPED.values(),
    *(f"{before}{LETTERS}" for before in ("Bearer ", "bearer:", "authorization: basic ", "hooks.slack.com/services/")),
    *(f"{before}{LETTERS}abcd" for before in ("sk-", "aws_secret_access_key=", 'AWS_SECRET_ACCESS_KEY": "')),
    "https://bob:hunter2@example.com/x",
    "xa" + "pp-1-" + LETTERS,
    "github" + "_pat_" + LETTERS,
    "sk-" + "svcacct-_" + LETTERS,
    "sk-" + "admin-_" + LETTERS,
    "bearer internationalization(1)",
    "bearer internationalization",
    "-----BEGIN CERTIFICATE-----\nMIIEow+/=\n-----END CERTIFICATE-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n" + "lQ-Ox\n" * 60 + "--x-----END " + "X " * 30 + "-----",
    "-----BEGIN PRIVATE KEY-----" + "a" * 200 + "-----END " + "X " * 31 + "-----",
    *SECRETS,
    json.dumps(SECRETS[3]),
    base64.b64encode(SECRETS[3].encode()).decode(),
)


def beginning(text: str, at: int) -> str:
    """Return a proper beginning of the text."""
    return text[: at % len(text)]


def end(text: str, at: int) -> str:
    """Return an end of the text, or all of it."""
    return text[at % len(text) :]


LIKE_SECRETS = ("", " ", "\n", ".", "-", "=", "@", "a", "\u5b57", "sk", "eyJ", "-----", "://")
PARTS = st.one_of(
    st.sampled_from(SAMPLES),
    st.builds(beginning, st.sampled_from(SAMPLES), st.integers(0, 999)),
    st.builds(end, st.sampled_from(SAMPLES), st.integers(0, 999)),
    st.sampled_from(LIKE_SECRETS),
    st.text(),
)


@st.composite
def pieces_of_text(draw: st.DrawFn) -> list[str]:
    """Draw pieces of a text: secrets, their beginnings and ends, similar text, and other text, cut anywhere."""
    text = "".join(draw(st.lists(PARTS, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    step = draw(st.sampled_from([0, 1, 3, 50]))
    places = sorted({0, *cuts, *(range(0, len(text), step) if step else ()), len(text)})
    return [text[start:stop] for start, stop in pairwise(places)]


@settings(max_examples=300)
@given(pieces_of_text())
def test_a_text_in_pieces_is_redacted_like_the_whole_text(pieces: list[str]) -> None:
    """This holds for every place of a cut, with known secrets and without."""
    for redactor in (Redactor(), Redactor(SECRETS)):
        assert "".join(stream_redacted(redactor, pieces)) == redactor.text("".join(pieces))


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_place_to_break_a_secret_shows_it(sample: str) -> None:
    """Character by character, and in two pieces at every place."""
    redactor = Redactor(SECRETS)
    text = f"so {sample}, it is"
    whole = redactor.text(text)
    assert "".join(stream_redacted(redactor, list(text))) == whole
    assert {"".join(stream_redacted(redactor, [text[:at], text[at:]])) for at in range(len(text))} == {whole}


@given(st.lists(st.text("hunter2 \n", max_size=9)), st.integers(0, 15))
def test_a_known_secret_that_comes_in_pieces_is_never_shown(pieces: list[str], at: int) -> None:
    """This holds for every place of a cut; other text comes out unchanged."""
    for secret in ("hunter2 hunter2", "rrrrrrrr"):
        shown = "".join(stream_redacted(Redactor([secret]), [*pieces, secret[:at], secret[at:], *pieces]))
        assert secret not in shown
        assert shown.replace("[redacted:secret]", secret) == "".join([*pieces, secret, *pieces])


@pytest.mark.parametrize(
    "text",
    [
        "Some words that say what was done, and why. " * 20,
        "\u8ba2\u5355\u5df2\u7ecf\u9000\u6b3e\u8bf7\u7a0d\u5019" * 60,
        "\u0437\u0430\u043a\u0430\u0437 \u043e\u0442\u043c\u0435\u043d\u0451\u043d, " * 40,
        '{"a":"bcdef","n":12345},' * 40,
        "| a | b |\n|---|---|\n----------------\n" * 20,
        "aGVsbG8gd29ybGQ" * 60,
    ],
)
def test_text_that_is_not_a_secret_is_shown_at_once(text: str) -> None:
    """In any language, with or without blanks, and with known secrets of any length, only a few characters wait."""
    stream = StreamRedactor(Redactor(["k3y/+" * 480, "hunter2hunter2"]))
    chars_shown = 0
    for at in range(0, len(text), 4):
        chars_shown += len(stream.add(text[at : at + 4]))
        assert chars_shown >= min(at + 4, len(text)) - 8
    assert chars_shown + len(stream.finish()) == len(text)


def test_a_private_key_of_any_length_is_replaced_and_the_text_after_it_is_shown() -> None:
    """Its end is found without storing the key."""
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQ--\n" * 4000 + "-----END PRIVATE KEY-----"
    text = f"x {key} y"
    assert "".join(stream_redacted(Redactor(), [text[at : at + 7] for at in range(0, len(text), 7)])) == (
        "x [redacted:private_key] y"
    )


@pytest.mark.parametrize(
    ("begin", "secret"), [("bearer ", "b4" * PENDING_CHARS_MAX), ("", "r" * 2 * PENDING_CHARS_MAX)]
)
def test_an_endless_apparent_secret_ends_the_shown_text(begin: str, secret: str) -> None:
    """Its end is unknown, so neither it nor the text after it is shown, and memory stays bounded."""
    shown = stream_redacted(
        Redactor(["rrrrrrrr"]),
        [*([f"so {begin}"] + [secret[at : at + 50] for at in range(0, len(secret), 50)]), " it is"],
    )
    assert "".join(shown) == f"so {begin}[redacted:long]"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["a", "ab ", "Q", "sk-ant-", "eyJ", " eyJaaaaaaaa.eyJaaaaaaaa", "bearer ", "://a:", "-----BEGIN "]
)
def test_hostile_pieces_take_bounded_time(unit: str) -> None:
    """Small pieces beside a long known secret: shown text is not searched again."""
    text = unit * (1_000_000 // len(unit))
    redactor = Redactor(["s" * 10, "Q" * 4000])
    assert stream_redacted(redactor, [text[at : at + 8] for at in range(0, len(text), 8)])


UNITS = (
    "sk-", "sk-ant-", "a", "A1", "://", "u:p@", "bearer ", "Bearer:", "-----BEGIN PRIVATE KEY-----", "-", "eyJ", ".",
    "-----END PRIVATE KEY-----", " ", "\n", "AKIA", "ASIA0123456789ABCDEF", "ghp_", "x" * 40, "9" * 70, "@", ":", "é",
    "github_pat_", "aws_secret_access_key=", "hooks.slack.com/services/", "/", "authorization: basic ",
)  # fmt: skip


@given(st.lists(st.sampled_from(UNITS), max_size=60), st.integers(1, 400))
def test_a_long_text_is_redacted_in_windows_like_in_one_search(units: list[str], window: int) -> None:
    """A window may end within a credential, within its anchor, or within the text after it."""
    text = "".join(units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redaction, "_WINDOW_CHARS", len(text) + 1)
        at_once = Redactor().text(text)
        patch.setattr(redaction, "_WINDOW_CHARS", window)
        assert Redactor().text(text) == at_once
