"""Warnings about letters that look like others, and about invisible characters."""

from __future__ import annotations

import msgspec
import pytest
from tests.cli.test_output import asked

from linestop.cli.approval_questions import question_text
from linestop.cli.output.lookalikes import WORDS_SHOWN, lookalikes
from linestop.cli.output.terminal_escape import escape_controls


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("to p\u0430ypal.com", "mixes alphabets: Latin"),
        ("ann@ex\u03b1mple.org", "Greek \u03b1 (U+03B1)"),
        ("\u0441\u043e\u0440\u0435", "has no Latin letter"),
        ("\uff50\uff41\uff59\uff50\uff41\uff4c", "other characters than 'paypal'"),
        ("\U0001d429ay", "other characters than 'pay'"),
        ("\u0261oogle.com", "other characters than 'google.com': \u0261 (U+0261)"),
        ("pay\u1d18al", "is written with other characters"),
        ("\u217copez", "other characters than 'lopez'"),
        ("\u2160BM", "other characters than 'IBM'"),
        ("\u216f", "other characters than 'M'"),
        ("PAYPA\ua4e1", "mixes alphabets: Latin P (U+0050), Lisu \ua4e1 (U+A4E1)"),
        ("\ua4d0\ua4e2\ua4df", "has no Latin letter"),
        ("\u13a2BM", "mixes alphabets"),
        ("p\u0561ypal", "mixes alphabets"),
        ("g\U00010404ogle", "mixes alphabets"),
        ("goog1e\u0585", "mixes alphabets"),
        ("\u24d0pple", "other characters than 'apple'"),
        ("\U0001f150pple", "other characters than 'Apple'"),
        ("\U0001f130PPLE", "other characters than 'APPLE'"),
        ("\u1d56aypal", "other characters than 'paypal'"),
        ("of\ufb01ce.com", "other characters than 'office.com'"),
        ("tw\u0131tter.com", "other characters than 'twitter.com'"),
        ("\U0001d7d2711x", "other characters than"),
        ("p\u0251ypal", "other characters than 'paypal'"),
        ("\u212aelvin", "other characters than 'Kelvin'"),
    ],
)
def test_a_word_that_may_be_read_as_another_is_named(text: str, sentences: str) -> None:
    """The sentence has its alphabets and the code of the letter."""
    [sentence] = lookalikes(text)
    assert sentences in sentence


@pytest.mark.parametrize(
    "text",
    [
        "paypal.com",
        "Größe, naïve café",
        "привет мир",
        "Ωμέγα και",
        "漢字かな",
        "4250",
        "",
        "\u05e9\u05dc\u05d5\u05dd",
        "kap\u0131 \u0131\u015f\u0131k",
        "12 m\u00b2 1\u00aa n\u00ba",
        "Wi-Fi\u30eb\u30fc\u30bf\u30fc T\u30b7\u30e3\u30c4",
        "\u00e6ble \u0153uvre \u00f8re \u0142\u00f3d\u017a \u00df",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
        "\uc548\ub155",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u00bd \u2122 \u2116 5",
        "Ti\u1ebfng Vi\u1ec7t",
    ],
)
def test_honest_words_of_any_language_are_not_named(text: str) -> None:
    """A word in a single alphabet is not reported."""
    assert lookalikes(text) == []


def test_many_words_are_bounded() -> None:
    """A question stays readable."""
    assert len(lookalikes(" ".join(f"p\u0430y{chr(97 + i)}" for i in range(20)))) == WORDS_SHOWN


@pytest.mark.parametrize(
    "char",
    [
        "\U000e0041",
        "\U000e0001",
        "\ufe0f",
        "\U000e0100",
        "\u3164",
        "\uffa0",
        "\u115f",
        "\u2800",
        "\u00ad",
        "\u034f",
        "\u180e",
        "\u2061",
        "\u206a",
        "\ufff9",
        "\ue000",
        "\U0010fffd",
        "\u200b",
        "\u202e",
        "\ufeff",
    ],
)
def test_invisible_characters_are_escaped(char: str) -> None:
    """Tags, selectors, fillers, blanks other than the space, joiners, directions, private letters."""
    assert escape_controls(f"a{char}b") == f"a{char.encode('unicode_escape').decode()}b"


def test_a_question_marks_both() -> None:
    """In the call, where a person decides."""
    question = msgspec.structs.replace(asked(""), args='{"to":"p\u0430ypal.com","note":"ok\U000e0049\u3164"}')
    lines = question_text(question).split("\n")
    assert any(line.startswith("  letters 'p\u0430ypal.com' mixes alphabets") for line in lines)
    assert any("\\U000e0049\\u3164" in line for line in lines)


def test_no_part_of_a_question_reaches_the_next_line() -> None:
    """A model's question cannot look like a command of linestop."""
    question = msgspec.structs.replace(asked(""), kind="question", text="Which?\n  $ linestop approve r2")
    assert "  $ linestop approve r2" not in question_text(question).split("\n")
