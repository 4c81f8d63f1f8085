"""Finds the usage in the body of a response, on its way to the caller.

At most one line of 64 KiB, or the object with the usage, is buffered. That object is found at:

- `usage`, or `usageMetadata` of Gemini (of each element if the document is a list), in a JSON
  document or in the last event of a stream that has it. OpenAI's chat completions send it in
  streams only with `stream_options: {"include_usage": true}`;
- `response.usage`, in the last event of OpenAI's responses API;
- `message.usage` in Anthropic's `message_start`, for the input. The `usage` of `message_delta` has
  the sum of the output.

If a stream reports no usage, or the caller leaves it early, the output is estimated from the text
that has arrived, with at least one token for each event that contains text.

The server determines what is read here, so the work must be bounded: 3 kB of gzip can decode to 3
MB of line ends, each of which is a step in Python. Async transports let the event loop run after
each 64 kB (`steps`). The work may grow with the bytes on the wire. A body that decodes to far more
(`_most`) is not read on, and its call keeps the reserved cost.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._compression import ENCODINGS, Inflate
from aioapiqueue.integrations._usage import MalformedUsageError
from aioapiqueue.integrations.llm._json_scanner import JsonScanner
from aioapiqueue.integrations.llm._stated_usage import ReadUsage, objects_in, read_usage
from aioapiqueue.integrations.llm._tokens import text_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioapiqueue.integrations.llm._json_scanner import Path
    from aioapiqueue.integrations.llm._stated_usage import Usage

_LONGEST_LINE = 65_536
"""Most bytes of a line that is parsed. A longer line is only scanned for the usage: the last event
of OpenAI's responses API contains the whole response."""
_STEP = 65_536
"""Decoded bytes that are read without a pause. They take 3 ms if the response has the log
probabilities of each token, and at worst 20 to 30 ms (`"",` repeated)."""
_ALWAYS_READ = 2_097_152
"""Decoded bytes that are read in any case. They take about a second at worst. A model that repeats
one word 4,096 times streams 1,090,000 bytes, which are 5,000 bytes with gzip."""
_DENSEST = 100
"""Most decoded bytes per byte on the wire. Gzip reaches 1,032; a response with log probabilities
has 4, a stream of 8,192 different words has 63."""
_LARGEST = 16_777_216
"""Decoded bytes up to which a body may have that density. A response of 4,000 tokens with 20 log
probabilities each has 7,000,000."""
_DENSE = 8
"""Most decoded bytes per byte on the wire in a body of any size. Embeddings have 1.3 in base64, and
3.2 as indented numbers."""
_STARTED: Path = ("message", "usage")
_PATHS: frozenset[Path] = frozenset(
    {("usage",), ("usageMetadata",), (None, "usageMetadata"), ("response", "usage"), _STARTED}
    | {("x_groq", "usage")}  # Groq's streams
)
_TEXT_PATHS: frozenset[Path] = frozenset({("service_tier",), ("response", "service_tier")})
"""The same for OpenAI's service tier. Anthropic states it in the usage."""
_LINE_END = re.compile(rb"[\r\n]+")
"""One or more line ends: empty lines have no meaning here, and each match is a step in Python."""
_TEXTS = frozenset(
    {"arguments", "content", "input", "partial_json", "reasoning", "reasoning_content", "refusal"}
    | {"text", "thinking"}
)
"""Fields of an event that contain output of the model."""
_CONTEXT = ("service_tier", "speed", "inference_geo")
"""Fields that state how a request was served, on which its price may depend."""


class BodyUsageReader:
    """Finds the usage in the body of one response. `feed` and `steps` never raise an error.

    Args:
        streams: whether the body is a stream of events, not a JSON document.
        encoding: encoding of the body, one of `ENCODINGS`. Default: none.
        most_output: most tokens of the response. An estimate is cut to it. Default: unknown.
        with_tier: whether to find the service tier in a document too, which takes longer.
            Default: True.
    """

    def __init__(
        self,
        *,
        streams: bool,
        encoding: str = "",
        most_output: int | None = None,
        with_tier: bool = True,
    ) -> None:
        self._text_paths = _TEXT_PATHS if with_tier else frozenset()
        self._inflate = Inflate(encoding) if encoding else None
        self._scanner = None if streams else self._new_scanner()
        """Scans a document, or a long line of a stream."""
        self._streams = streams
        self._most_output = math.inf if most_output is None else most_output
        self._line = bytearray()
        self._is_skipped = False
        """Whether the current line is too long to be parsed."""
        self._found: dict[str, int] = {}
        self._malformed = ""
        self._context: dict[str, str] = {}
        self._has_output = False
        """Whether the response has stated the sum of its output."""
        self._pieces = 0
        """Number of events with text."""
        self._size = 0.0
        """Estimated tokens of the text of all events."""
        self._received = 0
        """Bytes on the wire."""
        self._read = 0
        """Decoded bytes."""
        self._in_step = 0
        """Decoded bytes since `steps` last yielded. It is kept from chunk to chunk: the event loop
        need not run between two chunks."""
        self._has_given_up = False

    @classmethod
    def of(
        cls,
        headers: Iterable[tuple[str, str]],
        *,
        most_output: int | None = None,
        with_tier: bool = True,
    ) -> BodyUsageReader | None:
        """Return a reader for a response with these headers, or None if it cannot be read."""
        values = {name.lower(): value.strip().lower() for name, value in headers}
        kind = values.get("content-type", "").partition(";")[0].strip()
        encoding = values.get("content-encoding", "").replace("identity", "")
        if encoding and encoding not in ENCODINGS:
            return None
        streams = kind == "text/event-stream"
        if not streams and not kind.endswith("json"):
            return None
        return cls(streams=streams, encoding=encoding, most_output=most_output, with_tier=with_tier)

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes as they arrive, still encoded."""
        for _ in self.steps(chunk):
            pass

    def steps(self, chunk: bytes) -> Iterator[None]:
        """Read the next bytes, and yield after every `_STEP` decoded bytes."""
        self._received += len(chunk)
        for piece in self._decoded(chunk):
            if self._has_given_up:
                return
            # Yield before the piece, so that no step reads more than `_STEP` bytes.
            if self._in_step + len(piece) > _STEP:
                yield
                self._in_step = 0
            self._in_step += len(piece)
            self._feed(piece)
            self._read += len(piece)
            if self._read > self._most():
                self._give_up()

    def _decoded(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes of a chunk, in pieces of at most `_STEP` bytes."""
        if self._inflate is not None:
            yield from self._inflate.decode(chunk)
        else:
            for start in range(0, len(chunk), _STEP):
                yield chunk[start : start + _STEP]

    def _most(self) -> int:
        """Return the most decoded bytes to read, for the bytes on the wire so far."""
        dense = min(_LARGEST, _DENSEST * self._received)
        return max(_ALWAYS_READ, dense, _DENSE * self._received)

    def _give_up(self) -> None:
        self._has_given_up = True
        # The rest of the body is not read, so the buffers can be freed.
        self._line.clear()
        self._scanner = self._inflate = None

    def usage(self) -> Usage | None:
        """Return the usage found so far, as `read_usage` does, or None.

        Raises:
            MalformedUsageError: the body decodes to more bytes than are read.
        """
        if self._has_given_up:
            raise MalformedUsageError(
                f"the body decodes from {self._received} bytes to {self._read} or more"
            )
        usage = ReadUsage(self._found)
        usage.is_estimate = not self._has_output
        usage.context = self._context
        usage.malformed = self._malformed
        if self._pieces and not self._has_output:
            # An event with text has at least one token, however short its text is.
            estimate = int(min(max(self._pieces, math.ceil(self._size)), self._most_output))
            # The start of Anthropic's stream states an output of a few tokens, not its sum.
            usage["output_tokens"] = max(usage.get("output_tokens", 0), estimate)
        return usage if usage or usage.malformed else None

    def _new_scanner(self) -> JsonScanner:
        return JsonScanner(
            _PATHS, self._note, texts=self._text_paths, found_text=self._note_context
        )

    def _note_context(self, path: Path, text: str) -> None:
        self._context[str(path[-1])] = text

    def _feed(self, data: bytes) -> None:
        if not self._streams:
            if self._scanner is not None:
                self._scanner.feed(data)
            return
        start = 0
        # A chunk may end anywhere, also within a line or between CR and LF.
        for end in _LINE_END.finditer(data):
            self._add(data[start : end.start()])
            self._end_line()
            start = end.end()
        self._add(data[start:])

    def _add(self, part: bytes) -> None:
        """Add to the current line."""
        if self._is_skipped:
            if self._scanner is not None:
                self._scanner.feed(part)
        elif len(self._line) + len(part) <= _LONGEST_LINE:
            self._line += part
        else:
            self._is_skipped = True
            begun = bytes(self._line)
            self._line.clear()
            # Other fields of an event, such as its name, contain no usage.
            if (begun + part[:5]).startswith(b"data:"):
                self._scanner = self._new_scanner()
                self._scanner.feed(begun)  # with its `data:`, which the scanner ignores
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
        """Read an event of a stream: the JSON of its data."""
        for path in _PATHS:
            value: Any = event
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, dict):
                self._note(path, value, is_last=_is_last(event))
        inner = event.get("response")
        for place in (event, inner if isinstance(inner, dict) else {}):
            self._note_texts(place)
        # Chat completions have their text in `choices`, the other streams in `delta`.
        text = "".join(_texts(event.get("delta"))) or "".join(_texts(event.get("choices")))
        if text:
            self._pieces += 1
            self._size += text_size(text)

    def _note_texts(self, found: dict[str, Any]) -> None:
        for name in _CONTEXT:
            if name in found and type(found[name]) is str:
                self._context[name] = found[name]

    def _note(self, path: Path, found: dict[str, Any], *, is_last: bool = True) -> None:
        self._note_texts(found)
        usage = read_usage(found)
        # The latest numbers count: an event repeats or completes those before it.
        self._found |= usage
        self._malformed = usage.malformed or self._malformed
        # Elements of a list are events too, and more may follow.
        if path != _STARTED and path[0] is not None and is_last and "output_tokens" in usage:
            self._has_output = True


class StatedUsageReader(BodyUsageReader):
    """Finds only usage that the response states, without an estimate."""

    def usage(self) -> Usage | None:
        """Return the stated usage found so far, or None."""
        usage = super().usage()
        # `super` also estimates from text, but text does not show that the server counts tokens.
        return usage if self._found else None


def _is_last(event: dict[str, Any]) -> bool:
    """Return whether no output follows an event that states a usage."""
    # Gemini and vLLM state it in each event, as the sum so far.
    parts = objects_in(event.get("choices")) or objects_in(event.get("candidates"))
    return not parts or any(one.get("finish_reason") or one.get("finishReason") for one in parts)


def _texts(piece: Any) -> Iterable[str]:  # noqa: ANN401 - any JSON
    """Return the texts in a part of an event."""
    if isinstance(piece, str):
        return [piece]
    texts = []
    # A loop: the event may be nested deeper than Python can recurse.
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
