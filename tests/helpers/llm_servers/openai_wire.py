"""The endpoints of OpenAI, and of those that are compatible: bodies and events."""

from __future__ import annotations

import base64
import struct

from tests.helpers.llm_servers.base import Call, sse
from tests.helpers.llm_servers.prompts import texts

__all__ = ["Chat", "Embeddings", "Responses"]

CREATED = 1_790_000_000  # seconds since 1970, of every answer
DIMENSIONS = 4  # of an embedding


def _text(tokens):
    return "abc " * tokens


def _model(request, body):
    return request.match_info.get("deployment") or body["model"]


class Chat:
    """POST /chat/completions."""

    @staticmethod
    def read(request, body):
        """Take the maximum from either of its names."""
        return Call.of(
            _model(request, body),
            list(texts(body["messages"])),
            body,
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            streams=body.get("stream", False),
        )

    def answer(self, call):
        """Return a completion."""
        message = {"role": "assistant", "content": _text(call.out), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self._reason(call)}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": CREATED,
            "model": call.model,
            "choices": [{**choice, "logprobs": None}],
            "usage": self._usage(call),
        }

    def opening(self, call):
        """Name the role."""
        return self._chunk(call, {"role": "assistant", "content": ""})

    def piece(self, call, tokens):
        """Send some of the text."""
        return self._chunk(call, {"content": _text(tokens)})

    def closing(self, call):
        """Say why it ends, then the usage if that is wanted."""
        end = self._chunk(call, {}, self._reason(call))
        if self._tells_usage(call):
            end += sse({**self._head(call), "choices": [], "usage": self._usage(call)})
        return end + sse("[DONE]")

    def _chunk(self, call, delta, reason=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._tells_usage(call) else {}
        return sse({**self._head(call), "choices": [choice], **usage})

    @staticmethod
    def _head(call):
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": call.model,
        }

    @staticmethod
    def _tells_usage(call):
        return (call.body.get("stream_options") or {}).get("include_usage", False)

    @staticmethod
    def _reason(call):
        return "length" if call.is_cut else "stop"

    @staticmethod
    def _usage(call):
        made = call.arrival.produced
        return {
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": call.prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": call.script.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


class Responses:
    """POST /responses."""

    @staticmethod
    def read(request, body):
        """Count the instructions, too."""
        return Call.of(
            _model(request, body),
            [*texts(body.get("instructions")), *texts(body["input"])],
            body,
            max_tokens=body.get("max_output_tokens"),
            streams=body.get("stream", False),
        )

    def answer(self, call):
        """Return a response that has come to its end."""
        status = "incomplete" if call.is_cut else "completed"
        made = call.arrival.produced
        usage = {
            "input_tokens": call.prompt_tokens,
            "input_tokens_details": {"cached_tokens": call.script.cached},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": call.prompt_tokens + made,
        }
        return self._response(call, status, [self._message(status, [self._part(call)])], usage)

    def opening(self, call):
        """Send what comes before the text."""
        started = self._response(call, "in_progress", [], None)
        return (
            self._event("response.created", response=started)
            + self._event(
                "response.output_item.added",
                output_index=0,
                item=self._message("in_progress", []),
            )
            + self._event(
                "response.content_part.added",
                **self._place(),
                part={"type": "output_text", "text": "", "annotations": []},
            )
        )

    def piece(self, call, tokens):
        """Send some of the text."""
        del call
        delta = {"delta": _text(tokens), "logprobs": []}
        return self._event("response.output_text.delta", **self._place(), **delta)

    def closing(self, call):
        """End the text, its part, its message, and the response, which has the usage."""
        answer = self.answer(call)
        part = self._part(call)
        return (
            self._event("response.output_text.done", **self._place(), text=part["text"])
            + self._event("response.content_part.done", **self._place(), part=part)
            + self._event("response.output_item.done", output_index=0, item=answer["output"][0])
            + self._event(f"response.{answer['status']}", response=answer)
        )

    @staticmethod
    def _event(kind, **data):
        return sse({"type": kind, "sequence_number": 0, **data}, kind)

    @staticmethod
    def _place():
        return {"item_id": "msg_1", "output_index": 0, "content_index": 0}

    @staticmethod
    def _part(call):
        return {"type": "output_text", "text": _text(call.out), "annotations": []}

    @staticmethod
    def _message(status, content):
        ends = {"type": "message", "id": "msg_1", "role": "assistant"}
        return {**ends, "status": status, "content": content}

    @staticmethod
    def _response(call, status, output, usage):
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": CREATED,
            "model": call.model,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if call.is_cut else None,
            "instructions": None,
            "metadata": {},
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage,
        }


class Embeddings:
    """POST /embeddings, of text; its answer comes in one piece."""

    @staticmethod
    def read(request, body):
        """Take one text or several."""
        parts = list(texts(body["input"]))
        return Call.of(_model(request, body), parts, body, max_tokens=0)

    @staticmethod
    def answer(call):
        """Return a vector for each text, in the form that is asked for."""
        vector = [1.0, *[0.0] * (DIMENSIONS - 1)]
        if call.body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        count = len(list(texts(call.body["input"])))
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index in range(count)
            ],
            "model": call.model,
            "usage": {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens},
        }
