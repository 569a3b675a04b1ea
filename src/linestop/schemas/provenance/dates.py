"""Dates and times: whether a text names the same moment as an argument, however each is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

from linestop.schemas.provenance.tokens import Token, normalized, tokens

_MONTHS = {
    name: number
    for number, names in enumerate(
        ("jan", "feb", "mar mär mrz", "apr", "may mai", "jun", "jul", "aug", "sep", "oct okt", "nov", "dec dez"), 1
    )
    for name in names.split()
}
_VALUE = re.compile(
    r"(?P<date>\d{4}-\d\d?-\d\d?|\d{4}/\d\d?/\d\d?|\d\d?\.\d\d?\.\d{4})?[T ]?"
    r"(?P<time>\d\d?:\d\d(?::\d\d(?:\.\d{1,9})?)?)?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
_CLOCK = re.compile(r"(\d\d?)(?::(\d\d))?(?::\d\d)? ?(am|pm|a\.m\.|p\.m\.)?")
_DURATION = re.compile(
    r"(?:(\d{1,3}|an?|one|two|three|four|eine?|zwei|drei)[ -]|(half an ))(hours?|minutes?|min|stunden?|minuten?)\b",
    re.IGNORECASE,
)
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "ein": 1, "eine": 1, "zwei": 2, "drei": 3}
_RELATIVE = {
    "today": 0,
    "heute": 0,
    "tonight": 0,
    "tomorrow": 1,
    "morgen": 1,
    "yesterday": -1,
    "gestern": -1,
    "übermorgen": 2,
}
_WEEKDAYS = {
    name: number
    for number, names in enumerate(
        (
            "monday montag",
            "tuesday dienstag",
            "wednesday mittwoch",
            "thursday donnerstag",
            "friday freitag",
            "saturday samstag",
            "sunday sonntag",
        )
    )
    for name in names.split()
}
_NAMED_TIMES = {"noon": 720, "midday": 720, "midnight": 0, "mittag": 720, "mitternacht": 0}
_DAY_MINUTES = 24 * 60


class Day(NamedTuple):
    """A date as far as a text gives it; 0 for each part that it leaves open."""

    year: int
    month: int
    day: int


class MentionedTimes(NamedTuple):
    """The days, and the minutes of the day, that a text names."""

    days: frozenset[Day]
    minutes: frozenset[int]
    relative: frozenset[int]
    weekdays: frozenset[int]


@lru_cache(maxsize=512)
def mentioned_times(text: str) -> MentionedTimes:
    """Return the dates and times that a text names."""
    line = tokens(text)
    days = {day for token in line if token.kind == "date" for day in _days(token)}
    minutes = {
        m for token in line if token.kind in {"time", "date"} for m in _minutes(token.text, token.kind == "date")
    }
    words = {token.text for token in line if token.kind == "word"}
    minutes |= {_NAMED_TIMES[word] for word in words & _NAMED_TIMES.keys()}
    lasting = {lasts for match in _DURATION.finditer(normalized(text)) if (lasts := _duration_minutes(match))}
    minutes |= {(m + lasts) % _DAY_MINUTES for m in minutes for lasts in list(lasting)[:20]}
    return MentionedTimes(
        frozenset(days),
        frozenset(minutes),
        frozenset(_RELATIVE[word] for word in words & _RELATIVE.keys()),
        frozenset(_WEEKDAYS[word] for word in words & _WEEKDAYS.keys()),
    )


def _duration_minutes(match: re.Match[str]) -> int:
    hour = 60 if match[3][0].lower() in "hs" else 1
    if match[2]:
        return 30 if hour == 60 else 0
    count = match[1].lower()
    return hour * (int(count) if count.isdecimal() else _COUNTS[count])


def _days(token: Token) -> Iterable[Day]:
    """Yield the possible readings of a date: 06/07/2024 is in June to some and in July to others."""
    text = token.text
    numbers = [int(number) for number in re.findall(r"\d+", text.partition("t")[0] if text[:4].isdigit() else text)][:3]
    name = re.search(r"[a-zä]{3,9}", text.replace("of", ""))
    month = _MONTHS.get(name[0][:3], 0) if name else 0
    if month:
        years = [n for n in numbers if n > 31]
        days = [n for n in numbers if n <= 31]
        return [Day(years[0] if years else 0, month, days[0] if days else 0)]
    if re.match(r"\d{4}", text):
        return [Day(*[*numbers, 0][:3])] if len(numbers) >= 2 else []
    if len(numbers) == 3:
        first, second, year = numbers
        year += 2000 if year < 100 else 0
        orders = [(first, second), (second, first)] if "." not in text else [(first, second)]
        return [Day(year, m, d) for d, m in orders if 1 <= m <= 12 and 1 <= d <= 31]
    return [Day(0, 0, numbers[0])] if len(numbers) == 1 else []


def _minutes(text: str, dated: bool) -> Iterable[int]:
    if dated:
        match = re.search(r"[t ](\d\d?):(\d\d)", text)
        return [int(match[1]) * 60 + int(match[2])] if match else []
    clock = _CLOCK.match(text)
    if clock is None:
        return []
    hour, minute, half = int(clock[1]), int(clock[2] or 0), (clock[3] or "")[:1]
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return [hour * 60 + minute] if hour < 24 and minute < 60 else []


def is_moment(value: str) -> bool:
    """Whether a value is written as a date, a time, or both."""
    match = _VALUE.fullmatch(value.strip())
    return match is not None and bool(match["date"] or match["time"])


def is_mentioned(value: str, mentions: Iterable[MentionedTimes], today: Iterable[date]) -> bool:
    """Whether the texts name the moment ``value``; relative words refer to ``today``.

    Every part of the value must be named: the day in full or as far as a text gives it, and the time, except for
    midnight, which a day alone is written with.
    """
    match = _VALUE.fullmatch(value.strip())
    if match is None or not (match["date"] or match["time"]) or (match["zone"] or "Z").strip("+-:0") not in {"", "Z"}:
        return False
    all_mentions, known = list(mentions), list(today)
    if match["time"]:
        minutes = set(_minutes(match["time"], dated=False))
        alone = not match["date"]
        if (alone or minutes != {0}) and not any(minutes & each.minutes for each in all_mentions):
            return False
    if not match["date"]:
        return True
    numbers = [int(number) for number in re.findall(r"\d+", match["date"])]
    try:
        day = date(*numbers) if numbers[0] > 31 else date(numbers[2], numbers[1], numbers[0])
    except ValueError:
        return False
    return any(_mentions_day(each, day, known) for each in all_mentions)


def _mentions_day(mentions: MentionedTimes, day: date, today: list[date]) -> bool:
    for year, month, number in mentions.days:
        years = {year} if year else {base.year + more for base in today for more in (-1, 0, 1)}
        months = {month} if month else {m for base in today for m in (base.month, base.month % 12 + 1)}
        if number and day.year in years and day.month in months and day.day == number:
            return True
    for base in today:
        if day == base:
            # The present day needs no mention: it comes from the clock.
            return True
        if any(day == base + timedelta(days=more) for more in mentions.relative):
            return True
        if day.weekday() in mentions.weekdays and timedelta(0) <= day - base <= timedelta(days=14):
            return True
    return False
