"""The pages as the server gives them: who sees what, and what is refused."""

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.test.client import RequestFactory
from django.utils import timezone
from django.views.defaults import server_error

from cartrita.eventstore import Append, Context, Sequencer, append, load
from retrieval.commands import receive_document
from retrieval.document import DocumentFailed
from retrieval.models import Document
from sessions_app.commands import create_session, erase_session, post_message, post_reply
from tasks_app.run import ActDecided
from tests.accounts.people import Person, someone
from tests.databases import Database


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def client(ann: Person) -> Client:
    return browser_of(ann)


def browser_of(person: Person) -> Client:
    client = Client()
    client.force_login(person.user)
    return client


def session_of(person: Person, *texts: str) -> UUID:
    actor = f"user:{person.id}"
    session_id = create_session(user_id=person.id, workspace_id=person.workspace_id, actor=actor)
    for text in texts:
        post_message(session_id=session_id, message_id=uuid4(), content=text, actor=actor)
    return session_id


def document_of(person: Person, session_id: UUID | None = None) -> UUID:
    return receive_document(
        workspace_id=person.workspace_id,
        owner_id=person.id,
        title="notes.txt",
        media_type="text/plain",
        content=b"The harbour master is called Ina.",
        session_id=session_id,
        actor=f"user:{person.id}",
    )


def replied(session_id: UUID, content: str, **values: Any) -> UUID:
    message_id, reply_id = uuid4(), uuid4()
    post_message(session_id=session_id, message_id=message_id, content="Well?", actor="system")
    post_reply(
        session_id=session_id,
        message_id=reply_id,
        parent=message_id,
        plan_id=uuid4(),
        run_id=uuid4(),
        content=content,
        actor="agent:assistant",
        **values,
    )
    return reply_id


def citation(document_id: UUID, start: int, end: int) -> dict[str, Any]:
    return {"document": str(document_id), "title": "notes.txt", "start": start, "end": end, "text": "x"}


def text_of(html: str) -> str:
    main = re.search(r"<main.*</main>", html, re.DOTALL)
    assert main is not None
    without_data = re.sub(r"<script.*?</script>|<template.*?</template>", "", main[0], flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", without_data).split())


class TestPages:
    def test_ask_strangers_to_sign_in(self, database: Database) -> None:
        for path in ("/chat/", f"/chat/{uuid4()}/", f"/documents/{uuid4()}/"):
            response = Client().get(path)
            assert (response.status_code, response.headers["Location"]) == (302, f"/sign-in?next={path}")

    def test_show_no_number_without_data(self, ann: Person, client: Client) -> None:
        pages = [client.get("/chat/"), client.get(f"/chat/{session_of(ann)}/"), Client().get("/sign-in")]
        for page in pages:
            assert page.status_code == 200
            assert not re.search(r"\d", text_of(page.content.decode()))

    def test_hide_what_belongs_to_others(self, ann: Person, client: Client) -> None:
        colleague = someone("carl@example.org", workspace_id=ann.workspace_id)
        stranger = someone("bob@example.org")
        for other in (colleague, stranger):
            session_id = session_of(other, "A secret")
            document_id = document_of(other, session_id)
            reply_id = replied(session_id, "Another secret", model="scripted")
            for path in (
                f"/chat/{session_id}/",
                f"/chat/{session_id}/messages/{reply_id}/",
                f"/documents/{document_id}/",
                f"/documents/{document_id}/?session={session_id}",
                f"/documents/{document_id}/?session={session_of(ann)}",
            ):
                response = client.get(path)
                assert response.status_code == 404
                assert b"ecret" not in response.content
        assert client.get(f"/documents/{document_of(stranger)}/").status_code == 404

    def test_let_an_auditor_read_and_not_write(self, ann: Person) -> None:
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        page = browser_of(auditor).get(f"/chat/{session_of(ann, 'Hello')}/").content.decode()
        assert "Hello" in page
        assert "another person" in page
        assert "<textarea" not in page

    def test_know_what_a_turn_waits_for_before_the_read_models_do(self, ann: Person, client: Client) -> None:
        session_id, run_id, until = session_of(ann, "Hello"), uuid4(), timezone.now() + timedelta(hours=1)
        context = Context(workspace_id=ann.workspace_id, session_id=session_id)
        throttled = ActDecided(
            step=1,
            attempt=1,
            act="tool_call",
            subject="current_time",
            decision_id=uuid4(),
            outcome="throttle",
            rule="one-an-hour",
            permitted=False,
            retry_after=until,
        )
        append(Append(run_id, 0, [throttled], context))
        asyncio.run(Sequencer().order())
        page = client.get(f"/chat/{session_id}/").content.decode()
        assert f'data-waits-for="{until.isoformat()}"' in page
        allowed = throttled.model_copy(update={"attempt": 2, "permitted": True, "retry_after": None})
        append(Append(run_id, 1, [allowed], context))
        asyncio.run(Sequencer().order())
        assert 'data-waits-for=""' in client.get(f"/chat/{session_id}/").content.decode()

    def test_say_that_an_erased_session_is_gone(self, ann: Person, client: Client) -> None:
        session_id = session_of(ann, "Hello")
        erase_session(session_id=session_id, actor=f"user:{ann.id}")
        assert client.get(f"/chat/{session_id}/").status_code == 404

    def test_are_kept_by_no_cache(self, ann: Person, client: Client) -> None:
        for path in ("/chat/", f"/chat/{session_of(ann)}/", f"/documents/{document_of(ann)}/"):
            assert "no-store" in client.get(path).headers["Cache-Control"]

    @pytest.mark.parametrize("path", ["/chat/x/", "/documents/x/", "/nowhere", f"/chat/{UUID(int=1)}/"])
    def test_are_not_found_in_the_look_of_all_pages(self, client: Client, path: str) -> None:
        response = client.get(path)
        assert response.status_code == 404
        assert b"cartrita.css" in response.content


class TestAMessage:
    def test_links_its_numbers_to_its_sources(self, ann: Person, client: Client) -> None:
        session_id, document_id = session_of(ann), document_of(ann)
        cited = [citation(document_id, 4, 9), citation(document_id, 0, 3)]
        reply_id = replied(session_id, "Second [2], first [1].", model="scripted", citations=cited)
        page = client.get(f"/chat/{session_id}/messages/{reply_id}/").content.decode()
        # A model's numbers are those of the passages it was given; citations follow their first mention.
        address = f"/documents/{document_id}/?session={session_id}&amp;"
        assert f'<a class="cite" href="{address}start=4&amp;end=9#passage">[2]</a>' in page
        assert f'<a class="cite" href="{address}start=0&amp;end=3#passage">[1]</a>' in page
        extract_id = replied(session_id, "Second [2], first [1].", model="extractive", citations=cited)
        page = client.get(f"/chat/{session_id}/messages/{extract_id}/").content.decode()
        assert f'<a class="cite" href="{address}start=4&amp;end=9#passage">[1]</a>' in page
        assert "own words" in page

    def test_without_sources_does_not_claim_any(self, ann: Person, client: Client) -> None:
        session_id = session_of(ann)
        refused = replied(session_id, "The documents do not say.", model="extractive", citations=[])
        page = client.get(f"/chat/{session_id}/messages/{refused}/").content.decode()
        assert "own words" not in page
        invented = replied(session_id, "It is said.", model="scripted", citations=[])
        assert b"without a source" in client.get(f"/chat/{session_id}/messages/{invented}/").content

    def test_escapes_what_people_write(self, ann: Person, client: Client) -> None:
        page = client.get(f"/chat/{session_of(ann, '<script>x</script>')}/").content
        assert b"<script>x" not in page
        assert b"&lt;script&gt;x" in page


class TestADocument:
    def test_that_is_still_being_read_says_so(self, ann: Person, client: Client) -> None:
        response = client.get(f"/documents/{document_of(ann)}/")
        assert response.status_code == 200
        assert "still being read" in text_of(response.content.decode())

    def test_that_cannot_be_read_says_why(self, ann: Person, client: Client) -> None:
        document_id = document_of(ann)
        row = Document.objects.get(id=document_id)
        failed = DocumentFailed(stage="parse", code="document_damaged", message="It is damaged.")
        context = Context(workspace_id=ann.workspace_id, session_id=None, actor="system", key_id=row.key_id)
        append(Append(document_id, len(load(document_id)), [failed], context))
        assert "It is damaged." in text_of(client.get(f"/documents/{document_id}/").content.decode())

    @pytest.mark.parametrize("session", ["x", "\0", "00000000-0000-0000-0000-000000000000"])
    def test_is_not_found_in_a_session_that_is_none(self, ann: Person, client: Client, session: str) -> None:
        assert client.get(f"/documents/{document_of(ann)}/", {"session": session}).status_code == 404


class TestTheme:
    def test_is_remembered_and_leads_back(self, client: Client) -> None:
        response = client.post("/theme/", {"theme": "dark", "next": "/chat/"})
        assert response.headers["Location"] == "/chat/"
        assert client.cookies["theme"]["httponly"]
        assert b'data-theme="dark"' in client.get("/chat/").content

    @pytest.mark.parametrize(
        "back", ["https://elsewhere.example/", "//elsewhere.example", "javascript:x", ""]
    )
    def test_leads_nowhere_else(self, client: Client, back: str) -> None:
        assert client.post("/theme/", {"theme": "dark", "next": back}).headers["Location"] == "/"

    def test_that_does_not_exist_is_refused(self, client: Client) -> None:
        response = client.post("/theme/", {"theme": "<b>x", "next": "/"})
        assert response.status_code == 400
        assert b"<b>" not in response.content
        client.cookies["theme"] = "<b>x"
        assert b'data-theme="auto"' in client.get("/chat/").content


class TestErrorPages:
    def test_are_in_the_look_of_all_pages(self, ann: Person, rf: RequestFactory) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(ann.user)
        for response in (strict.post("/chat/new/"), server_error(rf.get("/"))):
            page = response.content.decode()
            assert response.status_code in (403, 500)
            assert "cartrita.css" in page
            assert "style=" not in page
            assert "<style" not in page
            assert "<h1" in page

    def test_name_the_trace_of_what_was_foreseen(self, client: Client) -> None:
        page = client.post("/theme/", {"theme": "none"}).content.decode()
        assert "choose one of: light, dark" in page
        assert re.search(r"<code>[0-9a-f]{32}</code>", page)
