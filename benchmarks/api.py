"""What a request costs: REST beside FastAPI with the same SQL, the OpenAI-compatible API beside the bare SDK.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. Every figure is the median of its runs, in which the kinds take turns. One PostgreSQL with
fsync on serves all; each server is one uvicorn process; `8_clients` are eight connections that ask again as
soon as they are answered, from a process of their own.

- `read`: GET one session; `write`: POST one message, recorded and not yet worked on. The peer is a FastAPI
  application that sends the very statements that PostgreSQL logged for our request (the written rows under
  new ids, the event into a copy of its table) over a pool of psycopg, and checks, seals and hashes nothing.
- `gateway`: one chat completion of a model behind a loopback server that answers at once, through us with
  rules, budgets, log and plan, and by the bare `openai` SDK. `overhead` is the difference.

    python benchmarks/api.py [--quick] [--only read|write|gateway]
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import CHECKOUT, PEERS, cpu_seconds, installation, report, serving

CLIENTS = (1, 8)
MODEL = "gpt-4o-mini"
FASTAPI = "FastAPI, the same SQL"
ISSUE_TOKEN = """
import django; django.setup()
from django.utils import timezone
from cartrita.accounts.commands import issue_token
from cartrita.accounts.models import User
from cartrita.embedded.starter import WORKSPACE_ID
user = User.objects.get(email="admin@cartrita.localhost")
print(issue_token(user_id=user.id, workspace_id=WORKSPACE_ID, name="benchmark", scopes=["read", "write"],
                  actor=f"user:{user.id}", now=timezone.now()).secret)
"""
# Nobody is to be slowed down here but by the work.
NO_THROTTLE = {"CARTRITA_REQUESTS_PER_MINUTE": "0", "CARTRITA_ANONYMOUS_REQUESTS_PER_MINUTE": "0"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--only", choices=["read", "write", "gateway"])
    parser.add_argument("--load", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        *asked, clients, seconds = options.load
        print(json.dumps(asyncio.run(load(Asked(*asked), int(clients), float(seconds)))))
        return
    runs, seconds = (1, 2.0) if options.quick else (3, 6.0)
    with installation() as environ:
        token = issue_token(environ)
        for name in ("read", "write"):
            if options.only in {None, name}:
                requests(name, environ, token, runs, seconds)
        if options.only in {None, "gateway"}:
            asyncio.run(gateway(environ, token, runs, 20 if options.quick else 100))


def issue_token(environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ISSUE_TOKEN],
        cwd=CHECKOUT, env=dict(environ), check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout.strip()


# -- REST ----------------------------------------------------------------------------------------------------


def requests(name: str, environ: Mapping[str, str], token: str, runs: int, seconds: float) -> None:
    quiet = {**environ, **NO_THROTTLE, "CARTRITA_SERVICES": ""}
    with serving(Path(sys.executable), "cartrita.asgi:application", quiet) as (url, pid):
        # One a client: who writes to one session at the same time meets the others.
        sessions = [
            asyncio.run(call("POST", f"{url}/api/v2/sessions", token, "{}"))["sessionId"]
            for _ in range(max(CLIENTS))
        ]
        method, path, body = (
            ("GET", "", "")
            if name == "read"
            else ("POST", "/messages", json.dumps({"content": "Hello there."}))
        )
        ours = [f"{url}/api/v2/sessions/{session}{path}" for session in sessions]
        statements = recorded(environ, lambda: asyncio.run(call(method, ours[0], token, body)))
        with peer(environ, name, statements) as (peer_url, peer_pid):
            places = {"ours": (" ".join(ours), pid)}
            if peer_url:
                places["peer"] = (f"{peer_url}/{name}", peer_pid)
            for clients in CLIENTS:
                found: dict[str, list[dict[str, float]]] = {which: [] for which in places}
                for _ in range(runs):
                    for which, (address, process) in places.items():
                        found[which].append(measure(process, method, address, token, body, clients, seconds))
                for figure, unit in (("rate", "requests/s"), ("p50", "ms"), ("p99", "ms"), ("cpu", "ms")):
                    report(
                        f"api.{name}.{clients}_clients.{figure}",
                        [one[figure] for one in found["ours"]],
                        [one[figure] for one in found.get("peer", [])] or None,
                        unit,
                        FASTAPI,
                    )


def measure(process: int, *asked: object) -> dict[str, float]:
    """Load a server from a process of its own; add the CPU milliseconds that it used for a request."""
    before = cpu_seconds(process)
    done = subprocess.run(
        [sys.executable, __file__, "--load", *map(str, asked)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return {**figures, "cpu": 1000 * (cpu_seconds(process) - before) / figures["answers"]}


@contextmanager
def peer(environ: Mapping[str, str], name: str, statements: list[str]) -> Iterator[tuple[str, int]]:
    """Serve the peer with these statements; without its environment, nothing."""
    if not PEERS.exists():
        yield "", 0
        return
    file = Path(environ["CARTRITA_HOME"]) / f"{name}.json"
    file.write_text(json.dumps(statements))
    folder = CHECKOUT / "benchmarks" / "peers"
    with serving(
        PEERS, "fastapi_app:application", {**environ, "STATEMENTS": str(file)}, folder=folder
    ) as place:
        yield place


def recorded(environ: Mapping[str, str], request: Callable[[], object]) -> list[str]:
    """Return the statements that PostgreSQL runs for a request, as it logs them, with their parameters."""
    import psycopg

    from cartrita.embedded.postgres import SUPERUSER

    superuser = environ["DATABASE_URL"].replace("cartrita_app", SUPERUSER)
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("alter system set log_statement = 'all'")
        connection.execute("select pg_reload_conf()")
        time.sleep(0.5)  # the server's processes read it when they next look
        log = next(Path(environ["CARTRITA_HOME"]).rglob("postgresql.log"))
        for _ in range(3):  # what is asked only once is known by then
            request()
        time.sleep(0.2)
        before = log.stat().st_size
        request()
        time.sleep(0.2)
        text = log.read_bytes()[before:].decode()
        connection.execute("alter system reset log_statement")
        connection.execute("select pg_reload_conf()")
        connection.execute("create table if not exists raw_event (like event including all)")
        connection.execute("grant insert on raw_event to public")
    lines = re.findall(r"LOG:  (?:statement|execute [^:]+): (.*?)(?=\n\d{4}-\d\d-\d\d |\Z)", text, re.DOTALL)
    return [line.strip() for line in lines if line.strip()]


async def call(method: str, url: str, token: str, body: str) -> Any:
    import httpx

    async with httpx.AsyncClient(headers=headers(token), timeout=30) as client:
        answer = await client.request(method, url, content=body or None)
        answer.raise_for_status()
        return answer.json()


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    url: str
    token: str
    body: str


async def load(asked: Asked, clients: int, seconds: float) -> dict[str, float]:
    """Ask again and again over kept connections; return how often a second, and how long an answer took.

    Of several addresses, parted by spaces, each client asks one.
    """
    addresses = asked.url.split()
    host = addresses[0].removeprefix("http://").partition("/")[0]
    fields = {"Host": host, **headers(asked.token), "Content-Length": str(len(asked.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    milliseconds: list[float] = []
    end = time.monotonic() + seconds

    async def ask(address: str) -> None:
        path = address.removeprefix("http://").partition("/")[2]
        request = f"{asked.method} /{path} HTTP/1.1\r\n{head}\r\n{asked.body}".encode()
        name, _, port = host.partition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        while time.monotonic() < end:
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", answer)
            assert length, answer
            content = await reader.readexactly(int(length[1]))
            assert answer.split(b" ", 2)[1].startswith(b"2"), content
            milliseconds.append(1000 * (time.perf_counter() - began))
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(ask(addresses[number % len(addresses)]) for number in range(clients)))
    cuts = statistics.quantiles(milliseconds, n=100)
    return {
        "answers": len(milliseconds),
        "rate": len(milliseconds) / (time.monotonic() - began),
        "p50": cuts[49],
        "p99": cuts[98],
    }


# -- the OpenAI-compatible API -------------------------------------------------------------------------------


async def gateway(environ: Mapping[str, str], token: str, runs: int, calls: int) -> None:
    from openai import AsyncOpenAI

    folder = CHECKOUT / "benchmarks" / "peers"
    with serving(Path(sys.executable), "openai_upstream:application", os.environ, folder=folder) as (up, _):
        ours = {**environ, **NO_THROTTLE, "OPENAI_API_KEY": "upstream", "OPENAI_BASE_URL": f"{up}/v1"}
        with serving(Path(sys.executable), "cartrita.asgi:application", ours) as (url, pid):
            clients = {
                "ours": AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0),
                "bare": AsyncOpenAI(base_url=f"{up}/v1", api_key="upstream", max_retries=0),
            }
            for client in clients.values():
                await completion(client)
            found: dict[str, list[list[float]]] = {which: [] for which in clients}
            used = []
            for _ in range(runs):
                for which, client in clients.items():
                    before = cpu_seconds(pid)
                    found[which].append([await completion(client) for _ in range(calls)])
                    if which == "ours":
                        used.append(1000 * (cpu_seconds(pid) - before) / calls)
            for name, part in (("p50", 0.5), ("p95", 0.95)):
                mine = [quantile(one, part) for one in found["ours"]]
                bare = [quantile(one, part) for one in found["bare"]]
                report(f"api.gateway.{name}", mine, bare, "ms", "the bare openai SDK")
                overhead = [a - b for a, b in zip(mine, bare, strict=True)]
                report(f"api.gateway.overhead.{name}", overhead, None, "ms")
            report("api.gateway.cpu", used, None, "ms")


async def completion(client: Any) -> float:
    """Return the milliseconds of one completion."""
    began = time.perf_counter()
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=20
    )
    assert answer.choices[0].message.content == "Hello there.", answer
    return 1000 * (time.perf_counter() - began)


def quantile(values: list[float], part: float) -> float:
    return statistics.quantiles(values, n=100)[round(100 * part) - 1]


if __name__ == "__main__":
    main()
