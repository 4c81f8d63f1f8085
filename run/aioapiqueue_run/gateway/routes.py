"""Finds the operation of a REST request, which does not name it, by method, path and query.

Several operations may match: `GET /bucket?acl` matches `GET /{Bucket}` and `GET /{Bucket}?acl`, and
`/functions/list` matches `/functions/{name}`. The most specific one wins.

The paths of a service are a trie. A regular expression for each route would have to be compiled
first, and all of them tried for each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

__all__ = ["Routes"]


class _Operation(NamedTuple):
    """An operation at the end of a path.

    Attributes:
        literal: number of literal parts of the path.
        parts: number of all its parts.
        after: the parts after a greedy one, which matches any number: `["policy"]` for
            `/{Name+}/policy`.
        has: other required parts of the request: `"acl"`, `"list-type=2"`, `"x-amz-copy-source:"`.
        name: the name of the operation.
    """

    literal: int
    parts: int
    after: Sequence[str]
    has: frozenset[str]
    name: str

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The order of specificity, the most specific first. Equal ones are ordered by name."""
        return -self.literal, -self.parts, -len(self.has), self.name

    def matches_end(self, parts: Sequence[str]) -> bool:
        """Return whether the rest of a path matches the greedy part and all after it."""
        return len(parts) > len(self.after) and all(
            map(_fits, self.after, parts[-len(self.after) :])
        )


class _Node:
    """A node of the trie of paths."""

    __slots__ = ("any", "ends", "literal", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        """The nodes after each literal part."""
        self.any: _Node | None = None
        """The node after a part that matches any text."""
        self.rest: list[_Operation] = []
        """The operations with a greedy part here."""
        self.ends: list[_Operation] = []
        """The operations whose path ends here."""


class Routes:
    """The operations of one service.

    Args:
        routes: method, path (`"/{Bucket}/{Key+}"`), other required parts of the request, and name.
    """

    def __init__(self, routes: Iterable[tuple[str, str, Sequence[str], str]]) -> None:
        self._methods: dict[str, _Node] = {}
        for method, path, has, name in routes:
            node = self._methods.setdefault(method, _Node())
            parts = _parts(path)
            literal = sum(not part.startswith("{") for part in parts)
            greedy = next((at for at, part in enumerate(parts) if part.endswith("+}")), len(parts))
            after = parts[greedy + 1 :]
            operation = _Operation(literal, len(parts), after, frozenset(has), name)
            for part in parts[:greedy]:
                if part.startswith("{"):
                    if node.any is None:
                        node.any = _Node()
                    node = node.any
                else:
                    node = node.literal.setdefault(part, _Node())
            (node.ends if greedy == len(parts) else node.rest).append(operation)

    def find(self, method: str, path: str, has: Collection[str]) -> str | None:
        """Return the operation of a request; None if none matches.

        Args:
            method: the method, such as `"GET"`.
            path: the path as it is sent, without the query.
            has: the names in the query, the pairs `"name=value"`, and the names of headers in
                lower case with a colon.
        """
        start = self._methods.get(method)
        if start is None:
            return None
        present = frozenset(has)
        fit = [one for one in _walk(start, _parts(path), 0) if one.has <= present]
        return min(fit, key=lambda one: one.rank).name if fit else None


def _parts(path: str) -> list[str]:
    """Return the parts of a path. A slash at its end makes no difference."""
    return path.rstrip("/").split("/")[1:]


def _fits(template: str, part: str) -> bool:
    return template.startswith("{") or template == part


def _walk(node: _Node, parts: Sequence[str], at: int) -> Iterator[_Operation]:
    """Yield all operations whose paths match."""
    if at == len(parts):
        yield from node.ends
        return
    # Every branch is followed, because a literal part may lead to no match later.
    yield from (one for one in node.rest if one.matches_end(parts[at:]))
    literal = node.literal.get(parts[at])
    if literal is not None:
        yield from _walk(literal, parts, at + 1)
    if node.any is not None and parts[at]:
        yield from _walk(node.any, parts, at + 1)
