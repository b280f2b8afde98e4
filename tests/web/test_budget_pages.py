"""Budgets and teams in a real browser: from a team to its budget, and what is about to run out."""

import asyncio
import re
from typing import Any
from uuid import UUID

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from cartrita.accounts.commands import add_member
from cartrita.accounts.models import Team
from cartrita.accounts.queries import caller_in_workspace
from cartrita.accounts.team_commands import create_team
from governance.commands.budgets import set_budget
from governance.models import Budget
from governance.step import take_step
from tests.browsers import Visit, Visitor
from tests.governance.policies import rule
from tests.governance.steps import Place, settled
from tests.servers import Server
from tests.web.test_console_browser import reviewing


def furnished(visitor: Visitor) -> tuple[UUID, UUID]:
    """Make a team with budgets, of which most is used; return the ids of the team and of its budget."""
    person = visitor.person
    caller = caller_in_workspace(person.id, person.workspace_id)
    assert caller is not None
    team_id = create_team(caller=caller, name="Research", members=[person.id])
    top, _ = set_budget(
        caller=caller, name="All of us", scope_kind="workspace", limit_tokens=5000, limit_micros=2_500_000
    )
    of_team, _ = set_budget(
        caller=caller,
        name="Research, each quarter",
        scope_kind="team",
        scope=str(team_id),
        parent_id=top,
        period="quarter",
        limit_tokens=1000,
    )
    set_budget(
        caller=caller,
        name="<b>Mine</b>",
        scope_kind="user",
        scope=str(person.id),
        parent_id=of_team,
        period="hour",
        time_zone="Europe/Berlin",
        limit_tokens=1200,
    )
    set_budget(caller=caller, name="The assistant", scope_kind="agent", scope="assistant", limit_tokens=10)
    place = Place(workspace_id=person.workspace_id, user_id=person.id)
    place.follows(rule("ok", "allow"))
    (first,) = take_step(context=place.context, acts=[place.act("search_documents", tokens=600, micros=900)])
    end = settled(first.decision_id, tokens=550, cost_micros=800)
    take_step(context=place.context, settlements=[end])
    take_step(context=place.context, acts=[place.act("http_fetch", tokens=300, micros=100)])
    take_step(context=place.context, acts=[place.act("http_fetch", tokens=300, micros=100)])
    return team_id, of_team


class TestBudgets:
    async def test_lead_from_a_team_to_what_it_spent(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server, "admin")
        await asyncio.to_thread(furnished, visitor)
        await page.goto(f"{server.url}/admin/governance/budget/")
        short = page.get_by_role("region", name="About to run out")
        await expect(short).to_contain_text("Research, each quarter (team: Research): 85 % taken")
        bar = page.get_by_role(
            "img", name="Research, each quarter, in tokens: 550 used, 300 held back, 150 left"
        )
        await expect(bar).to_be_visible()
        await page.get_by_role("link", name="team: Research").click()
        await page.get_by_role("link", name="Research, each quarter").click()
        spent = page.get_by_role("region", name="Where most of it went")
        await expect(spent).to_contain_text("It refused 1 act.")
        await expect(spent.get_by_role("row", name="tool_call http_fetch")).to_contain_text("held back")
        await spent.get_by_role("link", name="tool_call search_documents").click()
        await expect(page).to_have_url(re.compile("policydecision"))

    async def test_are_set_for_a_team_that_was_just_made(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server, "admin")
        workspace_id = visitor.person.workspace_id
        await asyncio.to_thread(
            add_member,
            workspace_id=workspace_id,
            email="mia@example.org",
            display_name="Mia Mate",
            roles=["member"],
            actor="system",
        )
        await page.goto(f"{server.url}/admin/accounts/team/")
        await page.get_by_role("link", name="New team").click()
        await page.get_by_label("Name:", exact=True).fill("Night shift")
        await page.get_by_label("Mia Mate").check()
        await page.get_by_role("button", name="Create the team").click()
        await expect(page.get_by_role("row", name="Night shift")).to_contain_text("Mia Mate")
        await page.get_by_role("link", name="Budgets").last.click()
        await page.get_by_role("link", name="Time zone and currency").click()
        await page.get_by_label("Time zone").fill("Asia/Tokyo")
        await page.get_by_role("button", name="Save").click()
        await page.get_by_role("link", name="Set a budget").click()
        await page.get_by_label("Name:", exact=True).fill("Nights")
        await page.get_by_label("For what").select_option("team")
        await page.get_by_label("Which one").fill("night shift")
        await page.get_by_label("Period").select_option("day")
        await page.get_by_label("Limit in tokens").fill("1000")
        await page.get_by_role("button", name="Set the budget").click()
        row = page.get_by_role("row", name="Nights")
        await expect(row).to_contain_text("team: Night shift")
        await expect(row).to_contain_text("JST")

        def recorded() -> tuple[str, str]:
            team = Team.objects.get(workspace_id=workspace_id)
            return Budget.objects.get(workspace_id=workspace_id).scope, str(team.pk)

        scope, team_id = await asyncio.to_thread(recorded)
        assert scope == team_id
        async with page.expect_download() as download:
            await page.get_by_role("button", name="Export as CSV").click()
        assert (await download.value).suggested_filename == "budgets.csv"

    @pytest.mark.parametrize("theme", ["light", "dark"])
    async def test_are_accessible_and_true_to_the_content_security_policy(
        self, server: Server, visit: Visit, theme: Any
    ) -> None:
        visitor, page = await reviewing(visit, server, "admin", color_scheme=theme, reduced_motion="reduce")
        team_id, budget_id = await asyncio.to_thread(furnished, visitor)
        breaches = []
        for address in (
            "governance/budget/",
            f"governance/budget/{budget_id}/change/",
            "governance/budget/settings/",
            "accounts/team/",
            "accounts/team/new/",
            f"accounts/team/{team_id}/change/",
        ):
            await page.goto(f"{server.url}/admin/{address}")
            found = await Axe().run(page, context=".console-page", options={"preload": False})
            breaches += [
                f"{address} {violation['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
                for violation in found.response["violations"]
                for node in violation["nodes"]
            ]
        assert breaches == []
        assert sorted(set(visitor.wrongs)) == []

    async def test_fit_a_narrow_telephone(self, server: Server, visit: Visit) -> None:
        visitor, page = await reviewing(visit, server, "admin", viewport={"width": 360, "height": 740})
        team_id, budget_id = await asyncio.to_thread(furnished, visitor)
        widths = {}
        for address in (
            "governance/budget/",
            f"governance/budget/{budget_id}/change/",
            "accounts/team/",
            f"accounts/team/{team_id}/change/",
        ):
            await page.goto(f"{server.url}/admin/{address}")
            widths[address] = await page.evaluate("document.scrollingElement.scrollWidth")
        assert set(widths.values()) == {360}, widths
