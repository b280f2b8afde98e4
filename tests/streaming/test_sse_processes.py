"""A browser's stream of server-sent events, from another web process than the one that it writes to."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from cartrita.eventstore import aread_log, close_async
from cartrita.streaming import sse
from sessions_app.channel import describe
from sessions_app.session import ReplyPosted
from tests.databases import Database
from tests.servers import Server, listening_server
from tests.streaming.test_sse import frames

pytestmark = [pytest.mark.flow, pytest.mark.timeout(400)]

SECONDS = 150
WORDS = " ".join(f"wörd{number}" for number in range(12))


@pytest.fixture
def started(database: Database, tmp_path: Path) -> Iterator[tuple[Server, Server, str]]:
    """Give two web processes on one database, and a link that signs in."""
    with ExitStack() as ending:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            servers.append(ending.enter_context(listening_server(database, tmp_path / name, scripted=True)))
        one, two = servers
        two.script = one.script
        assert one.script is not None
        one.script.answers({"text": WORDS}, seconds_per_token=0.05)
        link = one.start()[0]
        two.start()
        yield one, two, link


async def read(browser: httpx.AsyncClient, address: str, *, last: str = "") -> list[Any]:
    """Return the frames of a stream up to the reply."""
    found: list[Any] = []
    headers = {"Accept": sse.CONTENT_TYPE, **({"Last-Event-ID": last} if last else {})}
    async with (
        asyncio.timeout(SECONDS),
        browser.stream("GET", address, headers=headers, params={} if last else {"after": 0}) as response,
    ):
        assert response.status_code == 200, await response.aread()
        async for frame in frames(response):
            found.append(frame)
            if frame["data"].get("type") == ReplyPosted.type_name:
                return found
    raise AssertionError(f"the stream ended without a reply: {found}")


class TestBrowserAtTwoProcesses:
    async def test_is_shown_at_the_one_what_it_says_to_the_other(
        self, started: tuple[Server, Server, str]
    ) -> None:
        one, two, link = started
        async with httpx.AsyncClient(follow_redirects=True, timeout=SECONDS) as browser:
            (await browser.get(link)).raise_for_status()
            told = {"X-CSRFToken": browser.cookies["csrftoken"]}
            opened = await browser.post(f"{one.url}/api/v2/sessions", json={}, headers=told)
            session = f"/api/v2/sessions/{opened.json()['sessionId']}"
            stranger = httpx.AsyncClient(base_url=two.url)
            async with stranger:
                assert (await stranger.get(f"{session}/stream")).status_code == 401
            forged = await browser.post(f"{one.url}{session}/messages", json={"content": "Forged."})
            assert forged.status_code == 403
            reading = asyncio.create_task(read(browser, f"{two.url}{session}/stream"))
            message = {"content": "Please talk slowly."}
            posted = await browser.post(f"{one.url}{session}/messages", json=message, headers=told)
            assert posted.status_code == 202
            seen = await reading
            # Whatever one process showed, the other one goes on from it.
            middle = next(each for each in seen if each["id"] is not None)
            last = f"{middle['id']}@{middle['epoch']}"
            rest = await read(browser, f"{one.url}{session}/stream", last=last)
        shown = [each["id"] for each in seen if each["event"] == "ev"]
        log = await aread_log(after=0, limit=500, session_id=UUID(opened.json()["sessionId"]))
        await close_async()
        known = [each.position or 0 for each in log if describe(each) is not None]
        assert shown == [position for position in known if position <= shown[-1]]
        assert [each["id"] for each in rest if each["event"] == "ev"] == shown[1:]
        said = "".join(each["data"]["text"] for each in seen if each["event"] == "delta")
        assert said, "the answer was shown while it was written"
        assert WORDS.startswith(said)
