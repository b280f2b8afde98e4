"""The page of a plan: who sees it, what it says, that it follows what happens."""

import asyncio
import json
import re

import pytest
from axe_playwright_python.async_playwright import Axe
from django.test import Client
from playwright.async_api import expect

from cartrita.eventstore import new_id
from cartrita.web.plans import micros
from sessions_app.commands import erase_session
from tasks_app.plan import Foreseen
from tests.accounts.people import Person, someone
from tests.browsers import Visit
from tests.databases import Database
from tests.servers import Server
from tests.tasks_app.written import Written, ordered
from tests.web.test_views import browser_of, text_of

HOSTILE = "<script>window.broken = 1</script><b id=broken>x</b> \u202egnp.exe"
ASKS = Foreseen(act="tool_call", subject="send", outcome="escalate", rule="send-needs-leave", sure=True)


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

    def test_shows_the_bill_beside_what_was_used(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "Count"], agents=["a", "b"])
        address = f"/plans/{written.plan_id}/"
        assert "Bill" not in text_of(client.get(address).content.decode())
        bill = written.bill(foreseen=[ASKS])
        (cost,) = bill.costs
        run_id = written.start(1)
        written.decide(run_id, outcome="escalate", permitted=False, approval_id=new_id())
        written.complete(2)
        text = text_of(client.get(address).content.decode())
        for words in (
            f"Tokens {bill.tokens.p50:,} {bill.tokens.p10:,} to {bill.tokens.p90:,} 25",
            f"USD {micros(cost.p50)} {micros(cost.p10)} to {micros(cost.p90)} 0.0015",
            "Acts to be approved 1 1",
            "an estimate, as no such task has ended yet",
            "about 90 expected",
        ):
            assert words in text, words
        rests = Written(ann).propose(["Read", "Count"], agents=["a", "b"])
        rests.bill(past=12)
        text = text_of(client.get(f"/plans/{rests.plan_id}/").content.decode())
        assert "it rests on 24 past tasks." in text
        assert "estimate" not in text

    def test_draws_the_graph_without_scripts_or_styles(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(
            ["Read", HOSTILE, "Write"],
            (1, "depends_on", 2),
            (2, "enables", 3),
            (1, "refines", 3),
            agents=["researcher", "<b>x</b>\u202e", "writer"],
        )
        written.complete(1)
        written.fail(2)
        page = client.get(f"/plans/{written.plan_id}/").content.decode()
        found = re.search(r"<svg.*?</svg>", page, re.DOTALL)
        assert found is not None
        svg = found[0]
        assert 'role="img" aria-labelledby="graph-name" aria-describedby="graph-says"' in svg
        assert re.search(r'<desc id="graph-says">[^<]*tree above', svg)
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        hostile = "3. &lt;b&gt;x&lt;/b&gt;⟦U+202E⟧"
        for words in ("2. researcher", "Done", hostile, "Failed", "Skipped", "enables", "refines"):
            assert words in texts
        assert "depends_on" not in texts
        statuses = re.findall(r'<g data-status="(\w+)">', svg)
        assert statuses == ["pending", "complete", "failed", "pruned"]
        assert "style" not in svg
        assert "<script" not in svg

    def test_draws_no_graph_of_one_task(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose([])
        assert b"<svg class" not in client.get(f"/plans/{written.plan_id}/").content

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

    def test_is_linked_from_the_console(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read"])
        ordered()
        ann.user.is_staff = ann.user.is_superuser = True
        ann.user.save()
        page = client.get(f"/admin/tasks_app/planrow/{written.plan_id}/change/").content.decode()
        assert f'<a href="/plans/{written.plan_id}/">Show the plan</a>' in page


class TestTheChatLoadedAgain:
    def test_knows_the_tasks_of_a_plan_under_way(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "</script><b>"], (1, "depends_on", 2))
        bill = written.bill()
        written.fail(1)
        ordered()
        page = client.get(f"/chat/{written.session_id}/").content.decode()
        found = re.search(r'id="open-plans" type="application/json">(.*?)</script>', page)
        assert found is not None
        (plan,) = json.loads(found[1])
        assert plan["id"] == str(written.plan_id)
        assert (plan["bill"]["tasks"], plan["bill"]["tokens"]) == (3, bill.tokens.model_dump())
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
        await asyncio.to_thread(written.bill)
        # The server's orchestrator answers the message by itself, in a plan of its own.
        page = await visitor.signs_in()
        await page.goto(f"{server.url}/plans/{written.plan_id}/")
        await expect(page.locator(".plan-tree li[data-status]")).to_have_count(20)
        graph = page.get_by_role("region", name="Graph")
        await expect(graph.locator("rect")).to_have_count(20)
        await graph.focus()
        await page.keyboard.press("End")
        await graph.evaluate("box => { box.scrollLeft = 60; }")
        await asyncio.to_thread(written.complete, 1)
        await expect(page.locator(f"#task-{written.tasks[1]}")).to_contain_text("Done")
        await expect(graph.locator('[data-status="complete"]')).to_have_count(1)
        assert await page.evaluate("[document.activeElement.id, document.activeElement.scrollLeft]") == [
            "graph",
            60,
        ]
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
        bill = await asyncio.to_thread(written.bill, foreseen=[ASKS])
        shown = page.locator(f'[data-plan="{written.plan_id}"] .bill')
        words = (
            f"4 tasks, about {bill.tokens.p50} tokens, {micros(bill.costs[0].p50)} USD, 1 act to be approved"
        )
        await expect(shown).to_have_text(words)
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
