"""Letters that look like an ASCII letter or digit and that NFKC does not turn into it.

Source: confusables.txt of Unicode 15.1 (UTS 39, https://www.unicode.org/Public/security/), as confusable-homoglyphs 3.3.1
packs it; Unicode License v3. Taken from it: single letters whose double is one ASCII letter or digit and whose NFKC
form is not.
"""

# ruff: noqa: RUF001, E501 - the table consists of such letters, and is not wrapped
from __future__ import annotations

from typing import Final

_BY_DOUBLE: Final = {
    "2": "ƧϨᒿꙄꝚ",
    "3": "ƷȜЗӠⳌꝪꞫ𑣊𖼻",
    "4": "Ꮞ𑢯",
    "5": "Ƽ𑢻",
    "6": "бᏮⳒ𑣕",
    "7": "𐓒𑣆",
    "8": "Ȣȣ𐌚",
    "9": "ⳊꝮ𑢬𑣌𑣖",
    "A": "ΑАᎪᗅꓮ𐊠𖽀𝚨𝛢𝜜𝝖𝞐",
    "B": "ΒВᏴᗷꓐꞴ𐊂𐊡𐌁𝚩𝛣𝜝𝝗𝞑",
    "C": "ϹСᏟⲤꓚ𐊢𐌂𐐕𐔜",
    "D": "Ꭰᗞᗪꓓ",
    "E": "ΕЕᎬⴹꓰ𐊆𑢦𑢮𝚬𝛦𝜠𝝚𝞔",
    "F": "ϜᖴꓝꞘ𐊇𐊥𐔥𑢢𑣂𝟊",
    "G": "ԌᏀᏳꓖ",
    "H": "ΗНᎻᕼⲎꓧ𐋏𝚮𝛨𝜢𝝜𝞖",
    "J": "ͿЈᎫᒍꓙꞲ",
    "K": "ΚКᏦᛕⲔꓗ𐔘𝚱𝛫𝜥𝝟𝞙",
    "L": "ᏞᒪⳐꓡ𐐛𐔦𑢣𑢲𖼖",
    "M": "ΜϺМᎷᗰᛖⲘꓟ𐊰𐌑𝚳𝛭𝜧𝝡𝞛",
    "N": "ΝⲚꓠ𐔓𝚴𝛮𝜨𝝢𝞜",
    "O": "ΟОՕଠዐⲞⵔꓳ𐊒𐊫𐐄𐓂𐔖𑢵𝚶𝛰𝜪𝝤𝞞",
    "P": "ΡРᏢᑭⲢꓑ𐊕𝚸𝛲𝜬𝝦𝞠",
    "Q": "ⵕ",
    "R": "ƦᎡᏒᖇꓣ𐒴𖼵",
    "S": "ЅՏᏕᏚꓢ𐊖𐐠𖼺",
    "T": "ΤТᎢⲦꓔ𐊗𐊱𐌕𑢼𖼊𝚻𝛵𝜯𝝩𝞣",
    "U": "Սሀᑌꓴ𐓎𑢸𖽂",
    "V": "ѴᏙᐯⴸꓦꛟ𐔝𑢠𖼈",
    "W": "ԜᎳᏔꓪ",
    "X": "ΧХᚷⲬⵝꓫꞳ𐊐𐊴𐌗𐔧𝚾𝛸𝜲𝝬𝞦",
    "Y": "ΥϒУҮᎩᎽⲨꓬ𐊲𑢤𖽃𝚼𝛶𝜰𝝪𝞤",
    "Z": "ΖᏃꓜ𑢩𝚭𝛧𝜡𝝛𝞕",
    "a": "ɑαа𝛂𝛼𝜶𝝰𝞪",
    "b": "ƄЬᏏᑲᖯ",
    "c": "ϲсᴄⲥꮯ𐐽",
    "d": "ԁᏧᑯꓒ",
    "e": "еҽꬲ",
    "f": "քẝꞙꬵ",
    "g": "ƍɡցᶃ",
    "h": "һհᏂ",
    "i": "ıɩɪͺιіӏᎥιꙇꭵ𑣃𝚤𝛊𝜄𝜾𝝸𝞲",
    "j": "ϳј",
    "l": "ƖǀΙІӀᛁⲒⵏꓲ𐊊𐌉𖼨𝚰𝛪𝜤𝝞𝞘",
    "n": "ոռ",
    "o": "οσоօഠဝჿᴏᴑⲟꬽ𐐬𐓪𑣈𑣗𝛐𝛔𝜊𝜎𝝄𝝈𝝾𝞂𝞸𝞼",
    "p": "ρϱрⲣ𝛒𝛠𝜌𝜚𝝆𝝔𝞀𝞎𝞺𝟈",
    "q": "ԛգզ",
    "r": "гᴦⲅꭇꭈꮁ",
    "s": "ƽѕꜱꮪ𐑈𑣁",
    "u": "ʋυսᴜꞟꭎꭒ𐓶𑣘𝛖𝜐𝝊𝞄𝞾",
    "v": "νѵᴠꮩ𑜆𑣀𝛎𝜈𝝂𝝼𝞶",
    "w": "ɯѡԝաᴡꮃ𑜊𑜎𑜏",
    "x": "хᕁᕽ",
    "y": "ɣʏγуүყᶌỿℽꭚ𑣜𝛄𝛾𝜸𝝲𝞬",
    "z": "ᴢꮓ𑣄",
}
CONFUSABLES: Final = {letter: double for double, letters in _BY_DOUBLE.items() for letter in letters}
"""The double of each such letter."""
