"""The grammar of limits: from text to the arguments of a limit's type, and back.

It is the same wherever a limit is written: in code, in limits.toml, after `--limit`.

    number [unit] / time                  10/s, 500/min, 30000 tokens/min burst 30000
    number [unit] per [number] time       7 per 2s
    number time                           100ms
    number [unit] in any [number] time    5000 in any 1h
    number [unit] in each period          1500 in each day of America/Los_Angeles
    number at once                        5 at once
    number [unit] in all                  5 usd in all

A rate may have a `burst number`, then a `ramp 2x per 2min`, which may name its floor at the end
(`from 50/min`). Every form but the last may end with `or raise`. Commas separate limits, so a
number cannot have one; "unlimited" stands alone. Words of time and of the grammar are read in any
case. Units are also names in code, so they are in lower case, with a space before them: `1e3` is a
number, and neither `Tokens` and `tokens` nor `3k` and `3 k` can be mistaken for each other.

Text that is written here reads back as exactly the same numbers: a float has the fewest digits for
that, and a time has the largest unit of which it is a whole number. This file knows words and
numbers only; `_limits/limit_types.py` has the types.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REMEDY", "LimitTextError", "check_unit", "count_text", "duration_text"]

Kind: TypeAlias = Literal["rate", "window", "calendar", "concurrency", "budget"]

CALLS = "calls"
"""The unit of limits that name none."""
MONEY = "usd"
"""The unit that is counted in whole billionths."""
NO_UNITS = {"call", "rq", "rqs", "req", "reqs", "request", "requests"}
"""Words for calls: a limit that counted one of them would refuse each call that does not."""
UNLIMITED = "unlimited"
PERIODS = ("hour", "day", "month")
"""The periods of a `Calendar`."""
EXAMPLES = 'write one such as "10/s", "100ms", "5000 in any 1h", "5 at once" or "5 usd in all"'
REMEDY = f"{EXAMPLES} (all forms: aioapiqueue docs limits)"
"""The remedy in errors that have no better one."""

_SECONDS = {
    "ms": (1, 1000),
    "s": (1, 1),
    "sec": (1, 1),
    "second": (1, 1),
    "min": (60, 1),
    "minute": (60, 1),
    "h": (3600, 1),
    "hour": (3600, 1),
    "d": (86400, 1),
    "day": (86400, 1),
}
"""The seconds in each unit of time, as a fraction of whole numbers: no float of 0.001 is exact."""
_RATES = {"hz": "s", "rps": "s", "qps": "s", "tps": "s"} | {
    "rpm": "min",
    "qpm": "min",
    "rph": "h",
    "rpd": "day",
}
"""Words for calls per time, each with the time."""
_SHORT_RATES = {word: f"/{time}" for word, time in _RATES.items()} | {
    "tpm": " tokens/min",
    "tpd": " tokens/day",
    "itpm": " input_tokens/min",
    "otpm": " output_tokens/min",
}
"""What to write after the number instead of words for calls, or an LLM's tokens, per time."""
_AT_ONCE = (
    r"(?:(?:in\s+)?(?:concurrent|concurrently|concurrency|parallel|simultaneous|simultaneously)"
    r"|at\s+a\s+time)"
)
_WRITTEN = (("d", 86400), ("h", 3600), ("min", 60))
"""The units of time for whole numbers of seconds, the largest first."""
_TIME_WORDS = {word + plural for word in (*_SECONDS, "month") for plural in ("", "s")}
_GRAMMAR_WORDS = {"in", "per", "at", "burst", "ramp", "of", "each", "any", "all", "once"}
_RESERVED = _TIME_WORDS | _GRAMMAR_WORDS | {"or", "raise", UNLIMITED}

_NEVER_UNITS = NO_UNITS | _RATES.keys()

_LONGEST = 400
"""Largest number of characters of one limit; `str` writes fewer. It bounds the time of reading."""
_LONGEST_UNIT = 64
_QUOTED = 60
"""Largest number of characters of a text that a message quotes."""
_WHOLE = 10**16
"""A whole number from here on is read as a float, which is shorter in the error that refuses it."""

_ABOVE_ZERO = "its numbers must be above 0"
_NO_RAMP = (
    "only a rate can have a ramp: remove it, or write it after a rate of its own, such as "
    '"10/s ramp 2x per 2min"'
)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
# ASCII: full-width digits look the same, but are mostly a slip of an input method.
_FLAGS = re.ASCII
_WORDS = re.ASCII | re.IGNORECASE | re.DOTALL
_OR_RAISE = r"or\s+raise"
_PERIODS = "|".join(PERIODS)


class LimitTextError(ValueError):
    """A text is not a limit.

    Args:
        message: the whole message.
        reason: the part that says why; default: the text has none of the forms.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    @classmethod
    def of(cls, text: str, reason: str = "", *, kind: str = "limit") -> LimitTextError:
        """Return the error that quotes a text, with the reason or else some examples."""
        shown = repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")
        return cls(f"{shown} is not a {kind}: {reason or REMEDY}", reason)


# Reading.


@cache  # compiled when needed: `import aioapiqueue` does without
def _patterns() -> Mapping[Kind | Literal["interval"], re.Pattern[str]]:
    # Units are whatever the reserved words are not, so that "10 per s" has no unit "per".
    reserved = "|".join(sorted(_RESERVED))
    unit = rf"(?!(?:{reserved})\b)[a-z_][a-z0-9_]*"
    count = rf"(?P<number>{_NUMBER})(?:\s+(?P<unit>{unit}))?"
    word = rf"(?P<time>(?i:{'|'.join(_SECONDS)}))(?i:s?)"
    time = rf"(?P<of>{_NUMBER})?\s*{word}"

    def named(pattern: str, prefix: str) -> str:  # a pattern cannot name two groups alike
        return pattern.replace("(?P<", f"(?P<{prefix}")

    burst = (
        rf"(?:\s+(?i:burst)\s+(?P<burst>{_NUMBER})(?:\s+(?P<burst_unit>{unit}))?"
        rf"|\s*\(\s*(?i:burst)\s+(?P<burst_>{_NUMBER})\s*\))?"
    )
    per = r"\s*(?:/|\b(?i:per)\b)\s*"
    ramp = (
        rf"(?:\s+(?i:ramp)\s+(?P<factor>{_NUMBER})\s*(?i:x){per}{named(time, 'ramp_')}"
        rf"(?:\s+(?i:from)\s+{named(count + per + time, 'floor_')})?)?"
    )
    texts: dict[Kind | Literal["interval"], str] = {
        "rate": rf"{count}{per}{time}{burst}{ramp}",
        "interval": rf"(?P<of>{_NUMBER})\s*{word}{burst}{ramp}",
        "window": rf"{count}\s+(?i:in\s+any)\s+{time}",
        "calendar": rf"{count}\s+(?i:in\s+each\s+(?P<each>{_PERIODS}))"
        r"(?:\s+(?i:of)\s+(?P<zone>\S.*?))?",
        "concurrency": rf"{count}\s+(?i:at\s+once)",
        "budget": rf"{count}\s+(?i:in\s+all)",
    }
    or_raise = r"(?P<raises>\s+(?i:or\s+raise))?"
    return {kind: re.compile(text + or_raise, _FLAGS) for kind, text in texts.items()}


def split(text: str) -> list[str]:
    """Return the texts of the limits that commas separate; none for "unlimited".

    Raises:
        LimitTextError: a comma is within a number, or "unlimited" beside other limits.
    """
    # Both searches take linear time, so that a text may have any length. The first one refuses
    # "10/s burst 5,100/s", too, which could be read in two ways.
    if match := re.search(r"(?<!\d)\d{1,15}(?:,\d{3})+(?!\d)", text, _FLAGS):
        number = match[0].replace(",", "")
        raise LimitTextError.of(
            text,
            f"commas separate limits: write {number}, not {match[0]!r}. If you meant two limits, "
            "put a space after the comma",
        )
    # A bare number is not a limit, so this is a decimal comma: "0,5/s".
    if match := re.search(r"(?:^|,)\s*(\d+,\d+)", text, _FLAGS):
        number = match[1].replace(",", ".")
        raise LimitTextError.of(text, f"commas separate limits: write {number}, not {match[1]!r}")
    parts = [part.strip() for part in text.split(",")]
    if UNLIMITED in (part.lower() for part in parts):
        if len(parts) > 1:
            raise LimitTextError.of(
                text, f'"{UNLIMITED}" cannot be combined with others: remove it or the others'
            )
        return []
    if len(parts) > 1 and any(not part for part in parts):
        raise LimitTextError.of(text, "a limit is missing before or after a comma")
    return parts


def read(text: str) -> tuple[Kind, dict[str, Any]]:
    """Read one limit; return its kind, and the arguments of that type.

    Raises:
        LimitTextError: the text has none of the forms.
    """
    stripped = text.strip()
    if len(stripped) > _LONGEST:
        raise LimitTextError.of(text, f"it has more than {_LONGEST} characters")
    matches = ((kind, pattern.fullmatch(stripped)) for kind, pattern in _patterns().items())
    kind, match = next((one for one in matches if one[1]), ("rate", None))
    # "10 requests/s" has a valid form, but no call would ever state such a unit.
    found = match.groupdict() if match else {}
    if match is None or found.get("unit") in _NEVER_UNITS:
        raise LimitTextError.of(text, _problem(stripped))
    arguments: dict[str, Any] = {}
    if found["raises"] and kind != "budget":  # a budget always raises
        arguments["on_empty"] = "raise"
    unit = found.get("unit") or CALLS
    amount = _value(text, found.get("number") or "1")
    if kind == "concurrency":
        if unit != CALLS:
            raise LimitTextError.of(text, f'"at once" counts calls, not {unit}')
        return kind, arguments | {"number": amount}
    if kind == "budget":
        return kind, {"amount": amount, "unit": unit}
    return _read_calls(text, kind, found, arguments | {"calls": amount, "unit": unit})


def _read_calls(
    text: str,
    kind: Kind | Literal["interval"],
    found: Mapping[str, str],
    arguments: dict[str, Any],
) -> tuple[Kind, dict[str, Any]]:
    """Add the arguments of a limit that counts calls, or a unit, in some time."""
    if kind == "calendar":
        arguments["each"] = found["each"].lower()
        if found["zone"]:
            if re.search(r"\sramp\b", found["zone"], _WORDS):
                raise LimitTextError.of(text, _NO_RAMP)
            arguments["zone"] = found["zone"]
        return kind, arguments
    arguments["per"] = _time(text, found)
    if kind == "window":
        return kind, arguments
    if burst := found["burst"] or found["burst_"]:  # as in `named`
        if found["burst_unit"] not in (None, arguments["unit"]):
            reason = f'a burst has the unit of its rate: write "burst {burst}"'
            raise LimitTextError.of(text, reason)
        arguments["burst"] = _value(text, burst)
    if found["factor"]:
        arguments["ramp"] = _read_ramp(text, found, arguments["unit"])
    return "rate", arguments


def _read_ramp(text: str, found: Mapping[str, str], unit: str) -> dict[str, Any]:
    """Return the arguments of a ramp; `floor` is None or those of a rate."""
    floor = None
    if found["floor_number"]:
        calls = _value(text, found["floor_number"])
        # As the rate itself, if it names none: "1000 tokens/min ramp 2x per 2min from 50/min".
        floor_unit = found["floor_unit"] or unit
        floor = {"calls": calls, "per": _time(text, found, "floor_"), "unit": floor_unit}
    factor = _value(text, found["factor"])
    return {"factor": factor, "per": _time(text, found, "ramp_"), "floor": floor}


def _time(text: str, found: Mapping[str, str], prefix: str = "") -> float:
    """Return the seconds of a time that was found."""
    size = _SECONDS[found[f"{prefix}time"].lower()]
    return float(_value(text, found[f"{prefix}of"] or "1", size, whole=False))


def _value(text: str, number: str, times: tuple[int, int] = (1, 1), *, whole: bool = True) -> float:
    """Return a number times a fraction, rounded once."""
    # In integers up to the division: 1.1 * 3600 is not the float 3960, but "1.1h" is 3960 s.
    above, below = _ratio(number)
    above, below = above * times[0], below * times[1]
    if not above:
        raise LimitTextError.of(text, _ABOVE_ZERO)
    try:
        exact = whole and above % below == 0 and above < _WHOLE * below
        return above // below if exact else above / below
    except OverflowError:
        raise LimitTextError.of(text, "its number is too large") from None


def _ratio(number: str) -> tuple[int, int]:
    """Return a decimal number as a fraction of two integers."""
    digits, _, exponent = number.lower().partition("e")
    before, _, after = digits.partition(".")
    power = int(exponent or 0) - len(after)
    return int(before + after) * 10 ** max(power, 0), 10 ** max(-power, 0)


_REWRITES = (
    (r"\s+raise$", " or raise"),
    (r"\s+or\s+raise\s+(.+)$", r" \1 or raise"),
    (r"\s+(?:in\s+sum|(?:in\s+)?total|overall|altogether)$", " in all"),
    (rf"^\$\s*({_NUMBER})(?:\s+or\s+raise)?$", r"\1 usd in all"),
    (rf"^\$\s*({_NUMBER})\s*(?:/|per\s)\s*h(?:our)?\b", r"\1 usd in each hour"),
    (rf"^\$\s*({_NUMBER})\s*(?:/|per\s)\s*(day|month)\b", r"\1 usd in each \2"),
    (rf"^({_NUMBER})\s*\$", r"\1 usd"),
    (r"\s(?:in\s+)?(?:a|an|every|one|each)\s+(hour|day|month)\b", r" in each \1"),
    (r"\sdaily\b", " in each day"),
    (r"\s(hour|month)ly\b", r" in each \1"),
)
"""Common slips, each with its correction."""


def _problem(text: str) -> str:
    """Return why a text has no form of the grammar, if that is known."""
    for slip, instead in _REWRITES:
        mended = re.sub(slip, instead, text, flags=_WORDS)
        if mended != text and any(form.fullmatch(mended) for form in _patterns().values()):
            return _advice(mended) or _problem(mended)
    match = re.match(rf"({_NUMBER})(\s*)(.*)", text, _FLAGS | re.DOTALL)
    if match is None:
        return _problem_without_number(text)
    number, blank, rest = match.groups()
    if not rest or re.fullmatch(_OR_RAISE, rest, _WORDS):
        return f'a bare number is ambiguous: write "{number}/s", "{number}s" or "{number}ms"'
    if not blank and re.fullmatch(r"[\d.]{1,12}", number) and re.match(r"[kKM]\b", rest, _FLAGS):
        thousands = number_text(float(number) * (1e6 if rest[0] == "M" else 1e3)) + rest[1:]
        return _advice(thousands) or _problem(thousands)
    return _problem_in_one_word(number, rest) or _problem_of_rest(number, blank, rest)


def _problem_without_number(text: str) -> str:
    """Return what is wrong with a text that does not begin with a number, if that is known."""
    if most := re.fullmatch(rf"max\s+({_NUMBER})(?:\s+{_AT_ONCE})?", text, _WORDS):
        return f'write "{most[1]} at once"'
    if money := re.match(rf"\$\s*({_NUMBER})(\b.*)", text, _WORDS):
        mended = f"{money[1]} usd{money[2]}"
        return _advice(mended) or _problem(mended)
    if re.match(r"(?:or\s+raise|raise|ramp|burst)\b", text, _WORDS):
        return 'it belongs to the limit before it, without a comma, such as "10/s or raise"'
    negative = re.match(rf"-\s*{_NUMBER}", text, _FLAGS)
    return _ABOVE_ZERO if negative else ""


def _advice(text: str) -> str:
    """Return the advice to write this text instead, if it is a limit, or that a number is 0."""
    try:
        kind, found = read(text)
    except LimitTextError as error:
        return error.reason if error.reason == _ABOVE_ZERO else ""
    if kind == "rate" and found["unit"] == MONEY and "burst" not in found:
        return needs_burst(found["calls"], found["per"])
    return f'write "{text}"'


def _problem_in_one_word(number: str, rest: str) -> str:
    """Return what to write for a word that stands for a whole limit: rpm, tpm, concurrent."""
    if re.match(rf"{_AT_ONCE}\b", rest, _WORDS):
        return f'write "{number} at once"'
    match = re.fullmatch(r"(\w+)(\s+(?:burst|or)\s.*)?", rest, _WORDS)
    per = _SHORT_RATES.get(match[1].lower()) if match else None
    return _advice(f"{number}{per}{match[2] or ''}") if match and per else ""


def _problem_of_rest(number: str, blank: str, rest: str) -> str:
    """Return what is wrong with a number, the space after it, and the rest."""
    has_unit = re.match(r"([^\s/()]+)\s*($|(?:/|(?:per|in|at|or)\b).*)", rest, _WORDS)
    if has_unit is None or has_unit[1].lower() in _RESERVED - _TIME_WORDS:
        return _problem_of_form(number, rest)
    unit, form = has_unit.groups()
    if unit.lower() in _NEVER_UNITS:
        return _problem_of_calls(number, unit.lower(), form or "/s")
    return _problem_of_unit(number, blank, unit, form)


def _problem_of_unit(number: str, blank: str, unit: str, form: str) -> str:
    """Return what is wrong with a number, the space before its unit, the unit, and the rest."""
    if not blank and re.fullmatch(r"_[\d_]+", unit):
        return f'write {number}{unit.replace("_", "")}, without "_"'
    try:
        check_unit(unit)
    except ValueError as error:
        return str(error)
    if not form or re.fullmatch(_OR_RAISE, form, _WORDS):
        rate = f"{number} {unit}{' in each day' if unit == MONEY else '/min'}"
        return (
            f'it has no time: write "{rate}", "{number} {unit} in any 1h" or, for a '
            f'budget, "{number} {unit} in all"'
        )
    if not blank:
        return f'write a space before the unit: "{number} {unit}"'
    return _problem_of_form(f"{number} {unit}", form)


def _problem_of_calls(number: str, word: str, form: str) -> str:
    """Return what is wrong with a number, a word for calls or calls per time, and the rest."""
    if word in _RATES:
        return f'write "{number}/{_RATES[word]}"'
    advice = _advice(number + form if form[0] == "/" else f"{number} {form}")
    return _problem_of_form(number, form) or (
        f"calls are counted without a unit: {advice}" if advice.startswith("write") else advice
    )


def _problem_of_form(count: str, form: str) -> str:
    """Return what is wrong after a number and its unit, if that is known."""
    if problem := _problem_of_words(form) or _problem_of_ramp(form):
        return problem
    if match := re.search(r"\bburst\b\s*(.*)", form, _WORDS):
        if form[:2].lower() == "in":
            return (
                "only a rate can have a burst: remove the burst, because a window allows all of "
                "its calls at once"
            )
        if not match[1]:
            return 'a number is missing after "burst": write "burst 20" for 20 calls at once'
    match = re.match(rf"(?:/|per\b|in(?:\s+any)?\b)\s*(?:{_NUMBER})?\s*([a-z]+)", form, _WORDS)
    word = match[1].lower() if match else ""
    if word in ("month", "months"):
        in_days = f"{count} {'in any' if count.endswith(MONEY) else 'per'} 30 days"
        return f'months differ in length: write "{count} in each month" or "{in_days}"'
    if word and word not in {*_TIME_WORDS, "all", "each"}:
        budget = ', or, for a budget, "in all"' if form[:2].lower() == "in" else ""
        return f"{word!r} is not a unit of time: write ms, s, min, h or day{budget}"
    match = re.match(r"in\s+(?!(?:any|all|each)\b)(\S.*)", form, _WORDS)
    return f'write "in any {match[1]}"' if match else ""


def _problem_of_words(form: str) -> str:
    """Return what is wrong with words that none of the forms has."""
    if re.match(r"(?:in|at)\b.*\sramp\b", form, _WORDS):
        return _NO_RAMP
    match = re.match(r"in\s+each\s+(.*)", form, _WORDS)
    if match and not re.fullmatch(rf"(?:{_PERIODS})(?:\s+{_OR_RAISE})?", match[1], _WORDS):
        if after := re.match(rf"({_PERIODS})\s", match[1], _WORDS):
            return f'after "in each {after[1]}", write a time zone, such as "of Europe/Berlin"'
        return 'write "in each hour", "in each day" or "in each month"'
    if (match := re.search(r"\bor\b\s*(.*)", form, _WORDS)) and match[1].lower() != "raise":
        return 'calls wait by default: remove "or ...", or write "or raise" at the very end'
    return _problem_after_all(form) if re.match(r"in\s+all\b", form, _WORDS) else ""


def _problem_after_all(form: str) -> str:
    """Return what is wrong after "in all"; nothing, if only the unit before it is wrong."""
    if re.match(r"in\s+all\s+burst\b", form, _WORDS):
        return "a budget has no burst: remove it"
    if re.fullmatch(rf"in\s+all(?:\s+{_OR_RAISE})?", form, _WORDS):
        return ""
    return 'nothing may follow "in all", except for "or raise"; ", " separates limits'


def _problem_of_ramp(form: str) -> str:
    """Return what is wrong with the ramp of a limit, if it has one."""
    match = re.search(r"\bramp\b\s*(.*)", form, _WORDS)
    if match is None:
        return ""
    if burst := re.search(rf"\bburst\s+{_NUMBER}", match[1], _WORDS):
        return f'the burst comes first: write "{burst[0]}" before "ramp"'
    plain = re.fullmatch(rf"({_NUMBER})\s*(?:times\s*)?((?:/|per\b).*)", match[1], _WORDS)
    if plain is not None:
        space = "" if plain[2][0] == "/" else " "
        return f'write "ramp {plain[1]}x{space}{plain[2]}"'
    return (
        'after "ramp", write a factor and a time, such as "ramp 2x per 2min", and optionally a '
        'starting rate, such as "ramp 2x per 2min from 50/min"'
    )


def needs_burst(calls: float, per: float, end: str = "") -> str:
    """Return why a rate in USD without a burst is refused: it would not be the cap it looks like.

    Args:
        calls: the rate's USD.
        per: its seconds.
        end: what its text ends with.
    """
    count, period = count_text(calls, MONEY), {3600: "hour", 86400: "day"}.get(int(per))
    texts = [f"{count} in each {period}"] if period else []
    texts.append(f"{count} in any {'24h' if period == 'day' else time_text(per)}")
    shown = ", ".join(f'"{text}{end}"' for text in texts)
    return (
        "a rate in usd needs a burst, the most that is spent at once: write "
        f'{shown} or "{count}{per_text(per)} burst 1 usd{end}"'
    )


def check_unit(unit: object) -> None:
    """Refuse an invalid name of a unit.

    Raises:
        TypeError: it is not a string.
        ValueError: it has other characters than lower-case letters, digits and `_`, or has another
            meaning in limits.
    """
    if not isinstance(unit, str):
        raise TypeError(f'unit must be a name such as "tokens", not {unit!r}')
    if unit in _RESERVED:
        raise ValueError(
            f"a unit cannot be called {unit!r}: the word has another meaning in limits; "
            "choose another name"
        )
    if unit in _NEVER_UNITS:
        raise ValueError(f"calls are counted without a unit: remove {unit!r}")
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", unit, _FLAGS) or len(unit) > _LONGEST_UNIT:
        plain = re.sub(r"[^a-z0-9_]+", "_", unit.lower()).strip("_")[:_LONGEST_UNIT]
        remedy = "" if not plain or plain[0].isdigit() else f": write {plain!r}"
        shown = repr(unit[:_LONGEST_UNIT])
        raise ValueError(
            f"the name of a unit has lower-case letters, digits and _, not {shown}{remedy}"
        )


# Writing.


def number_text(value: float) -> str:
    """Return a number with the fewest digits that read back as the same number."""
    return str(int(value)) if value == int(value) else repr(float(value))


def count_text(number: float, unit: str) -> str:
    """Return a number, with its unit if that is not calls."""
    return number_text(number) if unit == CALLS else f"{number_text(number)} {unit}"


def time_text(seconds: float) -> str:
    """Return a time: 1h, 90s, 100ms."""
    for word, size in _WRITTEN:
        if seconds % size == 0:
            return f"{number_text(seconds // size)}{word}"
    if 1e-3 <= seconds < 1:  # noqa: PLR2004 - a millisecond
        text = number_text(round(seconds * 1000, 9))
        above, below = _ratio(text)
        # Only if it reads back as the same float: rounding has perhaps changed it.
        if above / (below * 1000) == seconds:
            return f"{text}ms"
    return f"{number_text(seconds)}s"


def duration_text(seconds: float) -> str:
    """Return a duration for people, with three digits: 0.05 s, 49.3 min, 87 days.

    >>> [duration_text(seconds) for seconds in (0.0499, 60, 2960, 1e9)]
    ['0.0499 s', '60 s', '49.3 min', '11,574 days']
    """
    for word, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:.3g} {word}" if count < 999.5 else f"{count:,.0f} {word}"  # noqa: PLR2004 - more than three digits
    return f"{seconds:.3g} s"


def per_text(seconds: float) -> str:
    """Return what follows the number of a rate: /s, /min, or " per 2s"."""
    text = time_text(seconds)
    if text == "1d":
        return "/day"
    if text[0] == "1" and text[1:] in _SECONDS:
        return f"/{text[1:]}"
    return f" per {text}"
