"""Which operation a method, a path and a query stand for, in the protocols that have no name of it.

Several may fit: `GET /{Bucket}?acl` is told from `GET /{Bucket}` by its query, and the path
`/functions/{name}` from `/functions/list` by a part that is spelt out. The one that says most wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

__all__ = ["Routes"]


class _Operation(NamedTuple):
    """An operation at the end of a path.

    Attributes:
        literal: how many parts of the path are spelt out.
        parts: how many it has.
        after: the parts that follow one which takes any number: of `/{Name+}/policy`, the last.
        has: what else the request has: `"acl"`, `"list-type=2"`, `"x-amz-copy-source:"`.
        name: its own.
    """

    literal: int
    parts: int
    after: Sequence[str]
    has: frozenset[str]
    name: str

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The lower, the more of a request it says; of equal ones, the first by name."""
        return -self.literal, -self.parts, -len(self.has), self.name

    def ends(self, parts: Sequence[str]) -> bool:
        """Return whether a path ends as this one does."""
        return len(parts) > len(self.after) and all(
            map(_fits, self.after, parts[-len(self.after) :])
        )


class _Node:
    """Where one is in a path, some parts on."""

    __slots__ = ("any", "ends", "literal", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        """After a part that is spelt out."""
        self.any: _Node | None = None
        """After one that may be anything."""
        self.rest: list[_Operation] = []
        """What takes any number of parts that follow."""
        self.ends: list[_Operation] = []
        """What ends here."""


class Routes:
    """The operations of one service.

    Args:
        routes: method, path (`"/{Bucket}/{Key+}"`), what the request has besides, and the name.
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
        """Return the operation of a request; None: there is none.

        Args:
            method: `"GET"`.
            path: as it is sent, without the query.
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
    """Return the parts of a path; a slash at its end says nothing."""
    return path.rstrip("/").split("/")[1:]


def _fits(template: str, part: str) -> bool:
    return template.startswith("{") or template == part


def _walk(node: _Node, parts: Sequence[str], at: int) -> Iterator[_Operation]:
    """Yield all operations whose paths fit."""
    if at == len(parts):
        yield from node.ends
        return
    yield from (one for one in node.rest if one.ends(parts[at:]))
    literal = node.literal.get(parts[at])
    if literal is not None:
        yield from _walk(literal, parts, at + 1)
    if node.any is not None and parts[at]:
        yield from _walk(node.any, parts, at + 1)
