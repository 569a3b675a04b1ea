"""Which texts are invisible."""

from __future__ import annotations

import pytest
from tests.builders import Story, reply

from linestop.actors.facts import CurrentAgent, IncomingTask
from linestop.schemas.events import Accepted, Refused, Returned
from linestop.schemas.messages import Task
from linestop.schemas.text.visible_text import is_blank

BLANK = [
    "",
    " \n\t",
    "\u00a0\u2003\u3000",
    "\u200b\u200d\ufeff",
    "\u00ad",
    "\u2800\u2800",
    "\u3164",
    "\uffa0\u115f\u1160",
    "\U000e0041\U000e0042\U000e007f",
    "\ufe0f",
    "\U000e0100",
    "\x00\x07\x9f",
    "\u202e\u2066",
    "\u180e\u17b4",
    "\u0301",
    "\u061c",
    "\u2028\u2029",
    "\ufff9\ufffb",
    "\U0001d159",
    "\U0001d173",
]
VISIBLE = [
    "a",
    "0",
    "…",
    "-",
    "é",
    "e\u0301",
    "👍",
    "👨\u200d👩\u200d👧",
    "か",
    "क",
    "\ufffd",
    "؟",
    "\u200b.\u200b",
    "🫨",
]


@pytest.mark.parametrize("text", BLANK, ids=ascii)
def test_an_invisible_text_is_blank(text: str) -> None:
    """It has white space, controls, and characters that are drawn as nothing."""
    assert is_blank(text)


@pytest.mark.parametrize("text", VISIBLE, ids=ascii)
def test_a_text_with_one_visible_character_is_not_blank(text: str) -> None:
    """This holds for any characters around it, and for any script."""
    assert not is_blank(text)


@pytest.mark.parametrize("text", [text for text in BLANK if text], ids=ascii)
def test_an_invisible_answer_counts_as_empty(text: str) -> None:
    """It is returned like an empty answer, and an invisible task is refused."""
    story = Story().open_run().run_until_idle().finish_model(reply(text=text))
    assert story.last(Returned).errors == ("The answer is empty; give one, or say what is missing.",)
    assert story.finish_model(reply(text="done")).last(Accepted).answer == "done"
    incoming = IncomingTask(agent="desk", sha256="0" * 64, task=Task(text=text))
    refused = Story().when("validator", incoming, CurrentAgent(version=story.version)).then(Refused)
    assert refused.sentence.startswith("The task has no text")
