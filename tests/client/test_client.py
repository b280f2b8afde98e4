"""The Python client, against a server process, and against answers that only a faulty network gives."""

from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import httpx
import pytest

from cartrita.client import Client, DocumentFailed, NotReached, Problem
from cartrita.eventstore import in_database_thread
from tests.accounts.people import someone
from tests.browsers import address
from tests.servers import Server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """A client of somebody with a workspace of their own, on the server that tests share."""
    async with Client(server.url, token=await in_database_thread(new_token)) as client:
        yield client


def new_token() -> str:
    return someone(address()).token("read", "write")


@pytest.mark.flow
class TestSession:
    async def test_asks_and_gets_the_reply_while_it_is_written(self, client: Client, server: Server) -> None:
        assert server.script is not None
        server.script.answers({"text": "One two three four five six."}, seconds_per_token=0.2)
        session = await client.open_session()
        texts: list[str] = []
        types: list[str] = []
        reply = await session.ask(
            "Please say something.",
            agent="assistant",
            on_text=texts.append,
            on_event=lambda event: types.append(event["type"]),
        )
        assert (reply.text, reply.outcome) == ("One two three four five six.", "answered")
        assert len(texts) > 1
        assert all(reply.text.startswith(text) for text in texts)
        assert "tasks_app.PlanProposed" in types
        assert [entry["content"] for entry in await session.messages()][-1] == reply.text

    async def test_gets_a_reply_that_was_there_before(self, client: Client) -> None:
        session, message_id = await client.open_session(), uuid4()
        first = await session.ask("Hello there.", agent="assistant", message_id=message_id)
        again = await session.ask("Hello there.", agent="assistant", message_id=message_id)
        assert again.message_id == first.message_id
        assert len(await session.messages()) == 2

    async def test_gets_the_reply_although_the_server_is_killed_meanwhile(
        self, client: Client, server: Server
    ) -> None:
        assert server.script is not None
        server.script.answers({"text": "One two three four five six."}, seconds_per_token=0.2)
        session = await client.open_session()
        killed: list[str] = []

        def kill_once(text: str) -> None:
            if not killed:
                killed.append(text)
                server.kill()
                server.start()

        reply = await session.ask("Please say something.", agent="assistant", on_text=kill_once)
        assert killed
        assert (reply.text, reply.outcome) == ("One two three four five six.", "answered")
        assert len(await session.messages()) == 2

    async def test_is_erased(self, client: Client) -> None:
        session = await client.open_session()
        await session.ask("Hello there.", agent="assistant")
        await session.erase()
        with pytest.raises(Problem) as refused:
            await session.messages()
        assert (refused.value.status, refused.value.code) == (404, "session_erased")


@pytest.mark.flow
class TestClient:
    async def test_uploads_searches_and_cites(self, client: Client, server: Server) -> None:
        assert server.script is not None
        server.script.answers({"text": "It closes at nine in the evening. [1]"})
        session = await client.open_session()
        content = b"# Harbour\n\nThe harbour closes at nine in the evening.\n"
        document = await client.upload("harbour.md", content, session_id=session.id)
        assert document["status"] == "ready"
        hits = await client.search("When does the harbour close?", session_id=session.id)
        assert hits[0]["document_id"] == document["id"]
        reply = await session.ask("When does the harbour close?", attachments=[document["id"]])
        assert "nine in the evening" in reply.text
        assert reply.citations[0]["document"] == document["id"]

    async def test_says_why_a_document_cannot_be_read(self, client: Client) -> None:
        with pytest.raises(DocumentFailed, match=r"broken\.pdf cannot be read: .+"):
            await client.upload("broken.pdf", b"%PDF-1.4\nthis is none\n")

    async def test_walks_through_all_pages_of_a_list(self, client: Client) -> None:
        opened = [(await client.open_session()).id for _ in range(5)]
        found = [UUID(entry["id"]) async for entry in client.entries("/sessions", limit=2)]
        assert found == opened[::-1]

    async def test_raises_what_the_server_answers(self, client: Client) -> None:
        with pytest.raises(Problem) as refused:
            await client.request("POST", "/search", json={"query": ""})
        assert (refused.value.status, refused.value.field) == (400, "query")
        assert refused.value.problem["trace_id"]


class TestRepeats:
    """What the client does where the network or the server fails for a moment."""

    @staticmethod
    def client(answer: Callable[[httpx.Request], httpx.Response], *, tries: int = 3) -> Client:
        return Client("http://cartrita.test", token="t", transport=httpx.MockTransport(answer), tries=tries)

    async def test_a_request_with_the_same_key_until_it_is_answered(self) -> None:
        keys: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            keys.append(request.headers["Idempotency-Key"])
            match len(keys):
                case 1:
                    raise httpx.ReadError("cut")
                case 2:
                    return httpx.Response(503, json={"code": "unavailable"}, headers={"Retry-After": "0"})
            return httpx.Response(201, json={"sessionId": str(uuid4())})

        async with self.client(answer) as client:
            await client.open_session()
        assert len(keys) == 3
        assert len(set(keys)) == 1

    async def test_no_request_that_was_refused(self) -> None:
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return httpx.Response(403, json={"code": "scope_missing", "detail": "No."})

        async with self.client(answer) as client:
            with pytest.raises(Problem, match=r"No\."):
                await client.open_session()
        assert asked == ["/api/v2/sessions"]

    async def test_for_ever_is_not_tried(self) -> None:
        def answer(_request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("nobody there")

        async with self.client(answer, tries=2) as client:
            with pytest.raises(NotReached, match=r"cartrita\.test cannot be reached"):
                await client.open_session()

    async def test_an_answer_that_is_no_problem_is_an_error_too(self) -> None:
        async with self.client(lambda _: httpx.Response(502, text="<html>Bad gateway</html>")) as client:
            with pytest.raises(Problem, match="HTTP 502") as refused:
                await client.open_session()
        assert refused.value.code == "refused"
