"""`manage.py agents`: which agents there are, what they need, and whether they can work here."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.llm import catalog
from cartrita.orchestrator.agents import Agent, all_agents, in_words, problems
from cartrita.orchestrator.availability import availability
from cartrita.orchestrator.skills import all_skills
from cartrita.tools.registry import all_tools


class Command(BaseCommand):
    help = (
        "List the agents: purpose, skill, tools, what their model must be able to do, and who can work with "
        "the models that are configured. With --check look their declarations over instead: exit code 1 "
        "where something is wrong."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="check the declarations; reads no database")
        parser.add_argument("--json", action="store_true", help="print one JSON array")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["check"]:
            self._check()
            return
        shown = [_described(who) for who in all_agents()]
        if options["json"]:
            self.stdout.write(json.dumps(shown, ensure_ascii=False))
            return
        for each in shown:
            self.stdout.write(f"{each['name']} (version {each['version']}): {each['purpose']}")
            self.stdout.write(f"    tools:  {', '.join(each['tools']) or 'none'}")
            self.stdout.write(f"    needs:  {_needs(each['needs'])}")
            self.stdout.write(f"    skill:  {each['skill'] or 'that of its model'}")
            self.stdout.write(f"    usable: {_usable(each)}")

    def _check(self) -> None:
        tools = {each.name for each in all_tools()}
        wrong = problems(all_agents(), tools=tools, tiers=catalog.TIERS, skills=all_skills())
        if wrong:
            raise CommandError("\n".join(wrong), returncode=1)
        self.stdout.write(f"{len(all_agents())} agents, nothing wrong.")


def _described(who: Agent) -> dict[str, Any]:
    found = availability(who)
    return {
        "name": who.name,
        "version": who.version,
        "purpose": who.purpose,
        "tools": list(who.tools),
        "tier": who.tier,
        "needs": sorted(who.needs),
        "autonomy": who.autonomy,
        "skill": who.skill,
        "usable": not found.why_not,
        "why_not": found.why_not,
        "only": found.only,
    }


def _usable(described: dict[str, Any]) -> str:
    if described["why_not"]:
        return f"no: {described['why_not']}"
    if described["only"]:
        return f"for what its skill does by rules; for the rest {described['only']}"
    return "yes"


def _needs(capabilities: list[str]) -> str:
    return f"a model that can {in_words(capabilities)}" if capabilities else "no model"
