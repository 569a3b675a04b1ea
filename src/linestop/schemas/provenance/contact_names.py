"""Names on a platform that a text asks its reader to write to, to pay or to look for, in any order of words.

The form of "evilbob" does not show that it is a name. Its place does: after a verb of contact and before the platform's
name, or the other way round, or after a word like "handle".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

PLATFORMS = (
    "telegram|tg|whats ?app|signal|discord|skype|we ?chat|weixin|threema|viber|snap ?chat|snap|instagram|insta|ig|"
    "twitter|tik ?tok|facebook|fb|messenger|slack|matrix|kik|icq|xmpp|jabber|paypal|venmo|cash ?app|zelle|mastodon|"
    "blue ?sky|linked ?in|git ?hub|line|wire|element|(?:microsoft |ms )?teams|zoom|google (?:chat|meet|talk|pay|voice)|"
    "g ?chat|hangouts|face ?time|imessage|kakao ?talk|kakao|qq|weibo|vk|vkontakte|you ?tube|twitch|reddit|quora|"
    "pinterest|tumblr|only ?fans|patreon|ko-fi|git ?lab|bit ?bucket|npm|pypi|docker ?hub|steam|xbox(?: live)?|psn|"
    "play ?station|roblox|ebay|etsy|fiverr|upwork|airbnb|revolut|wise|coinbase|binance|session|wickr|briar|imo|zalo|"
    "group ?me|truth social|gab|parler|threads|clubhouse|bereal|tinder|bumble|xing|medium|substack|irc|rocket\\.?chat|"
    "mattermost|webex|keybase|nostr|lemmy|hugging ?face|stack ?overflow|swish|bizum|twint|alipay|m-?pesa|payoneer|"
    "western union|x\\.com"
)
_KINDS = (
    r"(?:id|handle|user(?: ?name)?|nick(?: ?name)?|alias|screen ?name|name|account|contact|kontakt|nutzer(?:name)?|"
    r"benutzer(?:name)?|konto|pseudo|compte|usuario|cuenta|utente|tag|profile?|profil)"
)
_VERBS = (
    r"(?:message|msg|text|contact|write(?: to)?|add|ping|dm|pm|find|follow|ask(?: for)?|reach(?: out to)?|"
    r"look (?:for|up)|"
    r"search(?: for)?|call|pay|tip|invite|"
    r"(?:chat|talk|speak|get in touch) (?:with|to)|send (?:it |that |the money )?to|"
    r"see|try|meet|friend|connect (?:with|to)|subscribe to|use|known as|called|named|goes by|"
    r"(?:me|us|him|her|them) as|"
    r"kontaktier\w*|schreib\w*(?: sie| du)?(?: an)?|such\w*|find\w*|folg\w*|frag\w*|ruf\w*|zahl\w*(?: an)?|"
    r"contactez|[ée]cri(?:s|vez)(?: [àa])?|cherchez|suivez|trouvez|payez|appelez|"
    r"escrib[ea](?: a)?|contact[ae](?: a| con)?|busca|busque|sigue|paga(?: a)?|scrivi(?: a)?|contatta|cerca|segui)"
)
_ON = (
    r"(?:on|via|over|through|using|at|in|by|from|auf|bei|\u00fcber|per|mit|im|sur|par|dans|en|por|con|su|tramite)"
    r"(?:\s{1,3}(?:the|my|your|our|meinem|unserem))?"
)
_NAME = r"@?\w[\w.$+-]{0,62}\w"
_END = r"(?=\s{0,3}(?:[.,;:!?)\"'\n]|$|(?:and|or|to|for|und|oder|et|y)(?!\w)))"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # message evilbob on Facebook; schreib an geldbote auf Facebook
        rf"(?<!\w){_VERBS}\s{{1,3}}({_NAME})\s{{1,3}}(?:an\s{{1,3}})?{_ON}\s{{1,3}}(?:{PLATFORMS})(?!\w)",
        rf"(?<!\w)schreib\w*\s{{1,3}}sie\s{{1,3}}({_NAME})\s{{1,3}}{_ON}\s{{1,3}}(?:{PLATFORMS})(?!\w)",
        # on Facebook, message evilbob; on LinkedIn you find me as fredscam
        (
            rf"(?<!\w)(?:{PLATFORMS})[,:]?\s{{1,3}}(?:(?:you|we|i|can|could|please|just|then|du|sie|bitte)\s{{1,3}}){{0,3}}"
            rf"{_VERBS}\s{{1,3}}(?:(?:me|us|him|her|them)\s{{1,3}}(?:as|under|by)\s{{1,3}})?({_NAME}){_END}"
        ),
        # by Venmo to quickpal
        (
            rf"(?<!\w)(?:by|via|with|over|through|using|on|per|mit|par|por|con)\s{{1,3}}(?:{PLATFORMS})\s{{1,3}}"
            rf"(?:to|at|from|an|von|\u00e0|a)\s{{1,3}}({_NAME}){_END}"
        ),
        # the name on Facebook is evilbob
        rf"(?<!\w){_KINDS}\s{{1,3}}{_ON}\s{{1,3}}(?:{PLATFORMS})(?:\s{{0,3}}[:=]\s{{0,3}}|\s{{1,3}}(?:is|ist|est|es|to)\s{{1,3}})({_NAME})",
        # Telegram handle evilbob; the handle evilbob
        rf"(?<!\w)(?:{PLATFORMS})[\s-]{{1,3}}{_KINDS}(?:\s{{0,3}}[:=]\s{{0,3}}|\s{{1,3}})(?:(?:is|ist|est|es)\s{{1,3}})?({_NAME})",
        (
            r"(?<!\w)(?:handle|user ?name|nick ?name|screen ?name|benutzername|nutzername)"
            rf"(?:\s{{0,3}}[:=]\s{{0,3}}|\s{{1,3}})(?:(?:is|ist|est|es)\s{{1,3}})?({_NAME}){_END}"
        ),
    )
)
_NO_NAMES = frozenset(
    """
    a about account accounts active again all already also an and any anybody anyone as at available away back been
    below but by can changed closed colleagues comments contacts could customers deleted details developers did does
    down easily else employees everybody everyone expired failed family fans files first followers for friends from
    gets good got group groups had has have help her here him his how i if image images in information into is it its
    jobs just later less links live many me members messages missing money more most must my names near needs new news
    no nobody not nothing now of off offers on one online only open or other others our out page pages people
    photos pictures please posts problem products questions quickly sales seen she should so some somebody someone
    something soon stopped support suspended team teams than that the their them then there these they things this those
    tickets to today together tomorrow too two under until updates us users version videos was we were what when where
    which who why will with works would wrong yes yesterday you your yours
    alle alles auch bei das dem den der des die du ein eine er es euch freunde gesperrt hat hier ich ihm ihn ihnen ihr
    ist jemand kein keine kunden leute mehr mich mir nicht noch nur oder sich sie sind uns und war wer wie wir wird zu
    amigos amis ce ces clientes clients del elle en est et ils il le les lui moi mon mi nos nous nosotros os ou para
    pas por que se ses son su sus tu un una une vous y
    """.split()  # noqa: SIM905 - a table
)


def names_on_platforms(text: str) -> Iterator[str]:
    """Yield the words in a place where only the name of a person or an account can be."""
    for pattern in _PATTERNS:
        for found in pattern.finditer(text):
            if found[1].casefold() not in _NO_NAMES and any(char.isalpha() for char in found[1]):
                yield found[1]
