"""Answers that announce a call instead of making it: "I will call pay({…}) now". Pure.

Such an answer would end a run whose work was not done. It is sent back once, so a wrong guess costs one turn; the
guess is careful all the same. An answer counts in two cases. Either all of it is a call written as text, in one of the
forms that models are trained on; or a clause near its end states in the first person, about now or the future, that a
tool of the run is called, and nothing in the clause denies, asks, offers, conditions or reports the call. A word that
only happens to be a tool's name (``pay``) counts if it is written as one: with arguments, in quotes, or beside the
word "tool".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Final, cast

import msgspec

from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import TOKEN_OVERHEAD
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.call_states import ProposalState
from linestop.schemas.run.fold import Run
from linestop.schemas.run.starting.closing_summary import cost_left_micros
from linestop.schemas.run.starting.model_choice import models_of
from linestop.schemas.run.starting.prompt_size import output_room, tokens_bound, tokens_left

TAIL_CHARS_MAX: Final = 1_500
"""Characters at the end of an answer that are searched for a clause; earlier ones are not the answer's conclusion."""

AFTER_CHARS_MAX: Final = 200
"""Characters that may follow such a clause."""

REASON_PREFIX: Final = "The answer tells of a call of"
"""The beginning of the reason with which such an answer is sent back; it shows that the run has already done so."""

EVENTS_LEFT_MIN: Final = 20
"""A run that has room for fewer further events than this accepts the answer as it is."""

CALL_CHARS_MAX: Final = 20_000
ARGS_CHARS_MAX: Final = 4_000
CLAUSE_CHARS_MAX: Final = 120

_QUOTES: Final = "`\"'“”„«»‘’「」『』*_"
_TOOL_NOUNS: Final = (
    "tool|function|werkzeug|funktion|outil|fonction|herramienta|función|strumento|funzione|ferramenta|função|"
    "narzędzie|narzędzia|funkcję|funkcji|инструмент|функцию|функция|aracını|aracı|fonksiyonunu|hulpmiddel|functie|"
    "verktyget|funktionen|工具|函数|ツール|関数|도구|함수|أداة|दायित्व|टूल"
)

# Phrases that announce a call: before the tool's name, or after it.
_INTENT_BEFORE: Final = re.compile(
    r"(?:"
    # English
    r"\b(?:i['’]?ll|i will|i shall|i['’]?m going to|i am going to|i['’]?m about to|i am about to|i need to|i must|"
    r"let me|let['’]?s|let us|now i|next,? i)\b.{0,30}?\b(?:call|invoke|use|run|execute|query|trigger)\b"
    r"|\b(?:i['’]?m|i am) (?:now |currently |just )?(?:calling|invoking|using|running|executing|querying)\b"
    r"|^\W*(?:now |next,? |first,? |i )?(?:calling|invoking|executing|will (?:now )?call)\b"
    # German
    r"|\bich (?:rufe|verwende|nutze|benutze|starte)\b|\b(?:rufe|verwende|nutze|benutze|starte) ich\b"
    r"|\bich (?:werde|muss)\b|\bwerde ich\b|\blass(?:t|en sie)? (?:mich|uns)\b"
    # French
    r"|\bje (?:vais|dois)\b.{0,30}?\b(?:appeler|utiliser|invoquer|exécuter|lancer)\b"
    r"|\bj['’](?:appelle|appellerai|invoque|invoquerai|utilise|utiliserai|exécute|exécuterai)\b|\bje lance\b"
    r"|\blaissez-moi (?:appeler|utiliser|invoquer|exécuter)\b|\bappelons\b"
    # Spanish, Portuguese
    r"|\b(?:voy a|procedo a|debo|déjame|vou|deixe-me|preciso)\b.{0,30}?"
    r"\b(?:llamar|usar|utilizar|invocar|ejecutar|chamar|executar)\b"
    r"|\b(?:llamaré|usaré|utilizaré|invocaré|ejecutaré|llamo|invoco|ejecuto|llamando|chamarei|usarei|invocarei|"
    r"executarei|chamo|executo|chamando|estou chamando)\b"
    # Italian
    r"|\b(?:sto per|vado a|devo|procedo a)\b.{0,30}?\b(?:chiamare|usare|invocare|eseguire|utilizzare)\b"
    r"|\b(?:chiamerò|userò|invocherò|eseguirò|utilizzerò|chiamo|eseguo|chiamando)\b"
    # Dutch, Swedish
    r"|\bik (?:ga|zal|roep|gebruik|moet)\b|\bjag (?:ska|kommer att|anropar|använder)\b"
    # Polish, Russian, Ukrainian
    r"|\b(?:wywołam|wywołuję|użyję|używam|uruchomię|muszę wywołać)\b"
    r"|\b(?:вызову|вызываю|использую|запущу|запускаю|буду вызывать|нужно вызвать|викличу|викликаю|використаю)\b"
    # Chinese; Arabic
    r"|(?:我将|我會|我会|我要|我需要|让我|讓我|我来|我來|现在|現在|接下来|接下來|下一步|正在).{0,20}?"
    r"(?:调用|調用|使用|执行|執行|运行|運行|呼叫)"
    r"|(?:سأستدعي|سوف أستدعي|سأستخدم|سأقوم باستدعاء|أستدعي)"
    r")",
    re.IGNORECASE,
)
_NEEDS_VERB_AFTER: Final = re.compile(
    r"\b(?:ich werde|werde ich|ich muss|ich rufe|rufe ich|lass\w* (?:sie )?(?:mich|uns)|ik ga|ik zal|ik roep|ik moet|"
    r"jag ska|jag kommer att)\b",
    re.IGNORECASE,
)
_INTENT_AFTER: Final = re.compile(
    r"(?:\b(?:aufrufen|auf|aufzurufen|verwenden|nutzen|benutzen|ausführen|starten|aanroepen|aan|gebruiken|uitvoeren|"
    r"anropa|använda|köra|çağıracağım|çağırıyorum|kullanacağım|kullanıyorum|çalıştıracağım)\b"
    r"|(?:呼び出します|呼び出す|呼びます|使います|使用します|実行します)"
    r"|(?:호출하겠습니다|호출합니다|호출할게요|사용하겠습니다|실행하겠습니다)"
    r"|(?:को कॉल कर|का उपयोग कर)(?:ूँगा|ूंगा|ूँगी|ूंगी|ता हूँ|ता हूं|ती हूँ|ती हूं|रहा हूँ)?)",
    re.IGNORECASE,
)
_INTENT_AFTER_ALONE: Final = re.compile(
    r"(?:\b(?:çağıracağım|çağırıyorum|kullanacağım|kullanıyorum|çalıştıracağım)\b"
    r"|呼び出します|呼び出す|呼びます|使います|使用します|実行します"
    r"|호출하겠습니다|호출합니다|호출할게요|사용하겠습니다|실행하겠습니다"
    r"|(?:को कॉल कर|का उपयोग कर)(?:ूँगा|ूंगा|ूँगी|ूंगी|ता हूँ|ता हूं|ती हूँ|ती हूं| रहा हूँ| रही हूँ))",
    re.IGNORECASE,
)

# Phrases that cancel an announcement: denials, questions, offers, conditions, reports, advice.
_VETO: Final = re.compile(
    r"(?:\?|？|؟"
    r"|\b(?:not|never|cannot|without|instead of|would|could|can|may|might|shall i|should|if|unless|once|after|when|"
    r"whenever|until|called|invoked|used|executed|ran|have|had|has|was|were|been|already|you|your|please|earlier|"
    r"previously|always|from now on|future|next time|tomorrow|later|remember|recommend|suggest)\b|n['’]t\b"
    r"|\b(?:nicht|kein\w*|nie|wurde\w*|habe|hatte|könnte\w*|würde\w*|kann|wenn|falls|sobald|nachdem|soll|sollen|bereits|"
    r"sie können|du kannst|bitte)\b"
    r"|\b(?:ne|pas|jamais|ai|avons|été|pourrais|pourrait|peux|pouvez|si|dès que|après|voulez|dois-je|déjà)\b|\bn['’]"
    r"|\b(?:no|nunca|he|fue|ha sido|podría|puedo|puede|puedes|cuando|después|ya|não|foi|pode|posso|quando|após|já)\b"
    r"|\b(?:non|mai|ho|è stato|se|potrei|può|puoi|dopo|già|vuole|vuoi)\b"
    r"|\b(?:niet|heb|heeft|werd|als|kan|zou|inte|har|om|kan)\b"
    r"|\b(?:nie|jeśli|mogę|można|czy|по?сле|не|если|могу|можно|бы|когда|якщо|можу)\b"
    r"|不|没|沒|过|過|如果|若|可以|能|了|已|吗|嗎"
    r"|ました|ません|場合|できます|ましょう|たら|なら|れば|か。"
    r"|했습니다|않|만약|하면|시면|수 있|까요"
    r"|\b(?:eğer|isterseniz|istersen|değil|-?mayacağım)\b|mayacağım|meyeceğim"
    r"|(?:\bلن\b|\bلا\b|\bلم\b|\bإذا\b)|नहीं|अगर|यदि)",
    re.IGNORECASE,
)
_BREAK: Final = re.compile(r"[!?…。！？；;\n]|[.:](?=\s|$)")
_PARENTHESIS: Final = re.compile(r"[()]")
_FENCE: Final = re.compile(
    r"```\w{0,20}\n?|```|</?(?:tool_call|function_call|tool_use|tools?|invoke)>|\[/?TOOL_CALLS?\]"
)
_FUNCTION_TAG: Final = re.compile(r"<(?:function|invoke)(?:=| name=)\"?([\w.-]{1,80})\"?\s*>")
_NAME_FIELDS: Final = ("tool", "name", "function", "action", "tool_name", "recipient_name")
_ARGS_FIELDS: Final = frozenset({"args", "arguments", "parameters", "input", "action_input", "tool_input", "params"})


def narration_errors(run: Run, proposal: ProposalState, agent: AgentVersion, now: datetime) -> tuple[str, ...]:
    """Return why a final answer is sent back that announces a call; at most once a run, and only if that can help.

    An answer that follows a schema is data, and a planner function answers as it was written to: neither is sent back.
    """
    text = proposal.event.text
    if not isinstance(text, str) or agent.output_schema is not None or agent.planner.startswith("python:"):
        return ()
    returned = [p.returned.errors for p in run.proposals if p.returned is not None]
    if any(errors and errors[0].startswith(REASON_PREFIX) for errors in returned) or not _can_ask_again(
        run, proposal, now
    ):
        return ()
    tool = narrated_call(text, [grant.name for grant in run.opened.tools] if run.opened else [])
    how = "Call the tool now if the call is needed; otherwise give the final answer, which will then stand."
    return (f"{REASON_PREFIX} '{tool}' instead of calling it. {how}",) if tool else ()


def _can_ask_again(run: Run, proposal: ProposalState, now: datetime) -> bool:
    """Whether the model can be asked again: a doubtful answer is better than a run that ends at a limit without one."""
    limits, opened = run.limits, run.opened
    if opened is None or run.turn >= limits.turns_max or run.returned_in_a_row >= limits.returned_max:
        return False
    if run.events_left < EVENTS_LEFT_MIN or limits.wall_s - run.active_s(now) < limits.model_deadline_s / 2:
        return False
    model = next((choice for choice in models_of(opened) if choice.is_requested_by(proposal)), opened.model)
    reads, writes = tokens_bound(run, model, run.context_bytes + TOKEN_OVERHEAD), output_room(run, model)
    if tokens_left(run) < reads + writes:
        return False
    return cost_left_micros(run) >= model.price.cost_max_micros(reads, writes)


def narrated_call(text: str, tools: Iterable[str]) -> str:
    """Return the tool whose call an answer announces without making it; empty for an ordinary answer."""
    names = tuple(sorted(tools, key=len, reverse=True))
    if not names:
        return ""
    return _tool_of_textual_call(text, names) or _announced_tool(text[-TAIL_CHARS_MAX:], names)


# --- a call as text ------------------------------------------------------------------------------------


def _tool_of_textual_call(text: str, names: tuple[str, ...]) -> str:
    """Return the tool of an answer that consists of nothing but a call."""
    if len(text) > CALL_CHARS_MAX:
        return ""
    known = {spelling: name for name in names for spelling in _spellings(name)}
    if tag := _FUNCTION_TAG.match(text.strip()):
        return known.get(tag[1], "")
    bare = _FENCE.sub("", text).strip()
    written = re.fullmatch(r"(?:functions\.|tools\.)?([\w.-]{1,80})\s*(\(.*\))\s*;?", bare, re.DOTALL)
    if written and written[1] in known and _args_ends(bare).get(written.start(2)) == written.end(2):
        return known[written[1]]
    try:
        value: object = msgspec.json.decode(bare)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return ""
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    tools = [_tool_of_json_call(item, known) for item in items]
    return tools[0] if tools and all(tools) else ""


def _tool_of_json_call(value: object, known: dict[str, str]) -> str:
    """Return the tool of a call that is written as a JSON object; an object without arguments is not a call."""
    if not isinstance(value, dict):
        return ""
    fields = cast("JsonObject", value)
    if isinstance(inner := fields.get("function"), dict):
        return _tool_of_json_call(cast("object", inner), known)
    name = next((name for key in _NAME_FIELDS if isinstance(name := fields.get(key), str)), "")
    return known.get(name.removeprefix("functions."), "") if fields.keys() & _ARGS_FIELDS else ""


# --- a call that is announced ----------------------------------------------------------------------------


def _announced_tool(text: str, names: tuple[str, ...]) -> str:
    """Return the tool whose call a clause near the end of an answer announces."""
    ends = _args_ends(text)
    for name, start, end in _mentions(text, names):
        before = text[max(start - CLAUSE_CHARS_MAX, 0) : start]
        breaks = list(_BREAK.finditer(before))
        before = before[breaks[-1].end() :] if breaks else before
        after, rest = _split_clause(text[ends.get(_args_start(text, end), end) :])
        if len(rest.strip()) <= AFTER_CHARS_MAX and _is_announcement(before, after):
            return name
    return ""


def _is_announcement(before: str, after: str) -> bool:
    if _VETO.search(before) or _VETO.search(after):
        return False
    intent = _INTENT_BEFORE.search(before)
    if intent is None:
        return _INTENT_AFTER_ALONE.search(after) is not None
    return not _NEEDS_VERB_AFTER.search(before) or _INTENT_AFTER.search(after) is not None


def _mentions(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Yield each place where the text names a tool as a tool: the tool, and where its name begins and ends."""
    known = {spelling.lower(): name for name in names for spelling in _spellings(name)}
    for match in _pattern(names).finditer(text):
        start, end = match.span()
        name = known[match[0].lower()]
        quoted = text[start - 1 : start] in _QUOTES and text[end : end + 1] in _QUOTES and start > 0 and end < len(text)
        called = text[end : end + 2].lstrip(_QUOTES + " ").startswith("(")
        beside = re.search(rf"(?:{_TOOL_NOUNS})\W{{0,3}}$", text[max(start - 25, 0) : start], re.IGNORECASE)
        beside = beside or re.match(rf"\W{{0,3}}(?:{_TOOL_NOUNS})", text[end : end + 25], re.IGNORECASE)
        if quoted or called or beside or re.search(r"[._-]", name):
            yield name, start, end


@lru_cache(maxsize=256)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    spelled = sorted({s for name in names for s in _spellings(name)}, key=len, reverse=True)
    # A letter of a language without spaces may stand right beside a name.
    return re.compile(rf"(?<![a-zA-Z0-9_.-])(?:{'|'.join(map(re.escape, spelled))})(?![a-zA-Z0-9_-])", re.IGNORECASE)


def _spellings(name: str) -> tuple[str, ...]:
    return (name, name.replace(".", "__"), name.replace(".", "_"))


def _args_start(text: str, name_end: int) -> int:
    """Return where the arguments after a name would begin: quotes and a blank may stand between."""
    between = text[name_end : name_end + 3]
    return name_end + len(between) - len(between.lstrip(_QUOTES + " "))


def _args_ends(text: str) -> dict[int, int]:
    """Return for each parenthesis that opens at most ``ARGS_CHARS_MAX`` characters where they end.

    One pass over the text, however many calls it names: an attacker may control what a model writes.
    """
    ends, open_at = dict[int, int](), list[int]()
    for found in _PARENTHESIS.finditer(text):
        if found[0] == "(":
            open_at.append(found.start())
        elif open_at and found.end() - (opened := open_at.pop()) <= ARGS_CHARS_MAX:
            ends[opened] = found.end()
    return ends


def _split_clause(text: str) -> tuple[str, str]:
    """Split a text into the rest of the clause and what follows; a question mark at the end belongs to the clause."""
    clause_end = _BREAK.search(text)
    if clause_end is None:
        return text[:CLAUSE_CHARS_MAX], ""
    return text[: clause_end.end()][:CLAUSE_CHARS_MAX], text[clause_end.end() :]
