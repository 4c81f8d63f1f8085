"""What is changed in a source: one operator, number, condition or statement at a time.

A mutation replaces a part of the text, and leaves the rest of it as it is. What cannot matter is
left alone: annotations, docstrings, messages, `__all__`, and what only a type checker reads.
Strings are not changed: most are messages.
"""

from __future__ import annotations

import ast
import copy
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Mutation", "mutations_of", "sample"]

SWAPPED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitAnd: (ast.BitOr,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
SKIPPED = (ast.JoinedStr, ast.alias)  # what is in an f-string has no place of its own in 3.11


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Attributes:
        file: its path within the package.
        line: the first line that changes.
        lines: all lines of the statement, or of its head.
        text: that first line, stripped: it says where, whatever else changes in the file.
        nth: which one of several lines with this text.
        change: "old -> new".
        start: of the text that is replaced, as offset.
        end: of it.
        new: what replaces it.
    """

    file: str
    line: int
    lines: range
    text: str
    nth: int
    change: str
    start: int
    end: int
    new: str

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What stays the same while other lines change."""
        return (self.file, self.text, self.nth, self.change)

    def apply(self, source: str) -> str:
        """Return the changed source."""
        return source[: self.start] + self.new + source[self.end :]


def mutations_of(file: str, source: str) -> list[Mutation]:
    """Return every mutation of a source, in order of place."""
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    seen: Counter[str] = Counter()
    nth = []
    for line in lines:
        seen[line.strip()] += 1
        nth.append(seen[line.strip()])

    def place(line: int, column: int) -> int:
        # Columns count bytes of UTF-8.
        return offsets[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = {}
    for statement in _statements(tree):
        head = range(statement.lineno, _end_of_head(statement) + 1)
        for old, new in _changes(statement):
            start = place(old.lineno, old.col_offset)
            end = place(old.end_lineno, old.end_col_offset)
            before, text = source[start:end], _text_of(new)
            change = f"{_short(before)} -> {_short(text)}"
            first = old.lineno
            one = Mutation(
                file,
                first,
                head,
                lines[first - 1].strip(),
                nth[first - 1],
                change,
                start,
                end,
                text,
            )
            found.setdefault(one.key, one)
    return sorted(found.values(), key=lambda one: (one.start, one.end, one.change))


def sample(sources: Mapping[str, str], number: int, seed: int) -> list[Mutation]:
    """Return so many mutations: of lines drawn evenly from all files, one of each line at most."""
    by_line: dict[tuple[str, int], list[Mutation]] = defaultdict(list)
    for file, source in sorted(sources.items()):
        for one in mutations_of(file, source):
            by_line[file, one.line].append(one)
    rng = random.Random(seed)
    places = rng.sample(sorted(by_line), min(number, len(by_line)))
    return [rng.choice(by_line[place]) for place in places]


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that matter when the program runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node.targets[0]):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            "overload" in ast.unparse(one) for one in node.decorator_list
        ):
            continue
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(b) for b in node.bases):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from _statements(node)


def _end_of_head(statement: ast.stmt) -> int:
    body = getattr(statement, "body", None)
    return max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno


def _changes(statement: ast.stmt) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield what is replaced, and by what: of a statement without those that it contains."""
    match statement:
        case (
            ast.Expr(value=ast.Call() | ast.Await())
            | ast.Delete()
            | ast.Raise()
            | ast.AugAssign()
            | ast.Assign(targets=[ast.Attribute() | ast.Subscript()])
        ):
            yield statement, ast.Pass()
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield statement, ast.Return(ast.Constant(None))
        case ast.Break():
            yield statement, ast.Continue()
        case ast.Continue():
            yield statement, ast.Break()
        case ast.If(test=test) | ast.While(test=test) if ast.unparse(test) != "True":
            yield test, ast.UnaryOp(ast.Not(), test)
    if isinstance(statement, ast.AugAssign):
        yield from ((statement, _with(statement, op=x())) for x in SWAPPED[type(statement.op)])
    for node in _expressions(statement):
        yield from ((node, new) for new in _replacements(node))


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield all expressions of a statement, but for annotations and what is within others."""
    for name, value in ast.iter_fields(statement):
        if name in {"annotation", "returns", "decorator_list", "bases", "type_params"}:
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.expr):
                yield from _within(node)
            elif isinstance(node, ast.arguments):
                for default in (*node.defaults, *filter(None, node.kw_defaults)):
                    yield from _within(default)
            elif isinstance(node, ast.withitem):
                yield from _within(node.context_expr)
            elif isinstance(node, ast.match_case) and node.guard is not None:
                yield from _within(node.guard)


def _within(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, SKIPPED):
        return
    if isinstance(node, ast.expr):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _within(child)


def _replacements(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=operators):
            for number, operator in enumerate(operators):
                for other in SWAPPED[type(operator)]:
                    changed = [*operators[:number], other(), *operators[number + 1 :]]
                    yield _with(node, ops=changed)
        case ast.BoolOp(op=operator):
            yield from (_with(node, op=other()) for other in SWAPPED[type(operator)])
        case ast.BinOp(op=operator, left=left, right=right):
            if not {ast.JoinedStr, str} & {_type_of(left), _type_of(right)}:  # else a message
                yield from (_with(node, op=other()) for other in SWAPPED.get(type(operator), ()))
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case _:
            yield from _other_values(node)


def _other_values(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield _with(node, func=ast.Name(CALLS[name]))
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr=name)) if name in CALLS:
            yield _with(node, func=ast.Attribute(ast.Name("math"), CALLS[name]))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _type_of(node: ast.expr) -> type:
    return type(node.value) if isinstance(node, ast.Constant) else type(node)


def _text_of(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, ast.expr) else text


def _short(text: str) -> str:
    return " ".join(text.split())
