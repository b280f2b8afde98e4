"""Coverage, proofs, capsules and signed heads in a real browser, as an auditor meets them."""

import asyncio
import os
from pathlib import Path

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from governance.capsules import redecide_capsule
from governance.queries.policies import active_policy
from tests.browsers import Visit
from tests.governance.consoles import asks_for_python
from tests.servers import Server
from tests.web.test_console_browser import reviewing


async def shown(page: Page, name: str) -> None:
    if os.environ.get("SHOTS"):
        await page.screenshot(path=f"{os.environ['SHOTS']}/{name}.png", full_page=True)


class TestAnAuditor:
    async def test_sees_what_rules_did_and_takes_a_proven_decision_along(
        self, server: Server, visit: Visit, tmp_path: Path
    ) -> None:
        visitor, page = await reviewing(visit, server, "auditor", viewport={"width": 1280, "height": 900})
        workspace_id = visitor.person.workspace_id

        def asked() -> str:
            active_policy(workspace_id)
            return str(asks_for_python(workspace_id).decision_id)

        decision_id = await asyncio.to_thread(asked)
        await page.goto(f"{server.url}/admin/governance/policyrule/")
        await page.get_by_role("link", name="Coverage").click()
        row = page.get_by_role("row").filter(has_text="restricted-tools-need-a-reviewer")
        await expect(row).to_contain_text("Never hit")
        await shown(page, "coverage")
        await self.is_accessible(page, ".console-page")

        address = f"{server.url}/admin/governance/policydecision/{decision_id}/change/"
        # The server's signer signs within a second.
        for _ in range(120):
            await page.goto(address)
            if await page.get_by_text("Verified up to the signed head").count():
                break
            await asyncio.sleep(0.5)
        await expect(page.get_by_text("decided: escalate by python-needs-a-reviewer")).to_be_visible()
        await shown(page, "decision")
        await self.is_accessible(page, ".field-proof")
        async with page.expect_download() as begun:
            await page.get_by_role("link", name="Download the capsule").click()
        download = await begun.value
        await download.save_as(tmp_path / "decision.json")
        again = await asyncio.to_thread(redecide_capsule, (tmp_path / "decision.json").read_bytes())
        assert (str(again.decision_id), again.same) == (decision_id, True)

        await page.get_by_role("link", name="Decide again").click()
        await expect(page.get_by_role("heading", name="The verdict is the same.")).to_be_visible()
        await shown(page, "again")
        await page.goto(f"{server.url}/admin/eventstore/treehead/")
        await shown(page, "heads")
        await page.locator("#result_list tbody th a").first.click()
        await expect(page.locator("pre")).to_contain_text("cartrita/")
        await shown(page, "head")
        async with page.expect_download() as begun:
            await page.get_by_role("link", name="Download the checkpoint").click()
        assert (await begun.value).suggested_filename.startswith("head-")
        assert sorted(set(visitor.wrongs)) == []

    async def is_accessible(self, page: Page, part: str) -> None:
        found = await Axe().run(page, context=part, options={"preload": False})
        assert found.response["violations"] == []
