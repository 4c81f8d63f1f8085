"""Chats in the format of each provider's requests."""

from __future__ import annotations

import json

from tests.helpers.billed_chats import Audio, Call, Image, Result, Text

__all__ = ["anthropic", "chat_completions", "converse", "gemini", "responses"]


def _text(part):
    return part.text * part.times


def _only_text(parts):
    return len(parts) == 1 and isinstance(parts[0], Text)


def chat_completions(chat, *, most="max_completion_tokens"):
    """Return the body of a request for OpenAI's chat completions, also from other servers."""
    messages = [{"role": "system", "content": chat.system}] if chat.system else []
    for role, parts in chat.turns:
        messages.append(_message(role, parts))
    body = {"messages": messages, most: chat.most, "temperature": 0.7}
    if chat.tools:
        body["tools"] = [{"type": "function", "function": tool} for tool in chat.tools]
        body["tool_choice"] = "auto"
    if chat.schema:
        named = {"name": "answer", "schema": chat.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if chat.choices > 1:
        body["n"] = chat.choices
    if chat.streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _message(role, parts):
    match parts[0]:
        case Result(ident=ident, value=value):
            found = json.dumps(value, ensure_ascii=False)
            return {"role": "tool", "tool_call_id": ident, "content": found}
        case Call(ident=ident, name=name, arguments=arguments):
            found = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
            call = {"id": ident, "type": "function", "function": found}
            # As the SDK sends back what it has received.
            empty = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
            return {"role": role, "content": None, "tool_calls": [call], **empty}
    if _only_text(parts):
        return {"role": role, "content": _text(parts[0])}
    return {"role": role, "content": [_chat_part(part) for part in parts]}


def _chat_part(part):
    match part:
        case Image():
            url = f"data:image/png;base64,{part.base64()}"
            return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
        case Audio():
            return {"type": "input_audio", "input_audio": {"data": part.base64(), "format": "mp3"}}
    return {"type": "text", "text": _text(part)}


def responses(chat):
    """Return the body of a request for OpenAI's responses."""
    items = []
    for role, parts in chat.turns:
        items.append(_item(role, parts))
    body = {"input": items, "max_output_tokens": chat.most, "store": False}
    if chat.system:
        body["instructions"] = chat.system
    if chat.tools:
        body["tools"] = [{"type": "function", "strict": True, **tool} for tool in chat.tools]
    if chat.schema:
        named = {"type": "json_schema", "name": "answer", "schema": chat.schema, "strict": True}
        body["text"] = {"format": named, "verbosity": "low"}
    if chat.streams:
        body["stream"] = True
    return body


def _item(role, parts):
    match parts[0]:
        case Result(ident=ident, value=value):
            found = json.dumps(value, ensure_ascii=False)
            return {"type": "function_call_output", "call_id": ident, "output": found}
        case Call(ident=ident, name=name, arguments=arguments):
            found = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
            return {"type": "function_call", "id": f"fc_{ident}", "call_id": ident, **found}
    if role == "assistant":
        content = [
            {"type": "output_text", "text": _text(part), "annotations": [], "logprobs": []}
            for part in parts
        ]
        return {"type": "message", "id": "msg_1", "role": role, "content": content} | {
            "status": "completed"
        }
    return {"role": role, "content": [_response_part(part) for part in parts]}


def _response_part(part):
    if isinstance(part, Image):
        url = f"data:image/png;base64,{part.base64()}"
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"type": "input_text", "text": _text(part)}


def anthropic(chat):
    """Return the body of a request for Anthropic's messages."""
    mark = {"type": "ephemeral", "ttl": chat.lifetime} if chat.lifetime else None
    messages = []
    for role, parts in chat.turns:
        sender = "user" if role == "tool" else role
        messages.append({"role": sender, "content": [_block(part) for part in parts]})
    body = {"messages": messages, "max_tokens": chat.most}
    if chat.system:
        body["system"] = [{"type": "text", "text": chat.system}]
    if chat.tools:
        body["tools"] = [_anthropic_tool(tool) for tool in chat.tools]
    if chat.schema:
        body["output_config"] = {"format": {"type": "json_schema", "schema": chat.schema}}
    if mark:
        place = body.get("system") or body.get("tools") or messages[0]["content"]
        place[-1]["cache_control"] = mark
    if chat.streams:
        body["stream"] = True
    return body


def _anthropic_tool(tool):
    return {
        "name": tool["name"],
        "description": tool["description"],
        "input_schema": tool["parameters"],
    }


def _block(part):
    match part:
        case Image():
            source = {"type": "base64", "media_type": "image/png", "data": part.base64()}
            return {"type": "image", "source": source}
        case Call(ident=ident, name=name, arguments=found):
            caller = {"type": "direct"}
            return {"type": "tool_use", "id": ident, "name": name, "input": found} | {
                "caller": caller
            }
        case Result(ident=ident, value=value):
            content = [{"type": "text", "text": json.dumps(value, ensure_ascii=False)}]
            return {"type": "tool_result", "tool_use_id": ident, "content": content}
    return {"type": "text", "text": _text(part), "citations": None}


def gemini(chat):
    """Return the body of a request for Gemini."""
    contents = []
    for role, parts in chat.turns:
        sender = {"assistant": "model", "tool": "user"}.get(role, role)
        contents.append({"role": sender, "parts": [_gemini_part(part) for part in parts]})
    settings = {"maxOutputTokens": chat.most, "temperature": 0.2}
    if chat.schema:
        settings |= {"responseMimeType": "application/json", "responseJsonSchema": chat.schema}
    if chat.choices > 1:
        settings["candidateCount"] = chat.choices
    body = {"contents": contents, "generationConfig": settings}
    if chat.system:
        body["systemInstruction"] = {"parts": [{"text": chat.system}]}
    if chat.tools:
        body["tools"] = [{"functionDeclarations": chat.tools}]
        body["toolConfig"] = {"functionCallingConfig": {"mode": "AUTO"}}
    return body


def _gemini_part(part):
    match part:
        case Image():
            return {"inlineData": {"mimeType": "image/png", "data": part.base64()}}
        case Audio():
            return {"inlineData": {"mimeType": "audio/mp3", "data": part.base64()}}
        case Call(ident=ident, name=name, arguments=found):
            call = {"functionCall": {"id": ident, "name": name, "args": found}}
            return {**call, "thoughtSignature": "c2ln"}
        case Result(ident=ident, name=name, value=value):
            return {"functionResponse": {"id": ident, "name": name, "response": value}}
    return {"text": _text(part)}


def converse(chat):
    """Return the parameters of Bedrock's Converse."""
    mark = {"cachePoint": {"type": "default", "ttl": chat.lifetime}}
    messages = []
    for role, parts in chat.turns:
        sender = "user" if role == "tool" else role
        messages.append({"role": sender, "content": [_bedrock_block(part) for part in parts]})
    body = {"messages": messages, "inferenceConfig": {"maxTokens": chat.most, "topP": 0.9}}
    if chat.system:
        body["system"] = [{"text": chat.system}]
    if chat.tools:
        tools = [{"toolSpec": _bedrock_tool(tool)} for tool in chat.tools]
        body["toolConfig"] = {"tools": tools, "toolChoice": {"auto": {}}}
    if chat.schema:
        schema = {"jsonSchema": {"schema": json.dumps(chat.schema, ensure_ascii=False)}}
        body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": schema}}
    if chat.lifetime:
        (body.get("system") or messages[0]["content"]).append(mark)
    return body


def _bedrock_tool(tool):
    return {
        "name": tool["name"],
        "description": tool["description"],
        "inputSchema": {"json": tool["parameters"]},
    }


def _bedrock_block(part):
    match part:
        case Image():
            return {"image": {"format": "png", "source": {"bytes": part.data()}}}
        case Call(ident=ident, name=name, arguments=found):
            return {"toolUse": {"toolUseId": ident, "name": name, "input": found}}
        case Result(ident=ident, value=value):
            return {"toolResult": {"toolUseId": ident, "content": [{"json": value}]}}
    return {"text": _text(part)}
