"""Random chats, in no provider's format, with what their models read: for tests of prices."""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import dataclass, field

from tests.helpers import billed_texts
from tests.helpers.billed_texts import Tokens

__all__ = ["Audio", "Call", "Chat", "Image", "Result", "Text", "plain_english", "random_chat"]


@dataclass(frozen=True)
class Text:
    """A text; `times` that often."""

    text: str
    times: int = 1


@dataclass(frozen=True)
class Image:
    """A picture of a size in pixels, of which there is the beginning."""

    width: int
    height: int

    def data(self):
        """Return the beginning of a PNG file."""
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + header + bytes(self.width % 999)

    def base64(self):
        """Return the data as base64."""
        return base64.b64encode(self.data()).decode()


@dataclass(frozen=True)
class Audio:
    """A recording, of speech at 8 kbit/s."""

    seconds: int

    def base64(self):
        """Return the data as base64."""
        return base64.b64encode(bytes(self.seconds * 1000)).decode()


@dataclass(frozen=True)
class Call:
    """A call of a tool, by the model."""

    ident: str
    name: str
    arguments: dict


@dataclass(frozen=True)
class Result:
    """What a tool returned."""

    ident: str
    name: str
    value: dict


@dataclass
class Chat:
    """A request to a model.

    `fee` is what its provider adds for each message, and once for tools.
    """

    turns: list
    """Roles with parts."""
    most: int
    """Most tokens of each response."""
    system: str = ""
    tools: list = field(default_factory=list)
    schema: dict | None = None
    choices: int = 1
    streams: bool = False
    lifetime: str = ""
    """How long the prompt is to be cached: "5m", "1h", or "" for no mark."""
    is_coarse: bool = True
    fee: tuple = (4, 300)

    def parts(self):
        """Yield all parts of all turns."""
        return (part for _, parts in self.turns for part in parts)

    def text_tokens(self):
        """Return the tokens of the prompt, without media."""
        tokens = Tokens(is_coarse=self.is_coarse)
        read = [*self.tools, *([] if self.schema is None else [self.schema])]
        texts = [self.system]
        for part in self.parts():
            match part:
                case Call(name=name, arguments=found) | Result(name=name, value=found):
                    texts.append(name)
                    read.append(found)
        separators = (", ", ": ") if self.is_coarse else (",", ":")
        texts += [json.dumps(one, ensure_ascii=False, separators=separators) for one in read]
        each, once = self.fee
        instructed = once if self.tools or self.schema else 0
        repeated = (part for part in self.parts() if isinstance(part, Text))
        return (
            3
            + instructed
            + each * (len(self.turns) + bool(self.system))
            + sum(map(tokens.of, texts))
            + sum(part.times * tokens.of(part.text) for part in repeated)
        )

    def seconds(self):
        """Return the length of all recordings."""
        return sum(part.seconds for part in self.parts() if isinstance(part, Audio))

    def images(self):
        """Return all pictures."""
        return [part for part in self.parts() if isinstance(part, Image)]


def plain_english(random):
    """Return a chat as people have them: 50 to 400 words of English, a maximum of 500 tokens."""
    words = random.randint(50, 400)
    system = billed_texts.english(random, 20) if random.random() < 0.5 else ""
    turns = [("user", [Text(billed_texts.english(random, words))])]
    return Chat(turns, most=500, system=system, streams=random.random() < 0.5, fee=(4, 0))


def random_chat(random, *, media=(), tools=True, choices=1, caches=False, large=0.01):
    """Return a chat of any kind.

    Args:
        random: the source of randomness.
        media: kinds of parts in addition to text, `"image"` and `"audio"`.
        tools: whether it may have tools, and a schema for its answer.
        choices: most responses to generate.
        caches: whether it may have marks for a cache.
        large: part of the chats with hundreds of thousands of tokens.
    """
    chat = Chat(
        [],
        most=random.choice([1, 16, 500, 4096, 64_000, random.randint(1, 2000)]),
        system=billed_texts.text(random, random.randint(0, 200)) if random.random() < 0.6 else "",
        choices=random.randint(1, choices) if random.random() < 0.3 else 1,
        streams=random.random() < 0.5,
        is_coarse=random.random() < 0.7,
        fee=(random.randint(3, 8), random.randint(20, 800)),
    )
    if caches and random.random() < 0.5:
        chat.lifetime = random.choice(["5m", "1h"])
    if tools and random.random() < 0.4:
        chat.tools = [_tool(random, number) for number in range(random.randint(1, 6))]
    if tools and random.random() < 0.2:
        chat.schema = _schema(random)
    for number in range(random.randint(1, 4)):
        if number:
            chat.turns += _answers(random, chat, number)
        parts = [Text(billed_texts.text(random, random.randint(1, 120)))]
        if "image" in media and random.random() < 0.3:
            parts += [_image(random) for _ in range(random.randint(1, 3))]
        if "audio" in media and random.random() < 0.3:
            parts.append(Audio(random.randint(1, 20)))
        chat.turns.append(("user", parts))
    if random.random() < large:
        long = billed_texts.text(random, 500) + "\n"
        chat.turns[-1][1].append(Text(long, times=random.randint(100, 500)))
    return chat


def _answers(random, chat, number):
    """Return the turns between two of the user: a text, or a call of a tool and its result."""
    if not chat.tools or random.random() < 0.4:
        return [("assistant", [Text(billed_texts.text(random, random.randint(1, 100)))])]
    name, ident = random.choice(chat.tools)["name"], f"call_{random.getrandbits(48):x}_{number}"
    call = Call(ident, name, _value(random))
    return [("assistant", [call]), ("tool", [Result(ident, name, _value(random))])]


def _value(random):
    return {
        "query": billed_texts.text(random, random.randint(1, 30)),
        "ids": [random.getrandbits(random.choice([4, 60])) for _ in range(random.randint(0, 40))],
        "type": "image",  # a name with a meaning elsewhere
        "source": {"latitude": random.random(), "is_exact": True, "rest": None},
    }


def _schema(random):
    names = random.sample(["city", "Straße", "количество", "日付", "unit", "price_eur"], 3)
    fields = {
        name: {"type": "string", "description": billed_texts.text(random, random.randint(1, 20))}
        for name in names
    }
    fields["kind"] = {"type": "integer", "enum": [random.getrandbits(40) for _ in range(9)]}
    return {"type": "object", "properties": fields, "required": names}


def _tool(random, number):
    return {
        "name": f"tool_{number}",
        "description": billed_texts.text(random, random.randint(1, 60)),
        "parameters": _schema(random),
    }


def _image(random):
    """Return a picture: any photo or screenshot, up to 16 times as long as it is wide."""
    long = int(math.exp(random.uniform(math.log(32), math.log(8000))))
    short = max(1, int(long / random.choice([1, 4 / 3, 16 / 9, random.uniform(1, 16)])))
    return Image(*random.sample([long, short], 2))
