"""Clients of botocore and aiobotocore for Bedrock's server on loopback, and calls of each kind."""

from __future__ import annotations

import functools
import json

import aiobotocore.session
from botocore.config import Config
from botocore.loaders import create_loader

__all__ = [
    "CONVERSE",
    "ESTIMATE",
    "INVOKE",
    "KEY",
    "MODEL",
    "OPERATIONS",
    "TEXT",
    "a_session",
    "options",
    "stream_of",
]

MODEL = "anthropic.claude-sonnet-4-20250514-v1:0"
KEY = f"{MODEL} eu-west-1"
TEXT = "word " * 31  # 155 characters: 39 tokens, and 4 for the message
ESTIMATE = 43
CONVERSE = {
    "modelId": MODEL,
    "messages": [{"role": "user", "content": [{"text": TEXT}]}],
    "inferenceConfig": {"maxTokens": 500},
}
BODY = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 500}
INVOKE = {"modelId": MODEL, "body": json.dumps(BODY)}
OPERATIONS = {
    "converse": CONVERSE,
    "converse_stream": CONVERSE,
    "invoke_model": INVOKE,
    "invoke_model_with_response_stream": INVOKE,
}


def options(server, *, attempts=1):
    """Return what makes a client of the server."""
    return {
        "region_name": "eu-west-1",
        "endpoint_url": server.url,
        "aws_access_key_id": "AKIDEXAMPLE",
        "aws_secret_access_key": "secret",
        "config": Config(retries={"total_max_attempts": attempts}),
    }


@functools.cache
def loader():
    """Return what reads the models of the services: all clients share it, and read them once."""
    return create_loader()


def a_session(library=aiobotocore):
    """Return a session of aiobotocore, or of botocore."""
    session = library.session.get_session()
    session.register_component("data_loader", loader())
    return session


def stream_of(answer):
    """Return the event stream of an answer; None: it has none."""
    return next((answer[name] for name in ("stream", "body") if name in answer), None)
