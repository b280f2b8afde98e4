"""Channels as it is used: consumers in a group, `group_send` to it, in memory or over Redis."""

import os
import time

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

redis = os.environ.get("PEER_REDIS", "")
settings.configure(
    CHANNEL_LAYERS={
        "default": (
            {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [redis]}}
            if redis
            else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
        )
    }
)


class Consumer(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()
        await self.send('{"t":"welcome"}')

    async def disconnect(self, _code):
        await self.channel_layer.group_discard("all", self.channel_name)

    async def told(self, event):
        await self.send(event["text"])


async def publish(scope, _receive, send):
    """Send what the query names to the group, and answer when that began (seconds, CLOCK_MONOTONIC)."""
    marker = scope["query_string"].decode()
    began = time.monotonic()
    await get_channel_layer().group_send("all", {"type": "told", "text": f'{{"d": "{marker}{"x" * 200}"}}'})
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(began).encode()})


application = ProtocolTypeRouter({"http": publish, "websocket": Consumer.as_asgi()})
