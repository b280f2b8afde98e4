"""Plans by rules: which tasks a message asks for, who does each, and which needs another's result.

The requests of a message (splitting.py) become tasks, each for the agent that is addressed or that the router
chooses. Small requests stay one task.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from cartrita.errors import BadInput
from cartrita.orchestrator.agents import AGENTS, CALCULATOR, GENERAL, TABLE_ANALYST
from cartrita.orchestrator.router import Routing
from cartrita.orchestrator.splitting import Part, makes, merged, parts, unquoted
from cartrita.tools.registry import all_tools
from tasks_app.draft import DraftPlan, DraftTask

PLANNER = "rules-1"
MOST_TASKS = 6
_MOST_ROUTED = 3 * MOST_TASKS
_GIVE_FIGURES = frozenset({CALCULATOR.name, TABLE_ANALYST.name})


class NothingAsked(BadInput):
    """The message is empty."""

    code: ClassVar[str] = "nothing_asked"


class TooManyTasks(BadInput):
    """The message names more tool calls and agents than one plan may have tasks."""

    code: ClassVar[str] = "too_many_tasks"


class Router(Protocol):
    """Choose the agent for a request, as router.route does with agents and vectors filled in."""

    def __call__(self, intent: str, *, attachments: frozenset[str]) -> Routing: ...


def plan_by_rules(
    text: str,
    *,
    route: Router,
    attachments: frozenset[str] = frozenset(),
    agents: Collection[str] | None = None,
    tools: Collection[str] | None = None,
) -> DraftPlan:
    """Return the plan for a message: at most six tasks, in the order of the message.

    `agents` and `tools` are the names that may be addressed (default: all there are). Raises NothingAsked,
    TooManyTasks, and what slash_call raises for a call that is none.
    """
    if not text.strip():
        raise NothingAsked("The message is empty; write what you want to know or have done.", field="content")
    tool_names = {each.name for each in all_tools()} if tools is None else tools
    found = list(parts(text, agents=AGENTS if agents is None else agents, tools=tool_names))
    routed = _all_routed(_few(found, text), text, route, attachments)
    routed = _without_small_talk(_joined(routed, text, route, attachments), text)
    routed = _at_most(MOST_TASKS, routed, text, route, attachments)
    keys = [f"t{number}" for number in range(1, len(routed) + 1)]
    tasks: list[DraftTask] = []
    reasons: dict[str, dict[str, Any]] = {}
    for number, (key, (part, routing)) in enumerate(zip(keys, routed, strict=True)):
        earlier = [each for each, _ in routed[:number]]
        needed = _needed(part, earlier)
        works_out = bool(needed) and _WORKS_OUT.search(unquoted(part.text)) is not None
        if works_out:
            needed = _with_figures(needed, tasks, keys)
        tasks.append(
            DraftTask(
                key=key,
                intent=part.intent,
                agent=part.agent or _agent_for(routing, works_out=works_out),
                tool=part.call.tool if part.call else "",
                arguments=part.call.arguments if part.call else None,
                depends_on=tuple(keys[index] for index in needed),
            )
        )
        reasons[key] = _reason(part, routing)
        if works_out:
            reasons[key]["works_out"] = "a figure from earlier results"
    return DraftPlan(tasks=tuple(tasks), planner=PLANNER, reasons=reasons)


_FIGURE = (
    r"(?:sums?|totals?|averages?|means?|medians?|values?|figures?|numbers?|products?|differences?|counts?|"
    r"amounts?)"
)
_REFERS = re.compile(
    r"\b(?:it|its|them|they|their)\b(?!\s+(?:is|was)\s+(?:allowed|possible|true|necessary|legal|worth|"
    r"raining)\b)|\b(?:this|that|these|those)(?=\s*(?:\Z|[.,;?!)]|\s(?:and|with|by|from|in|to|as|for|into|on|"
    r"per|times|plus|minus|then|again|too|up)\b))|\b(?:the|this|that|these|those|both|all|your|"
    r"its?)\s+(?:\w+\s+)?(?:results?|answers?|outcomes?|outputs?|findings?)\b|"
    rf"\b(?:this|that|these|those|both|all)\s+(?:\w+\s+)?{_FIGURE}\b|"
    r"(?<!\bis )(?<!\bare )(?<!\bcalculate )(?<!\bcompute )(?<!\bfind )"
    r"(?<!\bme )(?<!\bdetermine )(?<!\bwhat's )"
    rf"\bthe\s+{_FIGURE}\b(?!\s+(?:of|per|by|in|for|from|over|between|column|\d))|"
    r"\b(?:the (?:above|latter|former|previous|preceding|same)|both|all (?:of (?:these|those|them)|three|"
    r"four|five))\b|\bsie(?=\s+(?:durch|mit|um|auf)\b)|"
    r"\b(?:daraus|davon|damit|dafür|darüber|darauf|hieraus|das ergebnis|die ergebnisse|"
    r"dem ergebnis|den ergebnissen|beides?|beiden|dieses ergebnis|diese(?:n|m|s|r)? (?:wert|zahl|text|brief|"
    r"summe)\w*|ihn|es(?=\s*(?:\Z|[.,;?!]|\s(?:auf|für|in|ins|und|dann|mit|durch|an)\b)))\b|"
    r"\b(?:le résultat|les résultats|ce résultat|cela|ça|el resultado|los resultados|eso|esto|ello)\b",
    re.IGNORECASE,
)
_REFERS_TO_ALL = re.compile(
    r"\b(?:both|all (?:of )?(?:these|those|them|three|four|five|(?:the )?(?:results?|answers?|findings?|"
    r"figures?))|(?:the|these|those) (?:results|answers|findings|outcomes|figures|numbers)|everything above|"
    r"all of it|"
    r"alle ergebnisse|die ergebnisse|den ergebnissen|beide[sn]?|alles|les résultats|los resultados)\b",
    re.IGNORECASE,
)
_REFERS_TO_NUMBER = re.compile(
    r"\b(?:steps?|questions?|parts?|points?|tasks?|results?(?: of)?|answers?(?: to)?|schritt|frage|punkt|"
    r"aufgabe)\s+"
    r"\(?(\d)\b",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(
    r"(?:then|next|finally|lastly|afterwards|after that|based on|dann|danach|anschließend|schließlich|"
    r"zuletzt|"
    r"zum schluss|ensuite|puis|enfin|luego|después|finalmente|"
    r"\w+\s+(?:(?:mir|bitte|uns)\s+)?(?:dann|danach|anschließend|zum schluss))\b",
    re.IGNORECASE,
)
_MADE_THING = re.compile(
    r"\bthe\s+(letter|mail|e-?mail|poem|text|draft|story|summary|list|function|code|script|program|"
    r"translation|reply|"
    r"essay|article|speech|slogan|quotient)s?\b",
    re.IGNORECASE,
)


# A figure made of earlier ones: `calculate the tax on the sum`, `multiply it by 3`; not of a table's rows.
_WORKS_OUT = re.compile(
    r"\A(?!.*(?:\b(?:rows?|columns?|tables?|files?|records?|entries|group(?:ed)?|per|zeilen?|"
    r"spalten?|tabelle)\b|\.(?:csv|tsv|parquet)\b))"
    r"\W*(?:(?:then|and|now|next|finally|also|please|bitte|dann|und|danach)\W+)*"
    r"(?:calculate|compute|work out|multiply|divide|add|subtract|double|halve|convert|"
    r"(?:what|how much)(?:'s| is| are| would be)? (?:\d|half|twice|double|a third|a quarter)|"
    r"berechne\w*|rechne\w*|multipliziere\w*|teile\w*|addiere\w*|subtrahiere\w*|verdopple\w*|"
    r"wie ?viel (?:ist|sind) \d|calcule[rz]?|multiplie[rz]?|divise[rz]?|calcula[r]?|multiplica[r]?|divide)\b",
    re.IGNORECASE | re.DOTALL,
)
_NOUN = re.compile(r"[^\W\d_]{3,}")
_NO_NOUNS = frozenset(
    """
    the and for with from what which who how many much this that these those are was were does did has have
    according then calculate compute work out multiply divide add subtract give show tell find please result
    per all its them their our your der die das und von mit aus wie viel viele welche welcher was ist sind
    laut dann berechne
    """.split()  # noqa: SIM905 - words are read as words
)


Routed = tuple[Part, Routing | None]


def _few(found: Sequence[Part], text: str) -> list[Part]:
    """Join the last parts of a very long list, so that a message does not cost a vector for each."""
    few = list(found[:_MOST_ROUTED])
    for part in found[_MOST_ROUTED:]:
        if part.call is None and not part.agent and few[-1].call is None:
            few[-1] = merged(few[-1], part, text)
        else:
            few.append(part)
    return few


def _all_routed(found: Sequence[Part], text: str, route: Router, attachments: frozenset[str]) -> list[Routed]:
    routed: list[Routed] = []
    for part in found:
        routing = _route(part, text, route, attachments)
        if routing is not None and not routing.clear and routed and routed[-1][1] is not None:
            # `then write tests` says who it is for only together with what stands before it.
            wider = route(f"{routed[-1][0].text} {part.text}", attachments=attachments)
            routing = wider if wider.clear and _needed(part, [each for each, _ in routed]) else routing
        routed.append((part, routing))
    return routed


def _route(part: Part, text: str, route: Router, attachments: frozenset[str]) -> Routing | None:
    """Return who a part is for by its own words, else with what was said before; None for a call."""
    if part.call is not None:
        return None
    own = text[part.asked : part.end].strip() or part.text
    routing = route(own, attachments=attachments)
    if not routing.clear and own != part.intent:
        wider = route(part.intent, attachments=attachments)
        return wider if wider.clear else routing
    return routing


def _joined(routed: Sequence[Routed], text: str, route: Router, attachments: frozenset[str]) -> list[Routed]:
    """Join what only an `and` separates, unless it is clearly for different agents."""
    found: list[Routed] = []
    for part, routing in routed:
        if found and part.link == "and":
            before, of_before = found[-1]
            apart = _clearly_different(of_before, routing) or _both_calculate(found[-1], (part, routing))
            if not apart or before.call is not None:
                joined = merged(before, part, text)
                found[-1] = (joined, _route(joined, text, route, attachments))
                continue
        found.append((part, routing))
    return found


def _clearly_different(one: Routing | None, other: Routing | None) -> bool:
    if one is None or other is None:
        return False
    return one.clear and other.clear and one.agent != other.agent and GENERAL not in {one.agent, other.agent}


def _both_calculate(one: Routed, other: Routed) -> bool:
    """Tell whether two requests are calculations each for itself, with figures of their own."""
    return all(
        routing is not None
        and routing.clear
        and routing.agent == CALCULATOR.name
        and any(character.isdigit() for character in part.text)
        and not _REFERS.search(unquoted(part.text))
        for part, routing in (one, other)
    )


def _without_small_talk(routed: Sequence[Routed], text: str) -> list[Routed]:
    """Join small talk to the request beside it."""
    found: list[Routed] = []
    for part, routing in routed:
        if found and part.call is None and found[-1][0].call is None:
            before, of_before = found[-1]
            if _is_talk(before, of_before):
                joined = merged(before, part, text)
                joined = replace(joined, link=before.link, asked=part.asked, agent=part.agent)
                found[-1] = (joined, routing)
                continue
            if _is_talk(part, routing):
                found[-1] = (merged(before, part, text), of_before)
                continue
        found.append((part, routing))
    return found


def _is_talk(part: Part, routing: Routing | None) -> bool:
    return routing is not None and routing.nothing and not part.agent


def _at_most(
    limit: int, routed: Sequence[Routed], text: str, route: Router, attachments: frozenset[str]
) -> list[Routed]:
    """Join the last parts for the same agent, else the last parts, until no more are left than allowed."""
    found = list(routed)
    while len(found) > limit:
        pairs = [
            index
            for index in range(len(found) - 1, 0, -1)
            if found[index][0].call is None
            and found[index - 1][0].call is None
            and found[index][0].agent in {"", found[index - 1][0].agent}
        ]
        if not pairs:
            raise TooManyTasks(
                f"The message names {len(found)} calls and agents; at most {limit} go into one message. Send "
                "the others in another one.",
                field="content",
            )
        alike = [index for index in pairs if _agent_of(found[index]) == _agent_of(found[index - 1])]
        index = (alike or pairs)[0]
        joined = merged(found[index - 1][0], found[index][0], text)
        found[index - 1 : index + 1] = [(joined, _route(joined, text, route, attachments))]
    return found


def _agent_for(routing: Routing | None, *, works_out: bool) -> str:
    """Return who takes a part; what only works on earlier figures needs nobody who reads tables or text."""
    if works_out and CALCULATOR.name in AGENTS:
        return CALCULATOR.name
    return routing.agent if routing else GENERAL


def _agent_of(routed: Routed) -> str:
    part, routing = routed
    return part.agent or (routing.agent if routing else GENERAL)


def _needed(part: Part, earlier: Sequence[Part]) -> list[int]:
    """Return the places of the earlier parts whose results this part needs."""
    if not earlier:
        return []
    said = unquoted(part.text)
    follows = part.link == "then" or _FOLLOWS.match(said) is not None
    # `Work out the average and write a letter`: what is joined so is about what stands before it.
    if part.link == "and" and makes(part.text):
        follows = True
    needed = {len(earlier) - 1} if follows else set()
    if part.call is None:
        numbers = {int(number) - 1 for number in _REFERS_TO_NUMBER.findall(said)}
        numbered = {number for number in numbers if number < len(earlier)}
        if _REFERS_TO_ALL.search(said):
            needed |= set(range(len(earlier)))
        elif numbered:
            needed |= numbered
        elif _REFERS.search(said):
            needed |= set(_sharing(said, earlier)) or {len(earlier) - 1}
        elif follows:
            needed |= set(_sharing(said, earlier))
        for thing in _MADE_THING.findall(said):
            makers = [
                index
                for index, each in enumerate(earlier)
                if re.search(rf"\b{re.escape(thing[:6])}", each.text, re.IGNORECASE)
            ]
            needed |= set(makers[-1:])
    return sorted(needed)


def _with_figures(needed: Sequence[int], tasks: Sequence[DraftTask], keys: Sequence[str]) -> list[int]:
    """Add what a needed part, which may give no figure itself, was about."""
    found = set(needed)
    for index in needed:
        if tasks[index].agent not in _GIVE_FIGURES:
            found |= {keys.index(key) for key in tasks[index].depends_on}
    return sorted(found)


def _sharing(said: str, earlier: Sequence[Part]) -> list[int]:
    """Return the earlier parts that share a noun with this one: `the sum` is that which one asked for."""
    nouns = _nouns(said)
    return [index for index, each in enumerate(earlier) if nouns & _nouns(each.text)]


def _nouns(text: str) -> frozenset[str]:
    return frozenset(_NOUN.findall(text.lower())) - _NO_NOUNS


def _reason(part: Part, routing: Routing | None) -> dict[str, Any]:
    reason: dict[str, Any] = {"joined_by": part.link}
    if part.agent:
        reason["addressed_to"] = part.agent
    if routing is not None:
        reason |= routing.as_record()
    return reason
