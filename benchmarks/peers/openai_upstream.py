"""A model behind OpenAI's chat API that answers at once, whole or streamed: nothing but ASGI."""

import json

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
KIND = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini"}


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if json.loads(body).get("stream"):
        await send(start(b"text/event-stream"))
        for text in ("Hello", " there."):
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            await send(part({**KIND, "object": "chat.completion.chunk", "choices": [choice]}))
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await send(part({**KIND, "object": "chat.completion.chunk", "choices": [end]}))
        await send(part({**KIND, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return
    said = {"role": "assistant", "content": "Hello there."}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    await send(start(b"application/json"))
    answer = {**KIND, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def start(content_type):
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]}


def part(chunk):
    body = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return {"type": "http.response.body", "body": body, "more_body": True}
