"""Bedrock's runtime on loopback: Converse and InvokeModel, in one piece and as event streams."""

from __future__ import annotations

import base64
import json
import struct
from binascii import crc32
from urllib.parse import unquote

from aiohttp import web

__all__ = ["BedrockServer"]


def message(kind, payload):
    """Return an event as AWS encodes it (Smithy: vnd.amazon.eventstream)."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":event-type", kind.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    prelude += struct.pack(">I", crc32(prelude))
    return prelude + headers + body + struct.pack(">I", crc32(prelude + headers + body))


class BedrockServer:
    """Answers with the usage that it is given; use it as `async with BedrockServer() as server`.

    Args:
        used: (input tokens, output tokens) of every answer; None: it does not say.
        pieces: texts that a streamed answer comes in.
    """

    def __init__(self, used=(40, 100), pieces=("hello",)):
        self.used = used
        self.pieces = pieces
        self.calls = []
        """(operation, model) of each request."""
        self.bodies = []
        """JSON of each request."""
        self.refuse = False
        """Whether to throttle the next one."""
        self.failure = None
        """(status, error) to fail every request with."""
        self.url = ""

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/model/{model}/{operation}", self._answer)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _answer(self, request):
        operation = request.match_info["operation"]
        self.calls.append((operation, unquote(request.match_info["model"])))
        self.bodies.append(await request.json())
        if self.refuse:
            self.refuse = False
            return web.json_response(
                {"message": "Too many tokens, please wait before trying again."},
                status=429,
                headers={"x-amzn-ErrorType": "ThrottlingException"},
            )
        if self.failure is not None:
            status, error = self.failure
            headers = {"x-amzn-ErrorType": error}
            return web.json_response({"message": "Failed."}, status=status, headers=headers)
        read, made = self.used
        usage = {"inputTokens": read, "outputTokens": made, "totalTokens": read + (made or 0)}
        match operation:
            case "converse":
                text = {"role": "assistant", "content": [{"text": "hello"}]}
                answer = {"output": {"message": text}, "stopReason": "end_turn", "usage": usage}
                return web.json_response({**answer, "metrics": {"latencyMs": 1}})
            case "invoke":
                counts = {"X-Amzn-Bedrock-Input-Token-Count": str(read)}
                if made is not None:
                    counts["X-Amzn-Bedrock-Output-Token-Count"] = str(made)
                return web.json_response({"completion": "hello"}, headers=counts)
        events = self._events(operation, usage)
        response = web.StreamResponse(
            headers={"content-type": "application/vnd.amazon.eventstream"}
        )
        await response.prepare(request)
        for event in events:
            await response.write(event)
        return response

    def _events(self, operation, usage):
        if operation == "converse-stream":
            return [
                message("messageStart", {"role": "assistant"}),
                *(
                    message("contentBlockDelta", {"delta": {"text": one}, "contentBlockIndex": 0})
                    for one in self.pieces
                ),
                message("messageStop", {"stopReason": "end_turn"}),
                message("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
            ]
        metrics = {"inputTokenCount": usage["inputTokens"]}
        metrics["outputTokenCount"] = usage["outputTokens"]
        last = {"completion": "", "amazon-bedrock-invocationMetrics": metrics}
        return [
            message("chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode()})
            for one in (*({"completion": one} for one in self.pieces), last)
        ]
