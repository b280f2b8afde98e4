"""The page of a plan: who sees it, what it says, that it follows what happens."""

import asyncio
import json
import re

import pytest
from axe_playwright_python.async_playwright import Axe
from django.test import Client
from playwright.async_api import expect

from sessions_app.commands import erase_session
from tests.accounts.people import Person, someone
from tests.browsers import Visit
from tests.databases import Database
from tests.servers import Server
from tests.tasks_app.written import Written, ordered
from tests.web.test_views import browser_of, text_of

HOSTILE = "<script>window.broken = 1</script><b id=broken>x</b> \u202egnp.exe"


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def client(ann: Person) -> Client:
    return browser_of(ann)


class TestPage:
    def test_shows_the_tree_without_scripts(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(
            ["Read", HOSTILE], (1, "depends_on", 2), agents=["researcher", "writer"]
        )
        written.complete(1)
        written.criticise(1, "cited")
        written.fail(2)
        page = client.get(f"/plans/{written.plan_id}/").content.decode()
        text = text_of(page)
        for words in ("2. Read", "Done · researcher", "25 tokens", "passed: cited", "Verdict: allow"):
            assert words in text
        assert "Comes after: 2 (depends_on)" in text
        assert "The table has no rows." in text
        assert "<script>window" not in page
        assert "<b id=broken>" not in page
        assert "⟦U+202E⟧" in page

    def test_is_hidden_from_others_and_gone_with_the_session(self, ann: Person, client: Client) -> None:
        written = Written(ann, question="A secret").propose(["A secret part", "Count"])
        path = f"/plans/{written.plan_id}/"
        for other in (
            someone("carl@example.org", workspace_id=ann.workspace_id),
            someone("bob@example.org", roles=("admin",)),
        ):
            assert browser_of(other).get(path).status_code == 404
        assert Client().get(path).headers["Location"] == f"/sign-in?next={path}"
        erase_session(session_id=written.session_id, actor=f"user:{ann.id}")
        answer = client.get(path)
        assert answer.status_code == 404
        assert b"secret" not in answer.content

    def test_is_linked_from_replies_of_several_tasks_alone(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "Count"], agents=["a", "b"])
        single = Written(ann, session_id=written.session_id).propose([])
        written.reply()
        single.reply()
        ordered()
        page = client.get(f"/chat/{written.session_id}/").content.decode()
        assert f'<a href="/plans/{written.plan_id}/">Plan: 3 tasks, 3 agents</a>' in page
        assert str(single.plan_id) not in page


class TestTheChatLoadedAgain:
    def test_knows_the_tasks_of_a_plan_under_way(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "</script><b>"], (1, "depends_on", 2))
        written.fail(1)
        ordered()
        page = client.get(f"/chat/{written.session_id}/").content.decode()
        found = re.search(r'id="open-plans" type="application/json">(.*?)</script>', page)
        assert found is not None
        (plan,) = json.loads(found[1])
        assert plan["id"] == str(written.plan_id)
        assert [task["status"] for task in plan["tasks"]] == ["skipped", "failed", "skipped"]
        assert (plan["tasks"][1]["reason"], plan["tasks"][2]["intent"]) == (
            "The table has no rows.",
            "</script><b>",
        )


class TestInTheBrowser:
    async def test_follows_the_plan_and_is_accessible(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server, viewport={"width": 360, "height": 740}, reduced_motion="reduce")

        def write() -> Written:
            return Written(visitor.person).propose([HOSTILE, *(f"Do {number}" for number in range(18))])

        written = await asyncio.to_thread(write)
        # The server's orchestrator answers the message by itself, in a plan of its own.
        page = await visitor.signs_in()
        await page.goto(f"{server.url}/plans/{written.plan_id}/")
        await expect(page.locator(".plan-tree li[data-status]")).to_have_count(20)
        await asyncio.to_thread(written.complete, 1)
        await expect(page.locator(f"#task-{written.tasks[1]}")).to_contain_text("Done")
        assert await page.evaluate("document.scrollingElement.scrollWidth") == 360
        assert await page.evaluate("window.broken") is None
        found = await Axe().run(page)
        assert [each["id"] for each in found.response["violations"]] == []


class TestInTheChat:
    async def test_shows_tasks_while_they_run(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server)
        page, session_id = await visitor.opens_session()

        def write() -> Written:
            return Written(visitor.person, session_id=session_id).propose(
                [HOSTILE, "Count", "Write"], (2, "depends_on", 3), agents=["reader", "counter", "writer"]
            )

        written = await asyncio.to_thread(write)
        lines = page.locator(f'[data-plan="{written.plan_id}"] li')
        await expect(lines).to_have_count(4)
        await expect(lines.nth(1)).to_contain_text("<b id=broken>x</b> ⟦U+202E⟧")
        run_id = await asyncio.to_thread(written.start, 1)
        await expect(lines.nth(1)).to_contain_text("running: reader")
        await asyncio.to_thread(written.complete, 1, run_id)
        await expect(lines.nth(1)).to_contain_text("done")
        await asyncio.to_thread(written.fail, 2)
        await expect(lines.nth(2)).to_contain_text("failed: The table has no rows.")
        await expect(lines.nth(3)).to_contain_text("skipped")
        await expect(page.locator("#broken")).to_have_count(0)
        link = page.locator(f'[data-plan="{written.plan_id}"]').get_by_role("link", name="Plan")
        await expect(link).to_have_attribute("href", f"/plans/{written.plan_id}/")
        assert [each["id"] for each in (await Axe().run(page)).response["violations"]] == []
