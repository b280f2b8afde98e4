"""What the chat says of break-glass: to whom, until when, and under which answers."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from axe_playwright_python.async_playwright import Axe
from django.test import Client
from django.utils import timezone
from playwright.async_api import expect

from cartrita.accounts.queries import caller_in_workspace
from governance.commands.break_glass import end_break_glass, open_break_glass
from governance.step import take_step
from sessions_app.commands import post_message, post_reply
from tests.accounts.people import Person, someone
from tests.browsers import Visit, answered, asks
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import Place
from tests.servers import Server
from tests.web.governed import PYTHON
from tests.web.test_views import browser_of, session_of, text_of

REASON = "The gates are <b>stuck</b>, and nobody is on call."
EXPLAINED = "looked at afterwards"


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def otto(ann: Person) -> Person:
    return someone("otto@example.org", workspace_id=ann.workspace_id, roles=("member", "operator"))


def opened(by: Person, **more: Any) -> UUID:
    caller = caller_in_workspace(by.id, by.workspace_id)
    assert caller is not None
    glass_id, _ = open_break_glass(caller=caller, **{"reason": REASON, "minutes": 30, **more})
    return glass_id


def ended(by: Person, glass_id: UUID) -> None:
    caller = caller_in_workspace(by.id, by.workspace_id)
    assert caller is not None
    end_break_glass(glass_id=glass_id, caller=caller)


def notice_of(reader: Person, session_id: UUID) -> str:
    answer = browser_of(reader).get(f"/chat/{session_id}/break-glass/")
    assert answer.status_code == 200
    return answer.content.decode().strip()


@pytest.mark.flow
class TestNotice:
    def test_tells_a_member_who_opened_it_and_until_when_but_not_why(self, ann: Person, otto: Person) -> None:
        session_id = session_of(ann, "Hello")
        assert notice_of(ann, session_id) == ""
        opened(otto)
        until = timezone.now() + timedelta(minutes=30)
        said = notice_of(ann, session_id)
        assert "Break-glass is open for the whole workspace, by Otto," in said
        assert f"until {until:%Y-%m-%d %H:}" in said
        assert " UTC</time>" in said
        assert EXPLAINED in said
        assert "stuck" not in said
        assert "/admin/" not in said
        page = browser_of(ann).get(f"/chat/{session_id}/").content.decode()
        assert said in page

    def test_tells_the_reason_to_those_who_look_after_the_workspace(self, ann: Person, otto: Person) -> None:
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        auditor.user.is_staff = True
        auditor.user.save(update_fields=["is_staff"])
        session_id = session_of(ann, "Hello")
        glass_id = opened(otto)
        said = notice_of(auditor, session_id)
        assert "<q>The gates are &lt;b&gt;stuck&lt;/b&gt;, and nobody is on call.</q>" in said
        assert f"/admin/governance/breakglass/{glass_id}/change/" in said

    def test_tells_of_what_counts_for_the_session_alone(self, ann: Person, otto: Person) -> None:
        session_id, other = session_of(ann, "Hello"), session_of(ann, "Hello")
        opened(otto, scope_kind="session", scope=str(other))
        opened(otto, scope_kind="user", scope=str(otto.id))
        assert notice_of(ann, session_id) == ""
        assert "for this session" in notice_of(ann, other)
        opened(otto, scope_kind="user", scope=str(ann.id))
        assert "for the person whose session this is" in notice_of(ann, session_id)

    def test_ends_with_it(self, ann: Person, otto: Person) -> None:
        session_id = session_of(ann, "Hello")
        glass_id = opened(otto)
        ended(otto, glass_id)
        assert notice_of(ann, session_id) == ""

    def test_is_for_those_who_read_the_session(self, ann: Person, otto: Person) -> None:
        path = f"/chat/{session_of(ann, 'Hello')}/break-glass/"
        opened(otto)
        assert browser_of(otto).get(path).status_code == 404
        assert Client().get(path).status_code == 302


@pytest.mark.flow
class TestReply:
    def test_says_that_break_glass_let_an_act_of_its_turn_pass(self, ann: Person, otto: Person) -> None:
        session_id = session_of(ann)
        place = Place(workspace_id=ann.workspace_id, session_id=session_id, user_id=ann.id)
        no_send = rule("no-send", "deny", "tool.name == 'send'", breakable=True)
        place.follows(no_send, rule("ok", "allow", priority=9000))
        opened(otto)
        first = turn(place, "other")
        second = turn(place, "send")
        third = turn(place, "send", "send")
        client = browser_of(ann)
        told = {
            each: text_of(
                f"<main>{client.get(f'/chat/{session_id}/messages/{each}/').content.decode()}</main>"
            )
            for each in (first, second, third)
        }
        assert "Break-glass" not in told[first]
        assert "Break-glass let 1 act of this turn pass." in told[second]
        assert "Break-glass let 2 acts of this turn pass." in told[third]
        page = text_of(client.get(f"/chat/{session_id}/").content.decode())
        assert page.count("of this turn pass.") == 2


def turn(place: Place, *tools: str) -> UUID:
    """Ask, let these tools be decided on, and answer; return the answer's id."""
    message_id, reply_id = uuid4(), uuid4()
    post_message(session_id=place.session_id, message_id=message_id, content="Well?", actor="system")
    for tool in tools:
        take_step(context=place.context, acts=[place.act(tool)])
    post_reply(
        session_id=place.session_id,
        message_id=reply_id,
        parent=message_id,
        plan_id=uuid4(),
        run_id=uuid4(),
        content="So.",
        model="scripted",
        actor="agent:assistant",
    )
    return reply_id


class TestChatPage:
    async def test_says_so_with_the_first_act_under_it_and_until_it_ends(
        self, plain_server: Server, visit: Visit
    ) -> None:
        visitor = await visit(plain_server)
        workspace_id = visitor.person.workspace_id
        otto = await asyncio.to_thread(
            someone, f"otto{uuid4().hex}@example.org", workspace_id=workspace_id, roles=("member", "operator")
        )
        page, _ = await visitor.opens_session()
        notice = page.locator("#break-glass .notice")
        await expect(notice).to_have_count(0)
        glass_id = await asyncio.to_thread(opened, otto)
        await asks(page, PYTHON)
        await expect(notice).to_contain_text("Break-glass is open for the whole workspace")
        await answered(page)
        await expect(page.locator(".message.assistant .glass")).to_contain_text("let 1 act of this turn pass")
        found = await Axe().run(page, options={"preload": False})
        assert found.response["violations"] == []
        await asyncio.to_thread(ended, otto, glass_id)
        await asks(page, "What now?")
        await page.evaluate("document.querySelector('#break-glass time').dateTime = '2026-01-01T00:00:00Z'")
        await expect(notice).to_have_count(0)
