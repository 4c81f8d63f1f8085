"""Keep private vocabulary out: `python tests/lint_words.py` lists old words, and what to write.

Part of `uvx nox -s lint`. `INSTEAD` applies everywhere, to prose and to names (`_heeded` is one).
`FOR_USERS` applies to what users read: pages, messages, and docstrings of public names. It catches
words that were there once; it does not make good sentences.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator  # noqa: TC003 - as a program, it finds tests/typing as `typing`
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (
    *("aioapiqueue", "run", "tests", "benchmarks", "docs", ".github", "noxfile.py"),
    *("README.md", "CHANGELOG.md"),
)
KINDS = {".py", ".lua", ".md", ".toml", ".yml"}

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
FOR_USERS = {
    r"the other side": "the server, the API",
    r"push-?back(s)?|pushed back": "the server throttled the call (429)",
    r"(no|some)body": "no other caller, another client",
    r"in vain": "without success",
    r"of late": "recently",
    r"reckon(s|ed|ing)?": "count, estimate",
    r"be (it|they|there)": "whether ... or",
    r"(none|all|each|both|some|one|most) of which": "a sentence of its own",
    r"besides(?=[,.;:])": "also",
    r"(is|are|was|were) to be": "must be, will be",
    r"there (is|are) none": "... is missing, ... does not exist",
    r"ow(e|es|ed|ing) (nothing|of|from)|(nothing|is|are) owed": "not yet recovered",
    r"dear(er|est)? (call|one|calls|ones)": "expensive",
    r"let(s)? (calls |them |it |nothing |one )*(go|out|through|in)": "start, admit, allow",
    r"what is out|those out|(are|is) out without": "calls in flight",
    r"by degrees": "step by step",
    r"(say|says|said) (of|nothing)": "name what is reported",
    r"as (it|they|he) (has|have) it": "as in ...",
    r"for want of": "because ... is missing",
    r"come(s)? under": "has, counts for, is subject to",
    r"bears": "allows",
    r"goes by": "uses",
    r"(is|are|was) told": "receives, gets",
    r"hear(s|d)? of": "receives, learns",
    r"all the same": "still, anyway",
    r"ask(s|ed)? nobody": "write it out",
    r"no more than that": "at most",
}
PACKAGES = {"aioapiqueue", "aioapiqueue_run"}
PROGRAMS = "aioapiqueue_run"
"""The package that users do not import; its messages are checked."""
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PUBLIC = re.compile(r"^(?:async )?(?:class|def) (\w+)|^(\w+) =", re.MULTILINE)
# Identifiers are words joined by underscores, and prose goes on over the end of a line.
WORD = r"(?<![a-zA-Z])(?:{})(?![a-zA-Z])"


def compiled(words: dict[str, str]) -> dict[re.Pattern[str], str]:
    """Return the patterns of a table of words."""
    return {
        re.compile(WORD.format(word.replace(" ", r"[\s_]+(?:#\s*)?")), re.IGNORECASE): instead
        for word, instead in words.items()
    }


EVERYWHERE, READ_BY_USERS = compiled(INSTEAD), compiled(FOR_USERS)


def files() -> list[Path]:
    """Return every file of ours in which there is code or prose."""
    found = [
        file
        for place in PLACES
        for file in ((ROOT / place).rglob("*") if (ROOT / place).is_dir() else [ROOT / place])
    ]
    return sorted(
        file
        for file in found
        if file.suffix in KINDS and file != Path(__file__) and "_build" not in file.parts
    )


def public_names() -> set[str]:
    """Return the names of classes and functions in the pinned API."""
    text = (ROOT / "tests" / "api.txt").read_text("utf-8")
    return {name for found in PUBLIC.findall(text) for name in found if name[:1] != "_"} - {""}


def read_by_users(file: Path, public: set[str]) -> Iterator[tuple[int, str]]:
    """Yield each text of a file that users read, with the line on which it begins."""
    if file.suffix == ".md":
        yield 1, file.read_text("utf-8")
    if file.suffix != ".py" or PACKAGES.isdisjoint(file.relative_to(ROOT).parts):
        return
    tree = ast.parse(file.read_text("utf-8"))
    # Expressions are docstrings, those of attributes too.
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.lineno, node.value
    for owner in tree.body if PROGRAMS not in file.parts else ():
        if isinstance(owner, DEFINITIONS) and owner.name in public:
            for node in (owner, *(owner.body if isinstance(owner, ast.ClassDef) else ())):
                if (
                    isinstance(node, DEFINITIONS)
                    and not node.name.startswith("_")
                    and (text := ast.get_docstring(node, clean=False))
                ):
                    yield node.body[0].lineno, text


def found_in(text: str, words: dict[re.Pattern[str], str]) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each old word, counted from 0, the word, and what to write."""
    for pattern, instead in words.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()), re.sub(r"\s+", " ", match[0]), instead


def complaints(file: Path, public: set[str]) -> list[str]:
    """Return a line for each old word in a file."""
    text = file.read_text("utf-8")
    found = [(line + 1, word, instead) for line, word, instead in found_in(text, EVERYWHERE)]
    for first, shown in read_by_users(file, public):
        found += [(first + line, *rest) for line, *rest in found_in(shown, READ_BY_USERS)]
    return [
        f'{file.relative_to(ROOT)}:{line}: "{word}": write {instead}'
        for line, word, instead in sorted(found)
    ]


if __name__ == "__main__":
    names = public_names()
    problems = [line for file in files() for line in complaints(file, names)]
    sys.exit("\n".join(problems) or 0)
