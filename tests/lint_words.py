"""Keep private vocabulary out: `python tests/lint_words.py` names each old word, and what to write.

Part of `uvx nox -s lint`. Words are looked for in prose and in identifiers (`_heeded` is one).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("aioapiqueue", "tests", "benchmarks", "docs", ".github", "noxfile.py", "README.md")
KINDS = {".py", ".lua", ".md", ".toml", ".yml"}
NOT_OURS = {Path(__file__), ROOT / "aioapiqueue" / "registry" / "presets" / "operations.py"}

INSTEAD = {
    r"heed(s|ed|ing|less)?": "handle, process, apply",
    r"anew": "again, reset, rebuild",
    r"lest": "so that ... not",
    r"who(m|so)?ever": "the waiter, the caller, those that",
    r"nudg(e|es|ed|ing)": "wake",
    r"hand(s|ed|ing)? on": "pass to the next waiter",
    r"hand(s|ed|ing)? back": "refund",
    r"make(s)? no sense": "is invalid: what was expected",
    r"odd(s|ly)?": "malformed, invalid, unusual",
}
ALIASES = re.compile(r"\bodd\b.*(old name|is now)|def odd\(|Stats\.odd|ApiQueue\.odd")
"""The deprecated public names, for one release."""
# Identifiers are words joined by underscores, and prose goes on over the end of a line.
WORD = r"(?<![a-zA-Z])(?:{})(?![a-zA-Z])"
FORBIDDEN = {
    re.compile(WORD.format(word.replace(" ", r"[\s_]+(?:#\s*)?")), re.IGNORECASE): instead
    for word, instead in INSTEAD.items()
}


def files() -> list[Path]:
    """Return every file of ours in which there is code or prose."""
    found = [
        file
        for place in PLACES
        for file in ((ROOT / place).rglob("*") if (ROOT / place).is_dir() else [ROOT / place])
    ]
    return sorted(file for file in found if file.suffix in KINDS and file not in NOT_OURS)


def complaints(file: Path) -> list[str]:
    """Return a line for each old word in a file."""
    text = file.read_text("utf-8")
    lines = text.splitlines()
    found = []
    for pattern, instead in FORBIDDEN.items():
        for match in pattern.finditer(text):
            number = text.count("\n", 0, match.start())
            if not ALIASES.search(lines[number]):
                word = re.sub(r"\s+", " ", match[0])
                found.append(f'{file.relative_to(ROOT)}:{number + 1}: "{word}": write {instead}')
    return found


if __name__ == "__main__":
    problems = [line for file in files() for line in complaints(file)]
    sys.exit("\n".join(problems) or 0)
