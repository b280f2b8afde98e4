"""Two people and one policy: what a rule escalates waits in the chat until the other person decided."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.core.management import call_command
from playwright.async_api import expect
from pytest_django import DjangoDbBlocker

from cartrita.embedded.postgres import (
    APP,
    DATABASE,
    OWNER,
    SUPERUSER,
    Postgres,
    use_postgres,
    wait_until_stopped,
)
from tests.browsers import Visit, answered, asks, connected, pointing_at
from tests.databases import SERVER_SETTINGS, Database, close_django_connections
from tests.servers import Server, listening_server
from tests.web.governed import (
    PYTHON,
    READ_FIRST,
    Wire,
    card,
    decides,
    opens_inbox,
    opens_request,
    two_people,
    waits,
)

SECRET = "Ambergris is worth 4711 crowns."


class TestGovernedTour:
    async def test_goes_on_live_when_the_reviewer_approves(self, server: Server, visit: Visit) -> None:
        member, reviewer = await two_people(server, visit)
        inbox = await opens_inbox(reviewer)
        await expect(inbox.locator("[data-live-part]")).to_contain_text("Nothing waits for you")
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        await expect(card(page).get_by_role("group", name="Argument code")).to_have_text("print(6*7)")
        await expect(card(page)).to_contain_text("execute_python")
        await expect(card(page)).to_contain_text("reviewer")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await expect(card(page).get_by_role("button")).to_have_count(0)

        # The inbox shows it without being loaded again.
        await opens_request(inbox)
        await expect(inbox.get_by_role("group", name="Argument code")).to_have_text("print(6*7)")
        await decides(inbox, "Approve")
        await expect(inbox.get_by_text("Your approval is recorded.")).to_be_visible()

        await answered(page)
        await expect(page.locator(".message.assistant pre")).to_have_text("42")
        await expect(card(page)).to_have_attribute("data-status", "used")
        await expect(card(page)).to_contain_text(f"Approved by {reviewer.person.user.display_name}")
        await expect(page.locator("#phase")).to_be_hidden()
        words = await card(page).inner_text()
        await page.reload()
        await connected(page)
        await expect(card(page)).to_have_text(words, use_inner_text=True)
        await expect(page.locator("#messages > li")).to_have_count(3)

    async def test_says_why_the_reviewer_denied(self, server: Server, visit: Visit) -> None:
        member, reviewer = await two_people(server, visit)
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        inbox = await opens_inbox(reviewer)
        await opens_request(inbox)
        await decides(inbox, "Deny", reason="Use a <b>calculator</b>.")
        await answered(page)
        await expect(card(page)).to_have_attribute("data-status", "denied")
        await expect(card(page)).to_contain_text("Denied by")
        await expect(card(page)).to_contain_text("Use a <b>calculator</b>.")
        reply = page.locator(".message.assistant")
        await expect(reply).to_have_attribute("data-outcome", "denied")
        await expect(reply).to_contain_text("Use a <b>calculator</b>.")

    async def test_shows_nothing_of_a_held_answer_before_the_grant(
        self, server: Server, visit: Visit
    ) -> None:
        assert server.script is not None
        server.script.answers({"text": SECRET})
        member, reviewer = await two_people(server, visit, policy=READ_FIRST)
        wire = Wire()
        page = await member.page()
        wire.tap(page)
        await page.goto(await member.link())
        _, session_id = await member.opens_session(page)
        await asks(page, "What do you know?")
        await waits(page, "Waiting for review")
        assert server.script.productions() == [SECRET]
        await page.reload()
        await connected(page)
        await waits(page, "Waiting for review")
        approval_id = await card(page).get_attribute("data-approval")
        for path in (
            f"/api/v2/approvals/{approval_id}",
            f"/api/v2/approvals/{approval_id}/arguments",
            f"/api/v2/sessions/{session_id}/messages",
        ):
            await page.evaluate("(path) => fetch(path).then((answer) => answer.text())", path)
        assert len(wire.frames) > 5
        assert any("stays on the server" in text for text in wire.texts)
        assert not any(wire.carried(word) for word in SECRET.split() if len(word) > 3)

        inbox = await opens_inbox(reviewer)
        await opens_request(inbox)
        await expect(inbox.get_by_role("group", name="Argument text")).to_have_text(SECRET)
        await decides(inbox, "Approve")
        await answered(page)
        await expect(page.locator(".message.assistant .text")).to_have_text(SECRET)
        assert wire.carried(SECRET)


@dataclass
class Installation:
    """A server and its own PostgreSQL, which both stop and start as the test likes."""

    home: Path
    postgres: Postgres
    server: Server

    def restart(self) -> None:
        """Stop everything, and start it again."""
        self.server.stop()
        close_django_connections()
        self.postgres.release()
        assert wait_until_stopped(self.home)
        before = self.postgres.url()
        self.postgres = use_postgres(self.home, settings=SERVER_SETTINGS)
        assert self.postgres.url() == before
        self.server.start()


@pytest.fixture
def installation(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Installation]:
    postgres = use_postgres(tmp_path, settings=SERVER_SETTINGS)
    database = Database(DATABASE, *(postgres.url(role) for role in (APP, OWNER, SUPERUSER)))
    with (
        listening_server(database, tmp_path, scripted=False) as server,
        pointing_at(server, django_db_blocker),
    ):
        with database.as_owner():
            call_command("migrate", verbosity=0, interactive=False)
        server.start()
        installed = Installation(tmp_path, postgres, server)
        yield installed
        server.stop()
        close_django_connections()
        installed.postgres.release()


@pytest.mark.chaos
class TestARestartOfEverything:
    async def test_between_request_and_grant_changes_nothing(
        self, installation: Installation, visit: Visit
    ) -> None:
        member, reviewer = await two_people(installation.server, visit)
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        await asyncio.to_thread(installation.restart)
        await connected(page)
        await waits(page)
        inbox = await opens_inbox(reviewer)
        await opens_request(inbox)
        await expect(inbox.get_by_role("group", name="Argument code")).to_have_text("print(6*7)")
        await decides(inbox, "Approve")
        await answered(page)
        await expect(page.locator(".message.assistant pre")).to_have_text("42")
        await expect(card(page)).to_have_attribute("data-status", "used")
