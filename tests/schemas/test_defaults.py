"""The default bounds, in one place."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import at_work, read_event

from linestop.schemas import broker_defaults, defaults
from linestop.schemas.defaults import AccountLimits, Limits
from linestop.schemas.events import Opened

PROMISED = {
    "turns_max": 15,
    "calls_max": 20,
    "calls_per_tool_max": 10,
    "equal_calls_max": 3,
    "rejections_max": 3,
    "tokens_max": 50_000,
    "cost_max_micros": 500_000,
    "warn_percent": 75,
    "ask_from_micros": 250_000,
    "wall_s": 120,
    "run_max_s": 30 * 86_400,
    "input_chars_max": 20_000,
    "tool_timeout_s": 5.0,
    "tool_retries_max": 2,
    "model_deadline_s": 120.0,
    "model_retries_max": 3,
    "approval_expires_s": 3_600,
    "result_bytes_max": 16_384,
    "proposal_calls_max": 16,
    "events_max": 2_000,
    "returned_max": 3,
    "compactions_max": 3,
    "model_output_tokens_max": 4_096,
    "model_wait_max_s": 30.0,
}


def test_the_defaults_are_those_that_are_promised() -> None:
    """A changed default is a decision, and a line in the change log."""
    assert msgspec.structs.asdict(Limits()) == PROMISED


def test_the_accounts_are_those_that_are_promised() -> None:
    """They are: user-day $5, tenant-day $100, system-hour $100."""
    expected = AccountLimits(user_day_micros=5_000_000, tenant_day_micros=100_000_000, system_hour_micros=100_000_000)
    assert AccountLimits() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL_RETRY_DELAYS_S", (1.0, 2.0, 4.0)),
        ("RETRY_JITTER", 0.25),
        ("EVENTS_RESERVED", 50),
        ("MESSAGE_BYTES_MAX", 262_144),
        ("INLINE_BYTES_MAX", 32_768),
        ("BLOB_BYTES_MAX", 33_554_432),
        ("HEAD_CHECK_S", 5.0),
        ("EFFECT_AFTER_ACK_S", 0.1),
        ("SPACE_FOR_NEW_WORK", 0.9),
        ("ACK_WAIT_S", 2.0),
        ("TIMER_IN_PROCESS_MAX_S", 300.0),
    ],
)
def test_the_bounds_outside_a_run_are_those_that_are_promised(name: str, value: object) -> None:
    """These are the bounds of messages, blobs, breakers and waits."""
    assert {**vars(defaults), **vars(broker_defaults)}[name] == value


def test_a_run_writes_all_its_limits_down() -> None:
    """A later version with other defaults reads the same bounds; additional limits in it do no harm."""
    message = at_work().messages[0]
    stored = msgspec.json.decode(message[1])
    assert set(stored["limits"]) == set(PROMISED)
    stored["limits"]["moons_max"] = 1
    opened = msgspec.json.decode(msgspec.json.encode(stored), type=Opened)
    first = read_event(message)
    assert isinstance(first, Opened)
    assert opened.limits == first.limits
