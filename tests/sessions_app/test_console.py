"""The read-only pages of the console: sessions, messages, people's rights, events."""

import asyncio
from uuid import UUID, uuid4

import pytest
from django.test import Client

from cartrita.eventstore import ahead, close_async, follow
from cartrita.eventstore.models import OrderedEvent
from cartrita.eventstore.sequencer import Sequencer
from sessions_app import commands
from sessions_app.models import Message
from tests.accounts.people import Person

pytestmark = pytest.mark.flow


@pytest.fixture
def session_id(ann: Person) -> UUID:
    session_id = commands.create_session(
        user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}"
    )
    commands.post_message(
        session_id=session_id, message_id=uuid4(), content="A secret", actor=f"user:{ann.id}"
    )
    return session_id


@pytest.fixture
def operator(ann: Person) -> Client:
    ann.user.is_staff = ann.user.is_superuser = True
    ann.user.save()
    client = Client()
    client.force_login(ann.user)
    return client


async def order_events(count: int) -> None:
    """Run the sequencer until the log holds `count` events."""
    running = asyncio.create_task(Sequencer().run())
    try:
        async with asyncio.timeout(90):
            async for _ in follow(after=0):
                if await ahead() >= count:
                    break
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await close_async()


class TestPages:
    def test_show_rows_and_change_nothing(self, ann: Person, session_id: UUID, operator: Client) -> None:
        message = Message.objects.get()
        for model, row in (
            ("sessions_app/chatsession", session_id),
            ("sessions_app/message", message.id),
            ("accounts/workspace", ann.workspace_id),
        ):
            page = operator.get(f"/admin/{model}/")
            assert page.status_code == 200
            assert "A secret" not in page.text
            assert "sealed:1:" not in page.text
            found = operator.get(f"/admin/{model}/?q={row}")
            assert str(row) in found.text
            detail = operator.get(f"/admin/{model}/{row}/change/")
            assert detail.status_code == 200
            assert "sealed:1:" not in detail.text
            for path in (f"/admin/{model}/add/", f"/admin/{model}/{row}/delete/"):
                assert operator.get(path).status_code == 403
            assert operator.post(f"/admin/{model}/{row}/change/", {"status": "erased"}).status_code == 403

    def test_find_nothing_for_what_is_no_id(self, session_id: UUID, operator: Client) -> None:
        for term in ("x", "' or 1=1", "%F0%9F%98%80"):
            page = operator.get(f"/admin/sessions_app/chatsession/?q={term}")
            assert page.status_code == 200
            assert str(session_id) not in page.text

    def test_link_a_session_to_its_messages_and_events(self, session_id: UUID, operator: Client) -> None:
        detail = operator.get(f"/admin/sessions_app/chatsession/{session_id}/change/").text
        assert f"/admin/sessions_app/message/?q={session_id}" in detail
        assert f"/admin/eventstore/orderedevent/?q={session_id}" in detail

    def test_name_the_console(self, operator: Client) -> None:
        assert "Cartrita governance console" in operator.get("/admin/").text

    def test_are_for_staff(self, ann: Person) -> None:
        client = Client()
        client.force_login(ann.user)
        assert client.get("/admin/sessions_app/chatsession/").status_code == 302


class TestPeople:
    def test_can_be_added_by_an_operator(self, operator: Client) -> None:
        form = {
            "email": "New@Example.org",
            "display_name": "New",
            "usable_password": "true",
            "password1": "a long enough one",
            "password2": "a long enough one",
        }
        answer = operator.post("/admin/accounts/user/add/", form)
        assert answer.status_code == 302, answer.text
        assert "new@example.org" in operator.get("/admin/accounts/user/?q=new@").text


class TestEventBrowser:
    async def test_shows_events_with_sealed_text(self, session_id: UUID, operator: Client) -> None:
        await order_events(4)

        def look() -> None:
            page = operator.get(f"/admin/eventstore/orderedevent/?q={session_id}")
            assert page.status_code == 200
            rows = page.text.split('id="result_list"')[1].split("</table>")[0]
            assert "sessions_app.MessagePosted" in rows
            assert "accounts.MemberAdded" not in rows
            row = OrderedEvent.objects.get(type="sessions_app.MessagePosted")
            detail = operator.get(f"/admin/eventstore/orderedevent/{row.position}/change/")
            assert detail.status_code == 200
            assert "sealed:1:" in detail.text
            assert "A secret" not in detail.text
            filtered = operator.get("/admin/eventstore/orderedevent/?type=sessions_app.SessionCreated")
            assert "sessions_app.SessionCreated" in filtered.text
            assert operator.get(f"/admin/eventstore/orderedevent/{row.position}/delete/").status_code == 403

        await asyncio.to_thread(look)
