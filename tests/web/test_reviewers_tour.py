"""The steps of docs/reviewers-tour.md in a browser; UPDATE_SCREENSHOTS=1 writes its pictures anew."""

import asyncio
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from django.core.management import call_command
from playwright.async_api import Page, expect

from cartrita.accounts.queries import caller_in_workspace
from governance.commands.budgets import set_budget
from tests.browsers import Visit, Visitor, answered, asks
from tests.databases import CHECKOUT
from tests.servers import Server
from tests.web.governed import decides, opens_request, waits
from tests.web.test_tutorial import TALL_WINDOW, new_session, pictured, two_people

TOUR = CHECKOUT / "docs" / "reviewers-tour.md"


class TestReviewersTour:
    async def test_leads_from_a_decision_to_a_better_rule(
        self, plain_server: Server, visit: Visit, tmp_path: Path
    ) -> None:
        admin, reviewer = await two_people(plain_server, visit)
        page, console = await admin.signs_in(), await reviewer.signs_in()
        await console.set_viewport_size(TALL_WINDOW)
        short, long = re.findall(r"^/execute_python .+$", TOUR.read_text(), re.MULTILINE)
        for code in (short, long):
            await new_session(page)
            await asks(page, code)
            await waits(page)
            await approves(reviewer, console)
            await answered(page)
        await self.looks_at_a_decision(reviewer, console, tmp_path)
        await self.plays_a_rule_against_the_history(admin, page)
        await self.lets_it_watch(admin, page, reviewer, console, long)
        await self.looks_at_coverage(console)
        await self.breaks_the_glass(admin, page, reviewer, console, short)
        await self.looks_at_budgets(admin, reviewer, console)
        assert sorted({*admin.wrongs, *reviewer.wrongs}) == []

    async def looks_at_a_decision(self, reviewer: Visitor, console: Page, folder: Path) -> None:
        await opens(reviewer, console, "policydecision/?q=execute_python&decision__exact=audit")
        await console.locator("#result_list tbody tr").first.get_by_role("link").first.click()
        await expect(console.get_by_text("risky-tools-are-reviewed").first).to_be_visible()
        await pictured(console, "decision")
        async with console.expect_download() as downloaded:
            await console.get_by_role("link", name="Download the capsule").click()
        capsule = folder / "capsule.json"
        await (await downloaded.value).save_as(capsule)
        verifier = Path(sys.executable).with_name("cartrita-verify")
        keys = folder / "keys.txt"

        def verified() -> subprocess.CompletedProcess[str]:
            keys.write_text(verifier_keys())
            return subprocess.run(
                [verifier, capsule, "--key", keys], capture_output=True, text=True, check=False
            )

        checked = await asyncio.to_thread(verified)
        assert checked.returncode == 0, checked.stdout
        await console.get_by_role("link", name="Decide again").click()
        await expect(console.get_by_role("heading", name="The verdict is the same.")).to_be_visible()

    async def plays_a_rule_against_the_history(self, admin: Visitor, page: Page) -> None:
        values = dict(re.findall(r"^\| (\w+) \| `(.+?)` \|$", TOUR.read_text(), re.MULTILINE))
        await opens(admin, page, "policyrule/new/")
        for label in ("Name", "Sentence", "Tools", "Condition"):
            await page.get_by_label(f"{label}:", exact=True).fill(values[label])
        await page.get_by_label("Outcome:", exact=True).select_option(values["Outcome"])
        await page.get_by_label(values["Kinds"], exact=True).check()
        await page.get_by_role("button", name="Save in the draft").click()
        await expect(page.get_by_text("The rule stands in the draft.")).to_be_visible()
        await opens(admin, page, "policyrule/")
        await page.get_by_role("link", name="Test the draft against the history").click()
        await page.get_by_role("button", name="Begin").click()
        await expect(page.get_by_role("heading", name="What would have followed")).to_be_visible()
        found = page.get_by_role("region", name="What would have followed")
        await expect(found).to_contain_text(re.compile("1 of [0-9]+ that are reached"))
        await expect(found).to_contain_text(re.compile(" 0 differences"))
        rules = page.get_by_role("region", name="By rule")
        await expect(rules).to_contain_text("no-long-code")
        await page.set_viewport_size(TALL_WINDOW)
        await pictured(page, "backtest")

    async def lets_it_watch(
        self, admin: Visitor, page: Page, reviewer: Visitor, console: Page, long: str
    ) -> None:
        await opens(admin, page, "policyrule/")
        await page.get_by_role("button", name="Propose", exact=True).click()
        await expect(page.get_by_text("The draft is proposed")).to_be_visible()
        await opens(reviewer, console, "policyrule/")
        await console.get_by_role("button", name="Approve").click()
        await console.get_by_role("button", name="Put it in shadow").click()
        await expect(console.get_by_text("The set is in shadow")).to_be_visible()
        await page.goto(admin.server.url)
        await new_session(page)
        await asks(page, long)
        await waits(page)
        await opens(reviewer, console, "policyrule/")
        await expect(console.get_by_text("1 would have had another outcome.")).to_be_visible()
        await console.locator("section.set").evaluate("(found) => found.scrollIntoView()")
        await pictured(console, "shadow")
        await console.get_by_role("button", name="Put it in force").click()
        await expect(console.get_by_text("The set is in force.")).to_be_visible()
        await approves(reviewer, console)
        await answered(page)
        await expect(page.locator(".message.assistant .text")).to_contain_text("Code of more than twenty")

    async def looks_at_coverage(self, console: Page) -> None:
        await console.get_by_role("link", name="Policy rules").first.click()
        await console.get_by_role("link", name="Coverage").click()
        await expect(console.get_by_role("row", name="no-long-code deny")).to_be_visible()
        await pictured(console, "coverage")

    async def breaks_the_glass(
        self, admin: Visitor, page: Page, reviewer: Visitor, console: Page, short: str
    ) -> None:
        await opens(admin, page, "breakglass/new/")
        await page.get_by_label("Reason").fill("The harbour's gates are stuck, and nobody is on call.")
        await page.get_by_role("button", name="Open break-glass").click()
        await expect(page.get_by_text("Break-glass is open:")).to_be_visible()
        await page.goto(admin.server.url)
        await new_session(page)
        await asks(page, short)
        await answered(page)
        await expect(page.locator(".message.assistant pre")).to_have_text("42")
        await expect(page.locator(".message.assistant .glass")).to_contain_text("let 1 act of this turn pass")
        await expect(page.locator("#break-glass")).to_contain_text("Break-glass is open")
        await page.set_viewport_size({"width": 1120, "height": 520})
        await pictured(page, "break-glass-chat")
        await opens(reviewer, console, "breakglass/")
        acts = console.get_by_role("region", name="To be looked at")
        await expect(acts.get_by_role("row", name="python-needs-a-reviewer")).to_be_visible()
        await pictured(console, "break-glass")

    async def looks_at_budgets(self, admin: Visitor, reviewer: Visitor, console: Page) -> None:
        def furnished() -> None:
            caller = caller_in_workspace(admin.person.id, admin.person.workspace_id)
            assert caller is not None
            top, _ = set_budget(
                caller=caller, name="All of us", scope_kind="workspace", period="month", limit_tokens=50_000
            )
            set_budget(
                caller=caller,
                name="The administrator",
                scope_kind="user",
                scope=str(admin.person.id),
                parent_id=top,
                period="day",
                limit_tokens=5_000,
            )

        await asyncio.to_thread(furnished)
        await opens(reviewer, console, "budget/")
        await expect(console.get_by_text("The administrator").first).to_be_visible()
        await pictured(console, "budgets")


def verifier_keys() -> str:
    """Return the installation's keys as the command gives them."""
    written = StringIO()
    call_command("signing_keys", stdout=written)
    return written.getvalue()


async def opens(visitor: Visitor, page: Page, address: str) -> None:
    """Open a page of the governance console."""
    await page.goto(f"{visitor.server.url}/admin/governance/{address}")


async def approves(visitor: Visitor, page: Page) -> None:
    """Approve the one request that waits."""
    await opens(visitor, page, "approval/")
    await opens_request(page)
    await decides(page, "Approve")
    await expect(page.get_by_text("Your approval is recorded.")).to_be_visible()
