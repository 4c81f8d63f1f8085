"""Masks account numbers and possible credentials in a report."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Excludes the decimals of a number. It is better to mask another number than to miss an account.
_ACCOUNT = re.compile(r"(?<!\d)(?<!\d\.)\d{12}(?!\d)|(?<![\d-])\d{4}-\d{4}-\d{4}(?![\d-])")
# The prefixes of access keys and bearer tokens among AWS's unique ids (IAM user guide,
# "identifiers"), and A3T, which the guide does not list but secret scanners look for.
_ACCESS_KEY = re.compile(r"(?<![A-Za-z0-9])(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{8,}")
# A path may contain "@". A password may contain "/", although it should be encoded.
_PASSWORD = re.compile(r"(?<=://)(?:[^/\s]*@|[^/\s@]*:\S*@)")
_QUERY = re.compile(r"([?&][\w.~-]+=)[^&\s]+")


class Masks:
    """Masks texts. Equal secrets get equal masks, and different secrets get different ones.

    >>> masks = Masks(show_accounts=False)
    >>> masks.text("ec2 eu-west-1 111122223333"), masks.text("ec2 eu-west-1 444422223333")
    ('ec2 eu-west-1 …3333', 'ec2 eu-west-1 …3333 (2)')
    >>> masks.text("sts AKIAIOSFODNN7EXAMPLE"), masks.text("redis://me:secret@cache:6379")
    ('sts access-key-1', 'redis://…@cache:6379')

    Args:
        show_accounts: whether to leave AWS account numbers unmasked.
        access_keys: more access keys to mask; any text is allowed. Default: none.
        prefixes: mask `access_keys` only directly after one of these texts, because a key may be a
            word such as "a". Default: mask them anywhere.
    """

    def __init__(
        self,
        *,
        show_accounts: bool,
        access_keys: Iterable[str] = (),
        prefixes: Collection[str] = ("",),
    ) -> None:
        self._show_accounts = show_accounts
        # Longest first, so that no key matches only the beginning of another one.
        longest_first = sorted(map(re.escape, access_keys), key=len, reverse=True)
        self._given = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)")
        self._has_given = bool(longest_first)
        self._prefixes = tuple(prefixes)
        self._accounts: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Return a text with its secrets masked."""
        text = _QUERY.sub(r"\1…", _PASSWORD.sub("…@", text))
        if self._has_given:
            text = self._given.sub(self._given_key, text)
        text = _ACCESS_KEY.sub(self._key, text)
        return text if self._show_accounts else _ACCOUNT.sub(self._account, text)

    def all(self, thing: Any) -> Any:  # noqa: ANN401 - whatever JSON has
        """Return a JSON value with all texts in it masked."""
        if isinstance(thing, str):
            return self.text(thing)
        if isinstance(thing, dict):
            return {name: self.all(value) for name, value in thing.items()}
        if isinstance(thing, list | tuple):
            return [self.all(one) for one in thing]
        return thing

    def _given_key(self, found: re.Match[str]) -> str:
        follows = found.string.endswith(self._prefixes, 0, found.start())
        return self._key(found) if follows else found[0]

    def _key(self, found: re.Match[str]) -> str:
        return self._keys.setdefault(found[0], f"access-key-{len(self._keys) + 1}")

    def _account(self, found: re.Match[str]) -> str:
        account = found[0].replace("-", "")
        if account not in self._accounts:
            last = account[-4:]
            same = sum(one.endswith(last) for one in self._accounts)
            self._accounts[account] = f"…{last} ({same + 1})" if same else f"…{last}"
        return self._accounts[account]
