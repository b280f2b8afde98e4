"""How fast what happens reaches those who look, how many may look, and how fast everything starts.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. Every figure is the median of its runs; servers are one uvicorn process each, clients a
process of their own that only notes when a frame has arrived.

- `publish`: from before a message is posted (recorded, committed, ordered, read and sent) until 1, 100 and
  1,000 subscribers of its session have it: the median and the slowest of them. `lost` counts frames that
  never came within 10 s. The peer is Channels' `group_send` of a text of the same size, in memory and over
  Redis, which records nothing.
- `idle`: memory of a server for each of 10,000 connections that are subscribed and silent, CPU beside
  that of the same server without any, how many were opened a second, and what opening one took.
- `start`: `make up`'s command, until it prints its address: in an empty home, and again.

    python benchmarks/realtime.py [--quick] [--only publish|idle|start] [--connections 10000]
"""

import argparse
import asyncio
import base64
import json
import os
import resource
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from harness import CHECKOUT, cpu_seconds, installation, memory_bytes, report, serving

SUBSCRIBERS = (1, 100, 1000)
IDLE = 10_000
SOCKETS_A_USER = 10
PATIENCE_SECONDS = 10.0
PING = 0x89  # RFC 6455, 5.5.2
PEERS = {"memory": "Channels group_send, in memory", "redis": "Channels group_send, Redis"}
# Members who may look at anybody's session, signed in as browsers are: each may hold ten sockets.
PEOPLE = """
import django; django.setup()
import json, sys
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, BACKEND_SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from cartrita.accounts.commands import ensure_user, set_roles
from cartrita.embedded.starter import WORKSPACE_ID
from sessions_app.commands import create_session
cookies = []
for number in range(int(sys.argv[1])):
    user = ensure_user(email=f"viewer{number}@cartrita.localhost", display_name="Viewer")
    set_roles(workspace_id=WORKSPACE_ID, user_id=user.id, roles=["member", "auditor"], actor="system")
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.create()
    cookies.append(store.session_key)
session_id = create_session(user_id=user.id, workspace_id=WORKSPACE_ID, actor="system")
print(json.dumps({"cookies": cookies, "session": str(session_id)}))
"""
# Posts a message for each line that it reads, and says when it began.
PUBLISHER = """
import django; django.setup()
import sys, time
from uuid import UUID
from cartrita.eventstore import new_id
from sessions_app.commands import post_message
for line in sys.stdin:
    began = time.monotonic()
    post_message(session_id=UUID(sys.argv[1]), message_id=new_id(), role="assistant", content=line.strip(),
                 actor="system")
    print(began, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer messages and connections")
    parser.add_argument("--only", choices=["publish", "idle", "start"])
    parser.add_argument("--connections", type=int, help=f"how many are idle ({IDLE:,})")
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        asyncio.run(watch(**json.loads(options.watch)))
        return
    if options.only in {None, "publish"}:
        publish(5 if options.quick else 20)
    if options.only in {None, "idle"}:
        idle(options.connections or (1000 if options.quick else IDLE))
    if options.only in {None, "start"}:
        start(1 if options.quick else 3)


# -- publish -------------------------------------------------------------------------------------------------


def publish(messages: int) -> None:
    found = {"ours": ours(messages)}
    found["memory"] = theirs(messages, "")
    if shutil.which("redis-server"):
        with redis() as url:
            found["redis"] = theirs(messages, url)
    for subscribers in SUBSCRIBERS:
        mine = found["ours"][subscribers]
        for kind, what in PEERS.items():
            there = found.get(kind, {}).get(subscribers)
            for figure, unit in (("median", "ms"), ("slowest", "ms"), ("lost", "frames")):
                name = f"realtime.publish.{subscribers}_subscribers.{figure}.vs_{kind}"
                report(name, mine[figure], there and there[figure], unit, what)


def ours(messages: int) -> dict[int, dict[str, list[float]]]:
    found = {}
    with installation() as environ:
        made = people(environ, max(SUBSCRIBERS) // SOCKETS_A_USER)
        # The messages are an assistant's: nobody answers them.
        with serving(Path(sys.executable), "cartrita.asgi:application", environ) as (url, _):
            publisher = subprocess.Popen(
                [sys.executable, "-c", PUBLISHER, made["session"]],
                cwd=CHECKOUT, env=dict(environ), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip

            def send(marker: str) -> float:
                assert publisher.stdin is not None
                assert publisher.stdout is not None
                publisher.stdin.write(f"{marker} {'x' * 200}\n")
                publisher.stdin.flush()
                return float(publisher.stdout.readline())

            for subscribers in SUBSCRIBERS:
                with watching(url, subscribers, made) as client:
                    found[subscribers] = deliveries(client, send, subscribers, messages)
            publisher.kill()
            publisher.wait()
    return found


def theirs(messages: int, redis_url: str) -> dict[int, dict[str, list[float]]]:
    folder, environ = CHECKOUT / "benchmarks" / "peers", {**os.environ, "PEER_REDIS": redis_url}
    found = {}
    with serving(Path(sys.executable), "group_send:application", environ, folder=folder) as (url, _):

        def send(marker: str) -> float:
            with urlopen(f"{url}/?{marker}") as answer:
                return float(answer.read())

        for subscribers in SUBSCRIBERS:
            with watching(url, subscribers, None) as client:
                found[subscribers] = deliveries(client, send, subscribers, messages)
    return found


def deliveries(
    client: Any, send: Callable[[str], float], subscribers: int, messages: int
) -> dict[str, list[float]]:
    """Publish one message after the other; return for each how long it took and how many never had it."""
    figures: dict[str, list[float]] = {"median": [], "slowest": [], "lost": []}
    for number in range(messages + 2):
        marker = secrets.token_hex(8)
        client.stdin.write(f"{marker}\n")
        client.stdin.flush()
        assert client.stdout.readline().strip() == "armed"
        began = send(marker)
        arrived = json.loads(client.stdout.readline())
        if number < 2:  # the first ones warm up
            continue
        milliseconds = [1000 * (at - began) for at in arrived]
        figures["median"].append(statistics.median(milliseconds))
        figures["slowest"].append(max(milliseconds))
        figures["lost"].append(subscribers - len(arrived))
    return figures


@contextmanager
def redis() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="cartrita-bench-") as folder:
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", f"{folder}/redis", "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        while not Path(f"{folder}/redis").exists():
            time.sleep(0.02)
        yield f"unix://{folder}/redis"
        process.terminate()
        process.wait()


# -- connections ---------------------------------------------------------------------------------------------


def people(environ: Mapping[str, str], count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PEOPLE, str(count)],
        cwd=CHECKOUT, env=dict(environ), check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@contextmanager
def watching(url: str, connections: int, made: Mapping[str, Any] | None) -> Iterator[Any]:
    """Hold connections in a process of their own until the end; it says when they all stand."""
    told = {"url": url, "connections": connections, "made": made}
    client = subprocess.Popen(
        [sys.executable, __file__, "--watch", json.dumps(told)],
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    try:
        assert client.stdout.readline().strip() == "connected"
        yield client
    finally:
        client.kill()
        client.wait()


class Socket(asyncio.Protocol):
    """A WebSocket that looks for one marker in what comes, and knows no more of the protocol."""

    def __init__(self, request: bytes, after: bytes) -> None:
        self._request, self._after = request, after
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.marker = b"\0"
        self.arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._seen = b""
        self._subscribed = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._seen = (self._seen + data)[-20_000:]
        if not self.ready.done():
            if b'"welcome"' in self._seen and not self._subscribed and self._after:
                self._subscribed = True
                self._transport.write(frame(self._after))
            if (b'"subbed"' if self._after else b'"welcome"') in self._seen:
                self.ready.set_result(None)
        if self.marker in self._seen and not self.arrived.done():
            self.arrived.set_result(time.monotonic())
            if self._after:
                # All that is numbered so far is taken in.
                number = self._seen.rpartition(b'"f":')[2].partition(b",")[0]
                self._transport.write(frame(b'{"t":"ack","f":%b}' % number))
        if data[0] == PING:
            self._transport.write(b"\x8a" + bytes([0x80 | data[1]]) + b"\0\0\0\0" + data[2 : 2 + data[1]])
        if b'"t":"hb"' in data:
            self._transport.write(frame(b'{"t":"pong"}'))

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"closed: {self._seen[:300]!r}"))


def frame(text: bytes) -> bytes:
    """Return a masked text frame (RFC 6455, 5.2); the mask is zero, the text short."""
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + text


async def watch(url: str, connections: int, made: Mapping[str, Any] | None) -> None:
    host = url.removeprefix("http://")
    name, _, port = host.partition(":")
    sockets = []
    for number in range(connections):
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        fields = {
            "Host": host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        }
        subscription = b""
        if made is not None:
            fields["Sec-WebSocket-Protocol"] = "cartrita.v1"
            fields["Origin"] = f"http://{host}"
            fields["Cookie"] = f"sessionid={made['cookies'][number // SOCKETS_A_USER]}"
            subscription = b'{"t":"sub","id":"1","ch":"session:%b"}' % made["session"].encode()
        request = "GET /ws HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"

        def socket(request: str = request, subscription: bytes = subscription) -> Socket:
            return Socket(request.encode(), subscription)

        _, protocol = await asyncio.get_running_loop().create_connection(socket, name, int(port))
        sockets.append(protocol)
        if number % 50 == 49:  # the server's queue of new connections is finite
            await asyncio.gather(*(one.ready for one in sockets[-50:]))
    await asyncio.gather(*(one.ready for one in sockets))
    print("connected", flush=True)
    while marker := (await asyncio.to_thread(sys.stdin.readline)).strip():
        for one in sockets:
            one.marker, one.arrived = marker.encode(), asyncio.get_running_loop().create_future()
        print("armed", flush=True)
        done, _ = await asyncio.wait([one.arrived for one in sockets], timeout=PATIENCE_SECONDS)
        print(json.dumps([one.result() for one in done]), flush=True)
    await asyncio.Event().wait()


# -- idle ----------------------------------------------------------------------------------------------------


def idle(connections: int) -> None:
    """Hold connections for as long as every one is asked again for its rights."""
    allow_files(connections + 1000)
    with installation() as environ:
        made = people(environ, -(-connections // SOCKETS_A_USER))
        with serving(Path(sys.executable), "cartrita.asgi:application", environ) as (url, pid):
            with watching(url, 100, made):
                pass
            report("realtime.idle.0.cpu", [100 * cpu_share(pid, 20)], None, "% of one core")
            before, used, began = memory_bytes(pid), cpu_seconds(pid), time.monotonic()
            with watching(url, connections, made):
                rate = connections / (time.monotonic() - began)
                report("realtime.idle.connecting", [rate], None, "a second")
                each = 1000 * (cpu_seconds(pid) - used) / connections
                report("realtime.idle.connecting.cpu", [each], None, "ms a connection")
                time.sleep(5)
                name, share = f"realtime.idle.{connections}", cpu_share(pid, 60)
                report(f"{name}.cpu", [100 * share], None, "% of one core")
                each = (memory_bytes(pid) - before) / connections / 1024
                report(f"{name}.memory", [each], None, "KiB a connection")


def cpu_share(pid: int, seconds: float) -> float:
    used, since = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - used) / (time.monotonic() - since)


def allow_files(count: int) -> None:
    """Let this process and those that it starts have so many files open, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        count = min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


# -- start ---------------------------------------------------------------------------------------------------


def start(runs: int) -> None:
    first, again = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="cartrita-bench-") as folder:
            home = f"{folder}/home"
            first.append(until_address(home))
            again.append(until_address(home))
    report("realtime.start.first", first, None, "s")
    report("realtime.start.again", again, None, "s")


def until_address(home: str) -> float:
    environ = {**os.environ, "CARTRITA_HOME": home, "PORT": "0"}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up"], cwd=CHECKOUT, env=environ, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            break
    seconds = time.monotonic() - began
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    return seconds


if __name__ == "__main__":
    main()
