"""How messages are cut into tasks, who gets them, and which wait for which."""

import re
from functools import partial
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.orchestrator import router
from cartrita.orchestrator.agents import AGENTS, all_agents
from cartrita.orchestrator.planner import MOST_TASKS, NothingAsked, TooManyTasks, plan_by_rules
from cartrita.orchestrator.router import Routing
from cartrita.orchestrator.slash import ArgumentsNotJson
from cartrita.tools.registry import UnknownTool, all_tools
from retrieval.embedding import encoder
from tasks_app.draft import DraftPlan, problems

TOOLS = {each.name for each in all_tools()}

# A message; what is attached; each task: its intent, its agent or tool, the places (from 1) of what it needs.
Expected = list[tuple[str, str, tuple[int, ...]]]
MESSAGES: list[tuple[str, str, Expected]] = [
    ("What is 3 * 4?", "", [("What is 3 * 4?", "calculator", ())]),
    (
        "Which category costs most in costs.csv? What do the rules say about it? Work out 10 % of that sum.",
        "table text",
        [
            ("Which category costs most in costs.csv?", "table_analyst", ()),
            ("What do the rules say about it?", "document_answerer", (1,)),
            ("Work out 10 % of that sum.", "calculator", (1, 2)),
        ],
    ),
    (
        "What is 20 % of 50 and what is the square root of 81?",
        "",
        [
            ("What is 20 % of 50", "calculator", ()),
            ("what is the square root of 81?", "calculator", ()),
        ],
    ),
    (
        "Wie hoch ist die Summe von amount in costs.csv? Teile sie durch 12.",
        "table",
        [
            ("Wie hoch ist die Summe von amount in costs.csv?", "table_analyst", ()),
            ("Teile sie durch 12.", "calculator", (1,)),
        ],
    ),
    (
        "Was sagt der Vertrag über die Kaution? Berechne dann 5 % der Kaution.",
        "text",
        [
            ("Was sagt der Vertrag über die Kaution?", "document_answerer", ()),
            ("Berechne dann 5 % der Kaution.", "calculator", (1,)),
        ],
    ),
    (
        "1. What is 3 * 4?\n2. Write a poem about the sea\n3. Check it for mistakes",
        "",
        [
            ("What is 3 * 4?", "calculator", ()),
            ("Write a poem about the sea", "writer", ()),
            ("Check it for mistakes", "critic", (2,)),
        ],
    ),
    (
        "Please answer these questions about the lease: 1. When does it end? 2. How high is the deposit?",
        "text",
        [
            ("Please answer these questions about the lease: When does it end?", "document_answerer", ()),
            (
                "Please answer these questions about the lease: How high is the deposit?",
                "document_answerer",
                (),
            ),
        ],
    ),
    (
        "Write a letter that mentions:\n- our delay\n- the refund\n- a voucher",
        "",
        [("Write a letter that mentions:\n- our delay\n- the refund\n- a voucher", "writer", ())],
    ),
    (
        "Write python that does this: 1. read a list 2. sort it 3. print it",
        "",
        [("Write python that does this: 1. read a list 2. sort it 3. print it", "python_coder", ())],
    ),
    (
        (
            "What does the contract say about late payment, what is the total of the amount column in "
            "invoices.csv, and what is 19 % of that total?"
        ),
        "table text",
        [
            ("What does the contract say about late payment", "document_answerer", ()),
            ("what is the total of the amount column in invoices.csv", "table_analyst", ()),
            ("what is 19 % of that total?", "calculator", (2,)),
        ],
    ),
    (
        "Calculate the average of column price and write a letter to the supplier about it",
        "table",
        [
            ("Calculate the average of column price", "table_analyst", ()),
            ("write a letter to the supplier about it", "writer", (1,)),
        ],
    ),
    (
        "When does the last ferry leave and what does it cost?",
        "text",
        [("When does the last ferry leave and what does it cost?", "document_answerer", ())],
    ),
    (
        "Calculate 12 * 7; write a haiku about the result",
        "",
        [("Calculate 12 * 7", "calculator", ()), ("write a haiku about the result", "writer", (1,))],
    ),
    ("12*7; 99/3", "", [("12*7", "calculator", ()), ("99/3", "calculator", ())]),
    (
        "Write a letter to Bob, then check it for errors",
        "",
        [("Write a letter to Bob", "writer", ()), ("check it for errors", "critic", (1,))],
    ),
    (
        "Write a function that reads a file and then sorts it",
        "",
        [("Write a function that reads a file and then sorts it", "python_coder", ())],
    ),
    (
        "Write a program to read a file and then sort the lines",
        "",
        [("Write a program to read a file and then sort the lines", "python_coder", ())],
    ),
    (
        "Write a story in which a dog goes home and then finds a bone",
        "",
        [("Write a story in which a dog goes home and then finds a bone", "writer", ())],
    ),
    (
        "Find the total of column amount, then calculate 19 % of it, and then write a mail with the result",
        "table",
        [
            ("Find the total of column amount", "table_analyst", ()),
            ("calculate 19 % of it", "calculator", (1,)),
            ("write a mail with the result", "writer", (2,)),
        ],
    ),
    (
        "Berechne 15 % von 260, danach schreibe einen Brief an den Vermieter mit dem Ergebnis",
        "",
        [
            ("Berechne 15 % von 260", "calculator", ()),
            ("schreibe einen Brief an den Vermieter mit dem Ergebnis", "writer", (1,)),
        ],
    ),
    (
        "Was steht im Vertrag zur Kündigung? Wie hoch ist die Kaution?",
        "text",
        [
            ("Was steht im Vertrag zur Kündigung?", "document_answerer", ()),
            ("Wie hoch ist die Kaution?", "document_answerer", ()),
        ],
    ),
    (
        "Berechne 3 * 14, schreibe daraus ein Gedicht",
        "",
        [("Berechne 3 * 14", "calculator", ()), ("schreibe daraus ein Gedicht", "writer", (1,))],
    ),
    (
        "Berechne 3 * 14. Schreibe daraus ein Gedicht.",
        "",
        [("Berechne 3 * 14.", "calculator", ()), ("Schreibe daraus ein Gedicht.", "writer", (1,))],
    ),
    (
        "@writer draft a mail about the delay. @calculator 3 * 4",
        "",
        [("draft a mail about the delay.", "writer", ()), ("3 * 4", "calculator", ())],
    ),
    (
        "step 1: compute 5*5. step 2: multiply the result by 3. step 3: write a poem about it",
        "",
        [
            ("compute 5*5.", "calculator", ()),
            ("multiply the result by 3.", "calculator", (1,)),
            ("write a poem about it", "writer", (2,)),
        ],
    ),
    (
        "Please do:\n1) calculate 7*8\n2) then add 10 to it\n3) write a limerick with the result",
        "",
        [
            ("Please do: calculate 7*8", "calculator", ()),
            ("Please do: then add 10 to it", "calculator", (1,)),
            ("Please do: write a limerick with the result", "writer", (2,)),
        ],
    ),
    (
        "Use sales.csv to find the best month and the worst month, then write a paragraph comparing them.",
        "table",
        [
            ("Use sales.csv to find the best month and the worst month", "table_analyst", ()),
            ("write a paragraph comparing them.", "writer", (1,)),
        ],
    ),
    (
        (
            "Calculate the average price from prices.csv, look up the discount in the contract and write a "
            "letter with both figures."
        ),
        "table text",
        [
            ("Calculate the average price from prices.csv", "table_analyst", ()),
            ("look up the discount in the contract", "document_answerer", ()),
            ("write a letter with both figures.", "writer", (1, 2)),
        ],
    ),
    ("Hey @writer please write me a poem", "", [("Hey @writer please write me a poem", "writer", ())]),
    (
        "Write an email to Anna; she should bring the cake; thanks",
        "",
        [("Write an email to Anna; she should bring the cake; thanks", "writer", ())],
    ),
    (
        "My order 1. is late 2. was damaged. Write a complaint.",
        "",
        [("My order 1. is late 2. was damaged. Write a complaint.", "writer", ())],
    ),
    (
        "Calcule 15 % de 300 puis écris une lettre avec le résultat",
        "",
        [("Calcule 15 % de 300", "calculator", ()), ("écris une lettre avec le résultat", "writer", (1,))],
    ),
    ("@critic what is 3 * 4", "", [("what is 3 * 4", "critic", ())]),
    ("Mail bob@writer.com about 3 * 4", "", [("Mail bob@writer.com about 3 * 4", "*", ())]),
    (
        '/calculate {"expression": "3*4"}',
        "",
        [('/calculate {"expression": "3*4"}', "/calculate", ())],
    ),
    (
        '/calculate {"expression": "3*4"} then write a poem about the result',
        "",
        [
            ('/calculate {"expression": "3*4"}', "/calculate", ()),
            ("write a poem about the result", "writer", (1,)),
        ],
    ),
    (
        'What does the report say about sales? /calculate {"expression": "3; then 5"}',
        "text",
        [
            ("What does the report say about sales?", "document_answerer", ()),
            ('/calculate {"expression": "3; then 5"}', "/calculate", ()),
        ],
    ),
    (
        "Check this letter: Dear Sir, please send the goods. Then call me. What is the price?",
        "",
        [
            (
                "Check this letter: Dear Sir, please send the goods. Then call me. What is the price?",
                "critic",
                (),
            )
        ],
    ),
    (
        "Proofread the text below:\n\nDear Sir,\n\nPlease check the goods. Then call me.\n\nWrite soon",
        "",
        [
            (
                (
                    "Proofread the text below:\n\nDear Sir,\n\nPlease check the goods. Then call me.\n\n"
                    "Write soon"
                ),
                "critic",
                (),
            )
        ],
    ),
    (
        'Translate "Write a poem; then check it. What is 3*4?" into German',
        "",
        [('Translate "Write a poem; then check it. What is 3*4?" into German', "writer", ())],
    ),
    (
        "Our pump broke yesterday. What is the part number of the impeller?",
        "text",
        [("Our pump broke yesterday. What is the part number of the impeller?", "document_answerer", ())],
    ),
    (
        "Write a letter to Bob. Mention the delay. Be polite. Use short sentences.",
        "",
        [("Write a letter to Bob. Mention the delay. Be polite. Use short sentences.", "writer", ())],
    ),
    ("Hi! What is 3 * 4?", "", [("Hi! What is 3 * 4?", "calculator", ())]),
    ("Hello, how are you? What is 3*4?", "", [("Hello, how are you? What is 3*4?", "calculator", ())]),
    ("Thanks a lot!", "", [("Thanks a lot!", "assistant", ())]),
    (
        "I have two questions about the lease. When does it end? May I keep a dog?",
        "text",
        [
            ("I have two questions about the lease. When does it end?", "document_answerer", ()),
            ("I have two questions about the lease. May I keep a dog?", "document_answerer", ()),
        ],
    ),
    (
        "Calculate: a) 3*4 b) 5*6 c) 7/8",
        "",
        [
            ("Calculate: 3*4", "calculator", ()),
            ("Calculate: 5*6", "calculator", ()),
            ("Calculate: 7/8", "calculator", ()),
        ],
    ),
    (
        "Run this:\n```python\nx = 1; print(x)\n# then what?\n```\nthen explain what it does",
        "",
        [
            (
                "Run this:\n```python\nx = 1; print(x)\n# then what?\n```\nthen explain what it does",
                "python_coder",
                (),
            )
        ],
    ),
    (
        "Fix the bug in this function: def add(a, b): return a - b; print(add(1, 2))",
        "",
        [
            (
                "Fix the bug in this function: def add(a, b): return a - b; print(add(1, 2))",
                "python_coder",
                (),
            )
        ],
    ),
    (
        "Compute the mean of column a\nCompute the median of column b\nWrite a short mail with both results",
        "table",
        [
            ("Compute the mean of column a", "table_analyst", ()),
            ("Compute the median of column b", "table_analyst", ()),
            ("Write a short mail with both results", "writer", (1, 2)),
        ],
    ),
    (
        "Summarise the report. Also, translate the summary into French.",
        "text",
        [
            ("Summarise the report.", "document_answerer", ()),
            ("Also, translate the summary into French.", "writer", (1,)),
        ],
    ),
    (
        "List apples, pears and plums in a poem and make it rhyme",
        "",
        [("List apples, pears and plums in a poem and make it rhyme", "writer", ())],
    ),
    (
        (
            "First find the deductible in the policy, then compute 20 % of it and finally draft a letter to "
            "the insurer."
        ),
        "text",
        [
            ("First find the deductible in the policy", "document_answerer", ()),
            ("compute 20 % of it", "calculator", (1,)),
            ("finally draft a letter to the insurer.", "writer", (2,)),
        ],
    ),
    (
        "What was the average price in sales.csv? Who signed the contract? Write a mail with all results.",
        "table text",
        [
            ("What was the average price in sales.csv?", "table_analyst", ()),
            ("Who signed the contract?", "document_answerer", ()),
            ("Write a mail with all results.", "writer", (1, 2)),
        ],
    ),
    ("What happened then in 1945?", "text", [("What happened then in 1945?", "document_answerer", ())]),
    (
        "Can you help me? What is the square root of 2209?",
        "",
        [("Can you help me? What is the square root of 2209?", "calculator", ())],
    ),
    (
        "What is the sum of column total in the csv? Double it. Then write a haiku about question 1.",
        "table",
        [
            ("What is the sum of column total in the csv? Double it.", "table_analyst", ()),
            ("write a haiku about question 1.", "writer", (1,)),
        ],
    ),
    (
        "Tell me the opening hours (and then the prices; what else?) of the museum",
        "text",
        [
            (
                "Tell me the opening hours (and then the prices; what else?) of the museum",
                "document_answerer",
                (),
            )
        ],
    ),
    (
        "Use the attached csv. What is the mean age? Which city has most customers?",
        "table",
        [
            ("Use the attached csv. What is the mean age?", "table_analyst", ()),
            ("Use the attached csv. Which city has most customers?", "table_analyst", ()),
        ],
    ),
    (
        "If the pump fails then call the service. What is their number?",
        "text",
        [("If the pump fails then call the service. What is their number?", "document_answerer", ())],
    ),
    (
        "- What is 5 + 6?\n- What is 7 * 8?\n\nThanks!",
        "",
        [("What is 5 + 6?", "calculator", ()), ("What is 7 * 8?\n\nThanks!", "calculator", ())],
    ),
    (
        "What is 3*4? What is 5*6? What is 7*8? What is 9*9? What is 2*3? What is 1+1? Write a poem",
        "",
        [
            ("What is 3*4?", "calculator", ()),
            ("What is 5*6?", "calculator", ()),
            ("What is 7*8?", "calculator", ()),
            ("What is 9*9?", "calculator", ()),
            ("What is 2*3? What is 1+1?", "calculator", ()),
            ("Write a poem", "writer", ()),
        ],
    ),
]


def planned(text: str, attached: str = "") -> DraftPlan:
    route = partial(router.route, agents=all_agents(), embed=encoder().encode)
    return plan_by_rules(text, route=route, attachments=frozenset(attached.split()))


def by_first_word(intent: str, *, attachments: frozenset[str]) -> Routing:  # a Router
    """Route without vectors: the agent depends on the words alone."""
    names = sorted(AGENTS)
    name = names[len(intent) % len(names)]
    scores = MappingProxyType({name: 1.0})
    return Routing(agent=name, scores=scores, margin=1.0, cues=(), clear=True)


def anyhow(text: str) -> DraftPlan:
    return plan_by_rules(text, route=by_first_word)


class TestPlanByRules:
    @pytest.mark.parametrize(
        ("text", "attached", "expected"), MESSAGES, ids=[each[0][:40] for each in MESSAGES]
    )
    def test_cuts_a_message_where_another_request_begins(
        self, text: str, attached: str, expected: Expected
    ) -> None:
        plan = planned(text, attached)
        found = [
            (
                task.intent,
                f"/{task.tool}" if task.tool else task.agent,
                tuple(int(key[1:]) for key in task.depends_on),
            )
            for task in plan.tasks
        ]
        assert found == [
            (intent, found[place][1] if who == "*" else who, needs)
            for place, (intent, who, needs) in enumerate(expected)
        ]

    def test_says_why(self) -> None:
        plan = planned("Write a letter to Bob, then check it for errors")
        assert plan.planner == "rules-1"
        assert plan.reasons["t2"]["joined_by"] == "then"
        assert plan.reasons["t2"]["agent"] == "critic"
        assert len(plan.reasons["t2"]["scores"]) == len(all_agents())

    def test_gives_the_arguments_of_calls(self) -> None:
        (task,) = planned('/calculate {"expression": "3*4"}').tasks
        assert (task.tool, task.arguments) == ("calculate", {"expression": "3*4"})

    def test_refuses_an_empty_message(self) -> None:
        with pytest.raises(NothingAsked):
            anyhow(" \n")

    def test_refuses_a_call_whose_arguments_are_no_json(self) -> None:
        with pytest.raises(ArgumentsNotJson, match="line 1"):
            anyhow('What is it? /calculate {"expression": }')

    def test_refuses_a_call_of_a_tool_that_there_is_not(self) -> None:
        with pytest.raises(UnknownTool, match="calculate"):
            anyhow('/calculat {"expression": "1"}')

    def test_refuses_more_calls_than_tasks(self) -> None:
        with pytest.raises(TooManyTasks, match="at most 6"):
            anyhow(" then ".join(['/calculate {"expression": "1"}'] * 7))

    def test_keeps_a_very_long_message_whole(self) -> None:
        assert len(anyhow("What is 3 * 4? " * 2000).tasks) == 1


PHRASES = [
    "What is 3 * 4?",
    "write a poem about cats",
    "Check it for mistakes.",
    "12 / 5",
    "(so; then write it)",
    "the ferry",
    "When does it leave?",
    '"then write; 1. this"',
    "Use short words.",
    "and",
    "then",
    ";",
    "\n",
    "\n\n",
    "1.",
    "2.",
    "3)",
    "a)",
    "b)",
    "- ",
    "• ",
    ". ",
    ", ",
    "? ",
    "@writer ",
    "@critic",
    "@nobody",
    "@",
    '/calculate {"expression": "1 + 1"}',
    "/calculate",
    "Check this:",
    "Answer these questions:",
    "```x; y```",
    "`",
    "danach",
    "und schreibe einen Brief",
    "Hi!",
    "with both results",
    "if it rains",
    "Then",
    "finally",
    "é ß 日本 👍",
    "{",
    "}",
    "(",
    ")",
    "'",
    '"',
    ":",
    "https://x.y/a;b",
    "\x01",
    "to read it and then sort it",
]
messages = st.one_of(
    st.lists(st.sampled_from(PHRASES), min_size=1, max_size=14).map(" ".join),
    st.lists(st.sampled_from(PHRASES), min_size=1, max_size=14).map("".join),
    st.text(max_size=80),
)
SEPARATES = re.compile(
    r"(?:[\s,;]|(?:step|question)\s\d[.:]|@\w+[,:]?|\b(?:and|und|et|y|then|danach|dann)\b|"
    r"(?<!\S)(?:\d{1,2}[.)]|\(\d{1,2}\)|\(?[a-h]\)|[-*•–])(?=\s))*",
    re.IGNORECASE,
)


def plan_or_none(text: str) -> DraftPlan | None:
    try:
        return anyhow(text)
    except (NothingAsked, TooManyTasks, UnknownTool, ArgumentsNotJson):
        return None


def _after(intent: str, rest: str, text: str) -> str | None:
    """Return what follows an intent in the rest of a text; None where more than separators is left out.

    An intent may begin with context, which stands somewhere before its own words.
    """
    for cut in range(len(intent)):
        context, own = intent[:cut].strip(), intent[cut:].strip()
        if not own or context not in text:
            continue
        for place in range(len(rest)):
            if rest.startswith(own, place):
                before = rest[:place].replace(context, " ", 1) if context else rest[:place]
                if SEPARATES.fullmatch(before):
                    return rest[place + len(own) :]
    return None


class TestAnyMessage:
    @settings(max_examples=400)
    @given(messages)
    def test_makes_a_plan_without_problems_of_at_most_six_tasks(self, text: str) -> None:
        plan = plan_or_none(text)
        if plan is None:
            return
        assert 1 <= len(plan.tasks) <= MOST_TASKS
        text_is_sound = "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)
        if text_is_sound:
            assert problems(plan, AGENTS, TOOLS, most_tasks=MOST_TASKS) == []

    @settings(max_examples=400)
    @given(messages)
    def test_loses_nothing_but_what_separates(self, text: str) -> None:
        plan = plan_or_none(text)
        if plan is None:
            return
        rest: str | None = text
        for task in plan.tasks:
            assert rest is not None
            rest, before = _after(task.intent, rest, text), rest
            assert rest is not None, (before, task)
        assert SEPARATES.fullmatch(rest or ""), rest

    @settings(max_examples=300)
    @given(messages)
    def test_stays_one_task_when_planned_again(self, text: str) -> None:
        plan = plan_or_none(text)
        if plan is None or len(plan.tasks) > 1 or plan.reasons["t1"].get("addressed_to"):
            return
        again = anyhow(plan.tasks[0].intent)
        assert again.tasks == plan.tasks

    @settings(max_examples=200)
    @given(messages)
    def test_lets_tasks_wait_only_for_earlier_ones(self, text: str) -> None:
        plan = plan_or_none(text)
        if plan is None:
            return
        for place, task in enumerate(plan.tasks):
            earlier = {each.key for each in plan.tasks[:place]}
            assert set(task.depends_on) <= earlier
