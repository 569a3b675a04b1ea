"""Plain words: what the project no longer calls things, and what to write instead (``docs/glossary.md``)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.documents import PAGES, ROOT

THIS_FILE = Path(__file__).resolve()
NOT_READ = ("docs/decisions/", "docs/glossary.md", "tests/golden_logs/", "tests/schemas/golden/", "CHANGELOG.md")
"""History, recorded files, and the page that explains the words."""

_GAP = r"[\s#]+"
"""Between two words: a blank, or the end of a line and the beginning of the next comment line."""


def _phrase(pattern: str) -> re.Pattern[str]:
    """A phrase in any case, wherever its lines are broken."""
    return re.compile(pattern.replace(" ", _GAP), re.IGNORECASE)


_COMPARATIVES = r"(?:longer|more|less|bigger|better|worse|older)\b"
_BEFORE_SAID = "the what as is are was were be been being not never once has have had nothing nobody everything"

PHRASES: dict[str, tuple[re.Pattern[str], str]] = {
    "is no": (_phrase(rf"(?<!there) is no (?!{_COMPARATIVES})(?=\w)"), '"is not a …" or "does not …"'),
    "anew": (_phrase(r"\banew\b"), '"again"'),
    "has it not": (_phrase(r"\bhas it not\b"), '"it does not appear in …"'),
    "what is none": (_phrase(r"\bwhat is none\b"), 'the thing itself: "an invalid …"'),
    "whoever": (_phrase(r"\bwho(?:so|m)?ever\b"), 'the person or the part: "the caller", "the author"'),
    "said": (
        _phrase(rf"\b(?:{'|'.join(_BEFORE_SAID.split())}) said\b"),
        '"appended", "published", "printed", "submitted" or "answered"',
    ),
}
"""Phrases that have to be read twice. A person, a model or a tool may still say something in the active voice, and
"there is no agent …" is plain English as well."""

NAMES: dict[str, str] = {
    "objection": "rejection_reason",
    "look": "advance, load or read",
    "Look": "Pass",
    "look_soon": "schedule",
    "Deciding": "Decider",
    "ahead": "speculate or speculation",
    "Ahead": "Speculation",
    "meanwhile": "on_sent",
    "Meanwhile": "OnSent",
    "Station": "RoleBinding",
    "act": "execution",
    "told": "is_recorded, reported or printed",
    "Stamper": "EventEncoder",
    "stamper": "encoder",
    "Keeping": "AckExtender",
    "keep_result": "store_full_result",
    "bury": "dead_letter",
    "given_up": "max_deliveries",
    "forgotten": "orphaned_holds",
    "way_round": "stop_if_subject_taken",
    "squatted": "taken_subjects",
    "blind": "has_unknown_events",
    "Mouth": "Sender",
    "Looking": "RunReader",
    "Letters": "DeadLetters",
    "Letter": "DeadLetter",
    "Doors": "KillSwitches",
    "shut": "first_closed",
    "Patience": "RetryPolicy",
    "patiently": "with_retries",
    "worked_s": "active_s",
    "worked_out": "out_of_time_message",
    "bearable": "clamp_limits",
    "escaping": "violates_limits",
    "open_too_long": "lease_too_long",
    "misjudged": "invalid_verdict",
    "misasked": "invalid_question",
    "undeniable": "invalid_denial",
    "unfit": "invalid_…",
    "unkept": "malformed",
    "undone": "had_no_effect",
    "DOUBT": "UNKNOWN_OUTCOME",
    "asked_doubt": "asked_about_outcome",
    "Word": "ControlMessage",
    "word_of_a_person": "control_message",
    "Outgoing": "Outbox",
    "outgoing": "outbox",
    "beneath": "safe_paths",
    "rig": "fixture",
    "rigs": "fixtures",
    "said": "message, published, appended or printed",
    "spoken": "published",
    "Said": "ControlOptions",
    "say": "publish, print_text or answer",
    "kept": "stored",
    "Host": "ActorProcess",
    "HostConfig": "ProcessSettings",
    "most": "…_max",
    "least": "…_min",
    "broke": "runner_error",
}
"""Names of the code that were replaced, with the name that took their place. A leading underscore does not save one."""

PARTS: dict[str, str] = {
    name: NAMES[name]
    for name in ("objection", "told", "squatted", "stamper", "unfit", "misjudged", "undone", "said", "spoken", "rig")
} | {"whoever": "the person or the part", "anew": "again"}
"""Names that may not stand within a longer one either."""

_TOOL = "the function's name is the tool's name in logs and playbooks"
ALLOWED: dict[tuple[str, str], str] = {
    ("tests/", "look"): _TOOL,
    ("tests/schemas/test_prompt_size.py", "had said"): "a sample of prose, whose tokens were counted",
    ("src/linestop/models/playbook/", "say"): "a key of a playbook's file",
    ("src/linestop/actors/approver.py", "Nobody said"): "a stop's reason is stored: a replay must decide the same text",
    ("src/linestop/cli/serving/logs.py", "TimeStamper"): "structlog's own name",
}
"""Place (a file, or a folder with a slash at its end) and word, with the reason why it may stand there."""


@dataclass(frozen=True)
class Finding:
    """A banned word and where it stands."""

    place: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        """As an editor can jump to it."""
        return f"{self.place}:{self.line}: {self.word!r}; write {self.instead}"


def is_allowed(place: str, word: str) -> bool:
    """Whether ``ALLOWED`` names the word for this file or for a folder above it."""
    return any(
        word == allowed and (place == where or (where.endswith("/") and place.startswith(where)))
        for where, allowed in ALLOWED
    )


def banned_phrases(place: str, text: str) -> Iterator[Finding]:
    """Every banned phrase of a text."""
    for word, (pattern, instead) in PHRASES.items():
        for match in pattern.finditer(text):
            yield Finding(place, text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()) or word, instead)


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module gives, takes or reads: variables, attributes, parameters, keywords, definitions."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.keyword(arg=str(name)):
                yield name, node.lineno
            case ast.alias():
                yield node.asname or node.name.rpartition(".")[2], node.lineno
            case _:
                pass


def banned_names(place: str, text: str) -> Iterator[Finding]:
    """Every banned name of a module, and the module's own."""
    found = [(Path(place).stem, 1), *identifiers(ast.parse(text))]
    for name, line in dict.fromkeys(found):
        bare = name.strip("_")
        if instead := NAMES.get(bare):
            yield Finding(place, line, bare, instead)
            continue
        for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", bare):
            if instead := PARTS.get(part.lower()):
                yield Finding(place, line, name, instead)


def pages() -> list[Path]:
    """The pages whose sentences are checked."""
    return [path for path in PAGES if not is_excepted(path)] + [ROOT / "examples" / "support" / "README.md"]


def modules() -> list[Path]:
    """The modules whose names and sentences are checked."""
    found = [
        path for folder in ("src", "tests", "bench", "examples", "deploy") for path in (ROOT / folder).rglob("*.py")
    ]
    return sorted(path for path in found if path.resolve() != THIS_FILE and not is_excepted(path))


def is_excepted(path: Path) -> bool:
    """Whether a file is history, recorded, or the glossary."""
    return path.relative_to(ROOT).as_posix().startswith(NOT_READ)


def findings() -> Iterator[Finding]:
    """All that is banned and stands there all the same."""
    for path in [*pages(), *modules()]:
        place, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        for finding in (*banned_phrases(place, text), *names_if_python(place, text)):
            if not is_allowed(place, finding.word):
                yield finding


def test_no_banned_word_is_left() -> None:
    """Each finding names file, line and word, and what to write instead."""
    found = list(findings())
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("Eleven is no level.", "is no"),
        ("a value that\n    # is no number", "is no"),
        ("It is made anew.", "anew"),
        ("The task has it not.", "has it not"),
        ("What is none is refused.", "What is none"),
        ("Whoever asks is answered, by whomever.", "Whoever"),
        ("What was said before", "was said"),
        ("the said", "the said"),
    ],
)
def test_a_banned_phrase_is_found(sentence: str, word: str) -> None:
    """Each phrase is found where it stands, across the lines of a comment too."""
    assert any(word.lower() in finding.word.lower() for finding in banned_phrases("x.md", sentence))


@pytest.mark.parametrize(
    "sentence",
    ["It is no longer there.", "It is no more than a hint.", "There is no agent 'x'.", "The shop said so.", "a canew"],
)
def test_a_plain_sentence_is_let_through(sentence: str) -> None:
    """Honest uses of the same words are not findings."""
    assert not list(banned_phrases("x.md", sentence))


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def look(run): ...", 1),
        ("class Doors: ...", 1),
        ("x = 1\ny = x._told", 2),
        ("f(squatted=1)", 1),
        ("from a import b as Letter", 1),
        ("def test_it_is_said_twice(): ...", 1),
        ("def f(*, ahead): ...", 1),
    ],
)
def test_a_banned_name_is_found(code: str, line: int) -> None:
    """Definitions, parameters, attributes, keywords and aliases are looked at; the line is theirs."""
    assert [finding.line for finding in banned_names("x.py", code)] == [line]


@pytest.mark.parametrize("code", ["dead_letter = 1", "typed_ahead = 1", "x = {'look': 'told'}", "lookup(late=1)"])
def test_a_name_that_only_resembles_one_is_let_through(code: str) -> None:
    """Strings, and names that merely contain the letters, are not findings."""
    assert not list(banned_names("x.py", code))


def test_every_exception_has_a_reason_and_is_needed() -> None:
    """An exception for a file that is gone, or for a word that does not stand there any more, leaves the list."""
    for (where, word), reason in ALLOWED.items():
        assert reason
        paths = [path for path in [*pages(), *modules()] if path.relative_to(ROOT).as_posix().startswith(where)]
        texts = [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]
        found = [f for place, text in texts for f in (*banned_phrases(place, text), *names_if_python(place, text))]
        assert word in {finding.word for finding in found}, f"{where} has no {word!r} any more"


def names_if_python(place: str, text: str) -> Iterator[Finding]:
    """The banned names of a module; none of a page."""
    return banned_names(place, text) if place.endswith(".py") else iter(())
