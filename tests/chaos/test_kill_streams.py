"""kill -9 of the server in the middle of an answer: a program that reads server-sent events loses nothing."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from cartrita.eventstore.log import read_log
from sessions_app.channel import describe
from tests.accounts.people import someone
from tests.databases import Database
from tests.servers import listening_server

pytestmark = pytest.mark.chaos

TEXT = " ".join(f"wörd{number}" for number in range(70))
SECONDS = 60


class Reader:
    """A program that reads one session's stream, and comes back when it is cut."""

    def __init__(self, client: httpx.Client, session_id: str) -> None:
        self._client = client
        self._path = f"/api/v2/sessions/{session_id}/stream"
        self.last_id = "0"
        self.positions: list[int] = []
        self.texts: dict[tuple[str, int], bytes] = {}
        self.completed: dict[str, Any] | None = None

    def read(self) -> Iterator[str]:
        """Take in frames and yield their names, until the connection ends."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.last_id}
        with self._client.stream("GET", self._path, headers=headers) as response:
            assert response.status_code == 200, response.read()
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                if "event" in fields:
                    self._take(fields["event"], json.loads(fields["data"]))
                    self.last_id = fields.get("id", self.last_id)
                    yield fields["event"]
                fields = {}

    def is_done(self) -> bool:
        """Tell whether the answer is complete."""
        return self.completed is not None

    def _take(self, event: str, data: dict[str, Any]) -> None:
        if event == "ev":
            assert data["prev"] == (self.positions[-1] if self.positions else 0)
            self.positions.append(data["pos"])
            self.completed = data["d"].get("completed") or self.completed
        elif event == "delta":
            key = (data["mid"], data["att"])
            have = self.texts.get(key, b"")
            assert data["off"] <= len(have), "a piece is missing"
            self.texts[key] = have[: data["off"]] + data["text"].encode()


class TestKilledServer:
    def test_costs_a_stream_nothing(self, database: Database, tmp_path: Path) -> None:
        with listening_server(database, tmp_path, scripted=True) as server:
            assert server.script is not None
            server.script.answers({"text": TEXT}, seconds_per_token=0.1)
            server.start()
            secret = someone().token()
            headers = {"Authorization": f"Bearer {secret}"}
            with httpx.Client(base_url=server.url, headers=headers, timeout=SECONDS) as client:
                session_id = client.post("/api/v2/sessions", json={}).json()["sessionId"]
                reader = Reader(client, session_id)
                asked = client.post(
                    f"/api/v2/sessions/{session_id}/messages", json={"content": "Tell me something long."}
                )
                assert asked.status_code == 202
                kills = 0
                deadline = time.monotonic() + SECONDS
                while not reader.is_done() and time.monotonic() < deadline:
                    try:
                        for name in reader.read():
                            if name == "delta" and kills < 2 and max(map(len, reader.texts.values())) > 60:
                                server.kill()
                                server.start()
                                kills += 1
                                break
                            if reader.is_done():
                                break
                    except httpx.TransportError:
                        continue
                assert kills == 2
                assert reader.completed is not None, server.words()
                text = reader.completed["text"]
                assert hashlib.sha256(text.encode()).hexdigest() == reader.completed["sha256"]
                assert text == TEXT
                # Each attempt's text only grew towards what its model said.
                assert all(TEXT.encode().startswith(found) for found in reader.texts.values())
                shown = [each for each in read_log(after=0, session_id=UUID(session_id)) if describe(each)]
                upto = [each.position for each in shown if (each.position or 0) <= reader.positions[-1]]
                assert reader.positions == upto
