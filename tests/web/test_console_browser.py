"""The governance console in a real browser: its inbox follows what happens, under the strict policy."""

import asyncio
import re
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from cartrita.accounts.commands import set_roles
from cartrita.accounts.models import User
from governance.commands.approvals import deny
from governance.commands.backtests import request_back_test
from governance.commands.break_glass import open_break_glass
from governance.commands.budgets import set_budget
from governance.models import Approval, PolicyRule, PolicyVersion
from tests.browsers import Visit, Visitor
from tests.governance.consoles import asks_for_python, guardian
from tests.servers import Server

HOSTILE = {
    "code": "<script>window.broken = 1</script>",
    "name\u202e": '"><img src=x onerror="window.broken = 1">',
}
# The search box of Django's lists has a title and no label.
DJANGOS_OWN = (["#searchbar"],)


async def reviewing(visit: Visit, server: Server, *roles: str, **options: Any) -> tuple[Visitor, Page]:
    """Return a visitor with these roles in a workspace of their own, signed in."""
    visitor = await visit(server, **options)

    def promote() -> None:
        User.objects.filter(pk=visitor.person.id).update(is_staff=True)
        set_roles(
            workspace_id=visitor.person.workspace_id,
            user_id=visitor.person.id,
            roles=["member", *(roles or ("reviewer",))],
            actor="system",
        )

    await asyncio.to_thread(promote)
    return visitor, await visitor.signs_in()


async def denied_by_another(visitor: Visitor, approval: Approval) -> None:
    def deny_it() -> None:
        other = guardian(visitor.person.workspace_id, "reviewer", name="Fay First")
        deny(approval_id=approval.pk, caller=other.caller, text="no")

    await asyncio.to_thread(deny_it)


async def asked(visitor: Visitor, arguments: dict[str, Any] | None = None) -> Approval:
    return await asyncio.to_thread(asks_for_python, visitor.person.workspace_id, arguments)


class TestInbox:
    async def test_leads_from_the_list_to_an_approval(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server)
        approval = await asked(visitor, {"code": "print(6 * 7)"})
        await page.get_by_role("link", name="Console").click()
        await page.get_by_role("link", name="Approvals").first.click()
        waiting = page.get_by_role("region", name="Waiting for a person")
        await waiting.get_by_role("link", name="execute_python", exact=True).click()
        await expect(page.get_by_label("Argument code")).to_have_text("print(6 * 7)")
        await page.get_by_label("Remark").fill("It only multiplies.")
        await page.get_by_role("button", name="Approve", exact=True).click()
        await expect(page.get_by_text("Your approval is recorded.")).to_be_visible()
        await expect(page.locator(".state")).to_contain_text("Approved")
        await expect(page.locator(".notes")).to_contain_text("It only multiplies.")
        row = await asyncio.to_thread(Approval.objects.get, pk=approval.pk)
        assert row.status == "granted"

    async def test_follows_what_happens(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server)
        await page.goto(f"{server.url}/admin/governance/approval/")
        waiting = page.get_by_role("region", name="Waiting for a person")
        await expect(waiting).to_contain_text("Nothing waits for you.")
        await expect(waiting).to_contain_text("This list follows what happens.")
        approval = await asked(visitor)
        await expect(waiting.locator("[data-live-part]")).to_contain_text("1 request waits.")
        await expect(waiting.get_by_role("status")).to_have_text("1 request waits.")
        await denied_by_another(visitor, approval)
        await expect(waiting).to_contain_text("Nothing waits for you.")

    async def test_tells_a_reviewer_at_once_that_another_was_quicker(
        self, server: Server, visit: Visit
    ) -> None:
        visitor, page = await reviewing(visit, server)
        approval = await asked(visitor)
        await page.goto(f"{server.url}/admin/governance/approval/{approval.pk}/change/")
        await expect(page.locator("[data-live-now=on]")).to_have_count(1)
        await page.get_by_label("Remark").fill("I am writing")
        await denied_by_another(visitor, approval)
        await expect(page.locator(".state")).to_contain_text("Denied by Fay First")
        await expect(page.get_by_label("Remark")).to_have_value("I am writing")
        await page.get_by_role("button", name="Approve", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("Fay First")
        await expect(page.get_by_role("alert")).to_be_focused()

    async def test_works_without_scripts(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server, java_script_enabled=False)
        await page.goto(f"{server.url}/admin/governance/approval/")
        await asked(visitor)
        await page.get_by_role("link", name="Load it again").click()
        await page.get_by_role("link", name="execute_python", exact=True).click()
        await page.get_by_label("Reason").fill("Not now.")
        await page.get_by_role("button", name="Deny", exact=True).click()
        await expect(page.locator(".state")).to_contain_text("Denied by")


class TestEditor:
    async def test_leads_from_a_mistake_to_a_rule_in_the_draft(self, server: Server, visit: Visit) -> None:
        _, page = await reviewing(visit, server, "policy_author")
        await page.goto(f"{server.url}/admin/governance/policyrule/")
        await page.get_by_role("link", name="New rule").click()
        await page.get_by_label("Name:", exact=True).fill("no-mail-at-night")
        await page.get_by_label("Sentence:", exact=True).fill("Mail waits for the morning.")
        await page.get_by_label("Outcome:", exact=True).select_option("deny")
        await page.get_by_label("tool_call", exact=True).check()
        await page.get_by_label("Condition:", exact=True).fill("tool.nmae == 'send_mail'")
        await page.get_by_role("button", name="Save in the draft").click()
        alert = page.get_by_role("alert").filter(has_text="Condition")
        await expect(alert).to_contain_text("did you mean tool.name?")
        await expect(alert.locator("pre")).to_contain_text("tool.nmae == 'send_mail'")
        await expect(page.get_by_label("Sentence:", exact=True)).to_have_value("Mail waits for the morning.")
        await page.get_by_label("Condition:", exact=True).fill("tool.name == 'send_mail'")
        await page.get_by_role("button", name="Show as YAML").click()
        await expect(page.get_by_label("The rule as YAML")).to_have_value(re.compile("no-mail-at-night"))
        await page.get_by_role("button", name="Save in the draft").click()
        await expect(page.get_by_text("The rule stands in the draft.")).to_be_visible()
        await page.get_by_role("link", name="Policy rules").last.click()
        await expect(page.get_by_role("row", name="no-mail-at-night")).to_contain_text("new")
        await page.get_by_role("button", name="Put it in force").click()
        await expect(page.get_by_text("The draft is what is in force.")).to_be_visible()


class TestPages:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    async def test_are_accessible_and_true_to_the_content_security_policy(
        self, server: Server, visit: Visit, theme: str
    ) -> None:
        visitor, page = await reviewing(
            visit, server, "reviewer", "admin", color_scheme=theme, reduced_motion="reduce"
        )
        approval = await asked(visitor, HOSTILE)
        workspace_id = visitor.person.workspace_id

        def addresses() -> list[str]:
            keeper = guardian(workspace_id, "admin")
            budget_id, _ = set_budget(
                caller=keeper.caller, name="All", scope_kind="workspace", limit_tokens=10, limit_micros=5
            )
            glass_id, _ = open_break_glass(caller=keeper.caller, reason="Nobody is on call.", minutes=5)
            back_test_id, _ = request_back_test(workspace_id=workspace_id, caller=keeper.caller)
            rule = PolicyRule.objects.filter(workspace_id=workspace_id)[0]
            version = PolicyVersion.objects.get(workspace_id=workspace_id)
            return [
                "approval/",
                f"approval/{approval.pk}/change/",
                "backtest/",
                f"backtest/{back_test_id}/change/",
                "backtest/new/",
                "breakglass/",
                f"breakglass/{glass_id}/change/",
                "breakglass/new/",
                "policyrule/",
                "policyrule/coverage/",
                "policyrule/shadow/",
                "policyrule/try/",
                "policyrule/new/",
                f"policyrule/{rule.pk}/change/",
                f"policyrule/{rule.pk}/change/?as=yaml",
                "policyrule/import/",
                "policyversion/",
                f"policyversion/{version.pk}/change/",
                "budget/",
                "budget/new/",
                f"budget/{budget_id}/change/",
                "policydecision/",
                f"policydecision/{approval.decision_id}/change/",
                f"policydecision/{approval.decision_id}/again/",
            ]

        breaches = []
        for address in await asyncio.to_thread(addresses):
            await page.goto(f"{server.url}/admin/governance/{address}")
            assert await page.evaluate("window.broken") is None
            # Fetching style sheets anew, axe would put them in as inline ones.
            found = await Axe().run(page, options={"preload": False})
            breaches += [
                f"{address} {violation['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
                for violation in found.response["violations"]
                for node in violation["nodes"]
                if node["target"] not in DJANGOS_OWN
            ]
        assert breaches == []
        assert sorted(set(visitor.wrongs)) == []

    async def test_fit_a_narrow_telephone(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server, "admin", viewport={"width": 360, "height": 740})
        approval = await asked(visitor, {"code": "x" * 3000})
        widths = {}
        for address in (
            f"approval/{approval.pk}/change/",
            "backtest/",
            "backtest/new/",
            "breakglass/",
            "policydecision/",
            f"policydecision/{approval.decision_id}/change/",
            "policyrule/",
            "policyrule/coverage/",
            "policyrule/new/",
            "policyversion/",
            "budget/new/",
        ):
            await page.goto(f"{server.url}/admin/governance/{address}")
            widths[address] = await page.evaluate("document.scrollingElement.scrollWidth")
        assert set(widths.values()) == {360}, widths
