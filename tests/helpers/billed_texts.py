"""Random texts in six scripts, and what tokenizers make of them, for tests of prices."""

from __future__ import annotations

import math
import os
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tests.helpers.lazily import lazily

tiktoken = lazily("tiktoken")

__all__ = ["SCRIPTS", "Tokens", "english", "text"]

_TEXTS = {
    "latin": (
        "the of and to in a is that for it as was with be by on not he his but at are this have "
        "from or had an they which one you were all her she there would their we him been has "
        "when who will no more if out so what up said its about than into them can only other "
        "time new some could these two may first then do any like my now over such our man me "
        "even most made after also did many off before must well back through years much where "
        "your way down should because long each just state those people too mister little good "
        "world make very year still see own work men day get here between life being under three "
        "never know same last another while us might great go come since against right came take "
        "used himself few house use place during high without again home around small however "
        "found part school once general upon every committee library discuss building quarterly "
        "invoice database customer please summarize paragraph following temperature negotiation "
        "responsibility"
    ),
    "cyrillic": (
        "комитет собрался вторник чтобы обсудить новую библиотеку несколько человек спросили можно "
        "ли использовать старое здание для вечерних занятий и кто будет за это отвечать в городе"
    ),
    "chinese": "委员会星期二开会讨论新图书馆有几个人问旧楼是否还能用于晚间课程谁来负责这件事情",
    "japanese": "委員会は火曜日に新しい図書館について話し合い古い建物を夜間クラスに使えるかどうか",
    "arabic": (
        "اجتمعت اللجنة يوم الثلاثاء لمناقشة المكتبة الجديدة وسأل عدة أشخاص عما إذا كان من الممكن "
        "استخدام المبنى القديم للدروس المسائية"
    ),
    "devanagari": (
        "समिति ने नए पुस्तकालय पर चर्चा करने के लिए मंगलवार को बैठक की और कई लोगों ने पूछा कि क्या "
        "पुरानी इमारत का उपयोग किया जा सकता है"
    ),
    "emoji": (
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f389 \U0001f3f3\ufe0f\u200d\U0001f308 "
        "\U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2615 \U0001f9d1\u200d\U0001f4bb"
    ),
    "digits": "0 17 3.14159 2026-12-02 90210 4815162342 1e-9 0xdeadbeef",
    "code": """def f(x): return {"a": [x, -1]} if (x != None) else '\\n\\t'; <td>&nbsp;</td> //=""",
}
_JOINED = ("chinese", "japanese")
"""Scripts without spaces between words."""
_WORDS = {name: [*words] if name in _JOINED else words.split() for name, words in _TEXTS.items()}
SCRIPTS = tuple(_WORDS)


def english(random, words):
    """Return sentences of English."""
    found = random.choices(_WORDS["latin"], k=words)
    ends = range(random.randint(7, 20), words, 13)
    for end in ends:
        found[end] = f"{found[end]}."
    return " ".join(found).capitalize()


def text(random, words):
    """Return a text in one script, or in several."""
    names = random.choices(SCRIPTS, k=random.choice([1, 1, 1, 3]))
    parts = []
    for name in names:
        joint = "" if name in _JOINED else " "
        parts.append(joint.join(random.choices(_WORDS[name], k=-(-words // len(names)))))
    return " ".join(parts)


@lru_cache
def _encoding():
    """Return a real tokenizer, or None if its table is not on this machine."""
    spec = find_spec("llama_index")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0], "core", "_static", "tiktoken_cache")
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = os.fspath(folder)
    try:
        return tiktoken.get_encoding("cl100k_base")
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]
        if before is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


class Tokens:
    """Counts the tokens of texts.

    Args:
        is_coarse: whether as OpenAI's tokenizer, else as the worst one there is for such texts: a
            token for each byte of an unknown character, each digit and each mark, and for every
            second letter.
    """

    def __init__(self, *, is_coarse):
        self._encoding = _encoding() if is_coarse else None
        self._is_coarse = is_coarse

    def of(self, text):
        """Return the number of tokens of a text."""
        if self._encoding is not None:
            return len(self._encoding.encode_ordinary(text))
        if self._is_coarse:  # no table: as for English, and two tokens of three bytes else
            plain = len(text.encode("ascii", "ignore"))
            return math.ceil(plain / 5 + (len(text.encode()) - plain) / 1.5)
        words = re.findall(r"[A-Za-z]+", text)
        return len(text.encode()) - sum(len(word) // 2 for word in words)
