"""Cleaning of captions as in training (official ``language/t5.py``, which took it from DeepFloyd-IF).

The language model was trained on cleaned captions only, so prompts are cleaned too.
"""

from __future__ import annotations

import html
import re
import urllib.parse

import ftfy
from bs4 import BeautifulSoup

Rules = tuple[tuple[re.Pattern[str], str], ...]
"""Substitutions in the order of their application: pattern, replacement."""


def _rules(*rules: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_DOMAIN = r"[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/\-]*\b/?(?!@)"
_DASHES = (
    r"\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_FILE_TYPES = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

_BEFORE_HTML = _rules(
    (r"<person>", "person"),  # the placeholder of anonymised data sets
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})", ""),  # "http://" itself, then anything like a domain
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})", ""),  # again: the first removal may have joined a domain
)

_AFTER_HTML = _rules(
    (r"@\w+\b", ""),  # @nickname
    (r"[\u31c0-\u9fff]+", ""),  # CJK strokes, enclosed and compatibility signs, hexagrams, ideographs
    (rf"[{_DASHES}]+", "-"),  # every kind of dash
    (r"[`´«»“”¨]", '"'),  # double quotes
    (r"[‘’]", "'"),  # single quotes
    (r"&quot;?", ""),  # entities that were escaped twice
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # article ids
    (r"\\n", " "),  # a line break that was written out
    (r"#\d{1,3}\b", ""),  # "#123"
    (r"#\d{5,}\b", ""),  # "#12345"
    (r"\b\d{6,}\b", ""),  # "123456"
    (rf"\S+\.{_FILE_TYPES}", ""),  # file names
    (r"[\"']{2,}", '"'),  # runs of quotes
    (r"\.{2,}", " "),  # dots of omission
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),  # signs that carry no meaning in a caption
    (r"\s+\.\s+", " "),  # a full stop on its own
)

_WORD_JOINER = re.compile(r"[-_]")

_AFTER_REPAIR = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # product codes: jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),  # shop talk
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILE_TYPES}(?:\simages?)?", ""),  # "jpg image"; also the start of a longer word, as in training
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # longer codes: j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes: 30x40, with a Latin x, a Cyrillic one or a times sign
    (r"\b\s+:\s+", ": "),  # space before a colon
    (r"(\D[,./])\b", r"\1 "),  # no space after a comma or a full stop
    (r"\s+", " "),  # runs of white space
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),  # quotes around the whole caption
    (r"^['_,\-:;]", ""),  # a stray sign at the start
    (r"['_,\-:+]$", ""),  # a stray sign at the end
    (r"^\.\S+$", ""),  # what remains of a file name
)


_IDEOGRAPHS = r"[\u31c0-\u9fff]"
_WORD_WITHOUT_THEM = r"[^\W_\u3005-\u30ff]"
"""A letter or digit; kana and iteration marks, which Japanese writes between ideographs, are no words of their own."""

_KINDS = (
    ("ideographs, such as Chinese characters", _IDEOGRAPHS),
    ("links", rf"https?:|www:|{_DOMAIN}"),
    ("markup", r"<[^<>]+>|&\w+;"),
    ("nicknames", r"@\w"),
    ("file names and types", rf"\b{_FILE_TYPES}"),
    ("numbers and codes", r"\d"),
    ("signs", r"[^\w\s]"),
    ("words of web shops", r"shipping|download|click|page"),
)
"""What the rules remove, in words: name, pattern."""


def removed_kinds(text: str) -> list[str]:
    """Returns names of what `clean_caption` removes from a caption that it empties, for an error message."""
    return [name for name, pattern in _KINDS if re.search(pattern, text.lower())]


def lost_its_words(text: str, cleaned: str) -> bool:
    """Whether `clean_caption` has removed ideographs and left signs and kana alone."""
    return bool(re.search(_IDEOGRAPHS, text)) and not re.search(_WORD_WITHOUT_THEM, cleaned)


def clean_caption(text: str) -> str:
    """Cleans a caption: lower case, plain punctuation; no links, markup, nicknames, ideographs, codes or advertising.

    The result may be empty. The cleaning runs twice, as in training: the second run removes signs that were hidden
    behind others in the first (a stray comma before a space, an entity that was escaped twice).
    """
    return _clean_once(_clean_once(text))


def _clean_once(text: str) -> str:
    text = urllib.parse.unquote_plus(text).strip().lower()
    text = _without_markup(_apply(_BEFORE_HTML, text))
    text = _apply(_AFTER_HTML, text)
    if len(_WORD_JOINER.findall(text)) > 3:  # this-is-my-cute-cat
        text = _WORD_JOINER.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _apply(_AFTER_REPAIR, text).strip()


def _apply(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_markup(text: str) -> str:
    """Returns the text of an HTML fragment.

    The leading tag changes no text; it keeps Beautiful Soup from warning that a caption looks like an address or XML.
    """
    return BeautifulSoup(f"<p>{text}", features="html.parser").text
