"""The policy editor in a real browser: a set on its way from the draft into force, through two people."""

import asyncio
import os
from uuid import UUID

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from governance.commands import policies as commands
from governance.queries.policies import active_policy
from tests.browsers import Visit
from tests.governance.consoles import asks_for_python, guardian
from tests.servers import Server
from tests.web.test_console_browser import reviewing

HOLD = {
    "name": "no-python",
    "sentence": "Nobody runs Python here.",
    "priority": 10,
    "match": {"kinds": ["tool_call"], "tools": ["execute_python"], "agents": ["tester"]},
    "outcome": "deny",
}


async def shown(page: Page, name: str) -> None:
    if os.environ.get("SHOTS"):
        await page.screenshot(path=f"{os.environ['SHOTS']}/{name}.png", full_page=True)


class TestPolicyEditor:
    async def test_leads_a_set_from_the_draft_through_shadow_into_force(
        self, server: Server, visit: Visit
    ) -> None:
        visitor, page = await reviewing(visit, server, "reviewer", viewport={"width": 1280, "height": 900})
        workspace_id = visitor.person.workspace_id

        def written() -> UUID:
            active_policy(workspace_id)
            asks_for_python(workspace_id)
            author = guardian(workspace_id, "policy_author", name="Ada Author")
            commands.write_rule(workspace_id=workspace_id, definition=HOLD, caller=author.caller)
            commands.propose(workspace_id=workspace_id, caller=author.caller, note="Python is not needed.")
            return author.user.pk

        await asyncio.to_thread(written)
        await page.goto(f"{server.url}/admin/governance/policyrule/")
        await shown(page, "1-proposed")
        await expect(page.get_by_text("Ada Author proposes the set")).to_be_visible()
        stages = page.locator(".stages").first
        await expect(stages.locator("li.now")).to_contain_text(["Draft", "Proposed"])
        await page.get_by_role("button", name="Reject").click()
        await expect(page.get_by_role("alert")).to_contain_text("Say why")
        await expect(page.get_by_role("alert")).to_be_focused()
        await shown(page, "2-no-reason")
        await page.get_by_label("Note").fill("Two of us agree.")
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_text("Your approval is recorded")).to_be_visible()
        await page.get_by_role("button", name="Put it in shadow").click()
        await expect(page.get_by_text("The set is in shadow")).to_be_visible()
        await asyncio.to_thread(asks_for_python, workspace_id)
        await page.reload()
        await expect(page.get_by_text("1 would have had another outcome.")).to_be_visible()
        await shown(page, "3-shadow")
        await page.get_by_role("link", name="The whole report").click()
        await expect(page.get_by_role("region", name="By rule").get_by_role("row")).to_have_count(2)
        await expect(page.get_by_text("1 asked for, 0 under this set (-1 a day)")).to_be_visible()
        await shown(page, "4-report")
        await page.get_by_role("region", name="Examples").get_by_role("link").click()
        await shown(page, "5-decision")
        await page.go_back()
        await page.get_by_role("link", name="Back to the rules").click()
        await page.get_by_role("link", name="Try the draft on one event").click()
        await page.get_by_label("One of the newest decisions").select_option(index=1)
        await page.get_by_role("button", name="Try").click()
        await expect(page.get_by_role("heading", name="The verdict changes")).to_be_visible()
        await expect(page.locator(".stages li.done").filter(has_text="Tried")).to_be_visible()
        await shown(page, "6-tried")
        await page.get_by_role("link", name="Back to the rules").click()
        await page.get_by_role("button", name="Put it in force").click()
        await expect(page.get_by_text("The set is in force.")).to_be_visible()
        await shown(page, "7-in-force")
        await page.get_by_role("link", name="All sets that were in force").click()
        await shown(page, "8-sets")
        assert sorted(set(visitor.wrongs)) == []

    async def test_is_accessible_at_each_stage(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(
            visit,
            server,
            "admin",
            color_scheme="dark",
            reduced_motion="reduce",
            viewport={"width": 360, "height": 740},
        )
        workspace_id = visitor.person.workspace_id

        def in_shadow() -> None:
            active_policy(workspace_id)
            author = guardian(workspace_id, "policy_author", name="Ada Author")
            commands.write_rule(workspace_id=workspace_id, definition=HOLD, caller=author.caller)
            commands.propose(workspace_id=workspace_id, caller=author.caller, note="Python is not needed.")
            keeper = guardian(workspace_id, "reviewer")
            commands.shadow(workspace_id=workspace_id, caller=keeper.caller)
            asks_for_python(workspace_id)
            commands.write_rule(
                workspace_id=workspace_id, definition={**HOLD, "outcome": "audit"}, caller=author.caller
            )

        await asyncio.to_thread(in_shadow)
        for address in ("policyrule/", "policyrule/shadow/", "policyrule/try/"):
            await page.goto(f"{server.url}/admin/governance/{address}")
            found = await Axe().run(page, context=".console-page", options={"preload": False})
            assert found.response["violations"] == [], address
            assert await page.evaluate("document.scrollingElement.scrollWidth") == 360, address
            await shown(page, f"9-narrow-{address.strip('/').replace('/', '-')}")
        assert sorted(set(visitor.wrongs)) == []
