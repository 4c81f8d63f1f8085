"""Reads what an answer took from its body, as it passes on its way to the caller.

Of a body, no more is kept than a line of up to 64 KiB, or the object that says the usage. Where
that object stands:

- in a JSON document: `usage`, or `usageMetadata` (Gemini; of each element, if it is a list);
- in events of a stream: the same of the last one that has it (OpenAI's chat completions send it
  with `stream_options: {"include_usage": true}` only), and
- `response.usage` of OpenAI's responses, in the event that ends them;
- `message.usage` of Anthropic's `message_start`, which has the input. The output is in
  `message_delta`, as a sum.

A stream of which the usage never came, or that was abandoned before, is estimated by the text that
did: at least a token for each event that has some.

The server chooses what is read here, so the work is bounded. 3 kB of gzip can be 3 MB of line ends,
each of which is a step in Python. Asynchronous transports let the event loop run after each 64 kB
(`steps`). What comes over the wire may be of any size, as the work grows with that. Of a body that
decodes to far more (`_most`), no more is read, and its call keeps the cost that was reserved for
it.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._compression import ENCODINGS, Inflate
from aioapiqueue.integrations._usage import MalformedUsageError
from aioapiqueue.integrations.llm._json_scanner import JsonScanner
from aioapiqueue.integrations.llm._tokens import text_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aioapiqueue.integrations.llm._json_scanner import Path
    from aioapiqueue.integrations.llm._profile import Usage

__all__ = ["BodyUsageReader", "StatedUsageReader", "read_usage"]

_LONGEST_LINE = 65_536
"""Bytes. Of a longer one only the usage is looked for: the last event of OpenAI's responses has the
whole answer in it."""
_STEP = 65_536
"""Bytes, decoded, that are read in one go. They take 20 to 30 ms at worst (`"",` again and again)
and 3 ms of an answer with the log probabilities of each token."""
_ALWAYS_READ = 2_097_152
"""Bytes, decoded, that are read in any case. They take about a second at worst. A model that
repeats one word 4,096 times streams 1,090,000 bytes, which are 5,000 with gzip."""
_DENSEST = 100
"""Most bytes that each byte on the wire is believed to decode to. Gzip can make 1,032 of one; an
answer with log probabilities has 4, and a stream of 8,192 different words has 63."""
_LARGEST = 16_777_216
"""Bytes, decoded, up to which a body may be so dense. An answer of 4,000 tokens with 20 log
probabilities each has 7,000,000."""
_DENSE = 8
"""Bytes that each byte on the wire may decode to in a body of any size. Embeddings in base64 have
1.3, and as numbers, indented, 3.2."""
_STARTED: Path = ("message", "usage")
_PATHS: frozenset[Path] = frozenset(
    {("usage",), ("usageMetadata",), (None, "usageMetadata"), ("response", "usage"), _STARTED}
    | {("x_groq", "usage")}  # of Groq's streams
)
_LINE_END = re.compile(rb"[\r\n]+")
"""Any number of them: empty lines mean nothing here, and each match is a step in Python."""
_TEXTS = frozenset(
    {"arguments", "content", "input", "partial_json", "reasoning", "reasoning_content", "refusal"}
    | {"text", "thinking"}
)
"""Fields of a piece of an answer that are made of tokens."""

_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens", "inputTokenCount")
_OUTPUT = (
    "completion_tokens",
    "output_tokens",
    "candidatesTokenCount",
    "outputTokens",
    "outputTokenCount",
)
_CACHE_READ = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_CACHE_WRITE = (
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
    "cacheWriteInputTokenCount",
)
_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_MOST = 1_000_000_000


def read_usage(found: Mapping[str, Any]) -> dict[str, int]:
    """Return what an object says of usage, in whichever provider's words.

    >>> read_usage({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14})
    {'input_tokens': 9, 'output_tokens': 5}

    Args:
        found: the object.

    Returns:
        Tokens: `input_tokens` that have nothing to do with a cache, `cache_read_tokens`,
        `cache_write_tokens` and `output_tokens`, as far as it says them; and `reasoning_tokens`,
        which are those of the output that nobody is shown.
    """
    usage: dict[str, int] = {}
    names = {
        "input_tokens": _INPUT,
        "cache_read_tokens": _CACHE_READ,
        "cache_write_tokens": _CACHE_WRITE,
        "output_tokens": _OUTPUT,
    }
    for name, fields in names.items():
        count = _first(found, fields)
        if count is not None:
            usage[name] = count
    # OpenAI and Gemini count what comes from the cache as input, too.
    cached = _first(found, ("cachedContentTokenCount",)) or _detail(
        found, _DETAILS, "cached_tokens"
    )
    if cached and "input_tokens" in usage:
        cached = min(cached, usage["input_tokens"])
        usage["input_tokens"] -= cached
        usage["cache_read_tokens"] = cached
    thoughts = _first(found, ("thoughtsTokenCount",))
    if thoughts:
        usage["output_tokens"] = usage.get("output_tokens", 0) + thoughts
    reasoning = thoughts or _detail(found, _OUTPUT_DETAILS, "reasoning_tokens")
    if reasoning:
        usage["reasoning_tokens"] = reasoning
    tools = _first(found, ("toolUsePromptTokenCount",))
    if tools and "input_tokens" in usage:
        usage["input_tokens"] += tools
    return usage


def _first(found: Mapping[str, Any], names: Iterable[str]) -> int | None:
    for name in names:
        value = found.get(name)
        if type(value) is int and 0 <= value <= _MOST:
            return value
    return None


def _detail(found: Mapping[str, Any], names: Iterable[str], detail: str) -> int | None:
    inner = (found[name] for name in names if isinstance(found.get(name), dict))
    return next((_first(one, (detail,)) for one in inner), None)


class BodyUsageReader:
    """Finds the usage in one answer's body. Whatever comes, `feed` and `steps` raise nothing.

    Args:
        streams: whether the body is a stream of events, or a JSON document.
        encoding: of the content, one of `ENCODINGS`; empty: none.
        most_output: the most tokens that the answer may have: what is estimated by the text of a
            stream is cut to it. Default: not known.
    """

    def __init__(
        self, *, streams: bool, encoding: str = "", most_output: int | None = None
    ) -> None:
        self._inflate = Inflate(encoding) if encoding else None
        self._scanner = None if streams else JsonScanner(_PATHS, self._note)
        """Looks at the document, or at a long line of a stream."""
        self._streams = streams
        self._most_output = math.inf if most_output is None else most_output
        self._line = bytearray()
        self._is_skipped = False
        self._found: dict[str, int] = {}
        self._has_output = False
        self._pieces = 0
        self._size = 0.0
        self._received = 0
        """Bytes that came over the wire."""
        self._read = 0
        """Bytes that they were, decoded."""
        self._in_step = 0
        """Those since the last time that `steps` has yielded: chunks may come one after the other
        without a pass of the event loop between them."""
        self._gave_up = False

    @classmethod
    def of(
        cls, headers: Iterable[tuple[str, str]], *, most_output: int | None = None
    ) -> BodyUsageReader | None:
        """Return what reads an answer with these headers; None: nothing can."""
        values = {name.lower(): value.strip().lower() for name, value in headers}
        kind = values.get("content-type", "").partition(";")[0].strip()
        encoding = values.get("content-encoding", "").replace("identity", "")
        if encoding and encoding not in ENCODINGS:
            return None
        streams = kind == "text/event-stream"
        if not streams and not kind.endswith("json"):
            return None
        return cls(streams=streams, encoding=encoding, most_output=most_output)

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes, as they came over the wire."""
        for _ in self.steps(chunk):
            pass

    def steps(self, chunk: bytes) -> Iterator[None]:
        """Do the same, and yield each time that `_STEP` bytes have been read, decoded."""
        self._received += len(chunk)
        for piece in self._decoded(chunk):
            if self._gave_up:
                return
            if self._in_step + len(piece) > _STEP:
                yield
                self._in_step = 0
            self._in_step += len(piece)
            self._feed(piece)
            self._read += len(piece)
            if self._read > self._most():
                self._give_up()

    def _decoded(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk is, in pieces of at most `_STEP` bytes."""
        if self._inflate is not None:
            yield from self._inflate.decode(chunk)
        else:
            for start in range(0, len(chunk), _STEP):
                yield chunk[start : start + _STEP]

    def _most(self) -> int:
        """Return how many bytes are read, decoded, of as many as have come over the wire."""
        dense = min(_LARGEST, _DENSEST * self._received)
        return max(_ALWAYS_READ, dense, _DENSE * self._received)

    def _give_up(self) -> None:
        self._gave_up = True
        self._line.clear()
        self._scanner = self._inflate = None

    def usage(self) -> Usage | None:
        """Return the tokens that were found so far, as `read_usage` does; None: nothing was.

        Raises:
            MalformedUsageError: the body decodes to more than is read.
        """
        if self._gave_up:
            raise MalformedUsageError(
                f"the body decodes from {self._received} bytes to {self._read} or more"
            )
        usage = dict(self._found)
        if self._pieces and not self._has_output:
            estimate = int(min(max(self._pieces, math.ceil(self._size)), self._most_output))
            usage["output_tokens"] = max(usage.get("output_tokens", 0), estimate)
        return usage or None

    def _feed(self, data: bytes) -> None:
        if not self._streams:
            if self._scanner is not None:
                self._scanner.feed(data)
            return
        start = 0
        for end in _LINE_END.finditer(data):
            self._add(data[start : end.start()])
            self._end_line()
            start = end.end()
        self._add(data[start:])

    def _add(self, part: bytes) -> None:
        """Add to the line that is being read."""
        if self._is_skipped:
            if self._scanner is not None:
                self._scanner.feed(part)
        elif len(self._line) + len(part) <= _LONGEST_LINE:
            self._line += part
        else:
            self._is_skipped = True
            begun = bytes(self._line)
            self._line.clear()
            if (begun + part[:5]).startswith(b"data:"):
                self._scanner = JsonScanner(_PATHS, self._note)
                self._scanner.feed(begun)  # the name of the field does not matter to it
                self._scanner.feed(part)

    def _end_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        self._is_skipped, self._scanner = False, None
        if line.startswith(b"data:"):
            try:
                event = json.loads(line[5:])
            except (ValueError, RecursionError):
                return
            if isinstance(event, dict):
                self.read_event(event)

    def read_event(self, event: dict[str, Any]) -> None:
        """Look at an event of a stream, whose data was JSON."""
        for path in _PATHS:
            value: Any = event
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, dict):
                self._note(path, value)
        text = "".join(_texts(event.get("delta"))) or "".join(_texts(event.get("choices")))
        if text:
            self._pieces += 1
            self._size += text_size(text)

    def _note(self, path: Path, found: dict[str, Any]) -> None:
        usage = read_usage(found)
        self._found |= usage
        if path != _STARTED and "output_tokens" in usage:
            self._has_output = True


class StatedUsageReader(BodyUsageReader):
    """Finds only a usage that the answer states: of one that does not, nothing is estimated."""

    def usage(self) -> Usage | None:
        """Return it, as the base class does."""
        usage = super().usage()
        return usage if self._found else None


def _texts(piece: Any) -> Iterable[str]:  # noqa: ANN401 - any JSON
    """Return the text in a piece of an answer."""
    if isinstance(piece, str):
        return [piece]
    texts = []
    values = [piece]
    while values:
        value = values.pop()
        if isinstance(value, list):
            values.extend(value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, (dict, list)):
                    values.append(inner)
                elif isinstance(inner, str) and name in _TEXTS:
                    texts.append(inner)
    return texts
