"""Which of the tables a question is about: the one that it names, else the one that it fits best."""

import re
from collections.abc import Sequence

from cartrita.orchestrator.skills import Input
from cartrita.orchestrator.skills.tables.asking import asked
from cartrita.orchestrator.skills.tables.marking import titled
from cartrita.orchestrator.skills.tables.reading import Asked, NotUnderstood
from cartrita.orchestrator.skills.tables.schema import Table
from cartrita.orchestrator.skills.tables.sql import code
from cartrita.orchestrator.skills.tables.statements import statement
from cartrita.orchestrator.skills.tables.words import Token, tokens

LONGEST_QUESTION = 1000  # characters
MOST_WORDS = 120
LONGEST_QUERY = 20_000  # characters
_FENCE = "```"
_TABLES = re.compile(r"\b(?:from|join)\s+\"?(\w+)", re.IGNORECASE)


def written_query(intent: str, known: Sequence[Table]) -> str:
    """Return the SQL that the intent itself is, if it is one over a known table, else nothing."""
    text = intent.strip()
    if len(text) > LONGEST_QUERY:
        return ""
    if text.startswith(_FENCE):
        text = text.removeprefix(_FENCE).removesuffix(_FENCE)
        text = (text[3:] if text[:3].casefold() == "sql" else text).strip()
    if "`" in text or not re.match(r"(?:select|with)\s", text, re.IGNORECASE):
        return ""
    named = {one.casefold() for one in _TABLES.findall(text)}
    # `Select the rows from sales` is no SQL.
    is_query = re.search(r"[*(,=]|\bwhere\b", text, re.IGNORECASE)
    return text if is_query and named & {table.name.casefold() for table in known} else ""


def understood(intent: str, known: Sequence[Table], inputs: Sequence[Input] = ()) -> tuple[Asked, str]:
    """Return what is asked of which table, and its SQL (none where no query is needed).

    `inputs` are what the task builds on. Raises NotUnderstood.
    """
    said = tokens(intent) if len(intent) <= LONGEST_QUESTION else ()
    if len(intent) > LONGEST_QUESTION or len(said) > MOST_WORDS:
        raise NotUnderstood("The question is too long: ask it in a sentence or two.", "question_too_long")
    results = [one.result for one in inputs]
    found: list[tuple[Asked, str]] = []
    problems: list[NotUnderstood] = []
    for table in _named(said, known) or known:
        try:
            one = asked(said, table, results)
            found.append((one, "" if one.kind == "columns" else statement(one)))
        except NotUnderstood as problem:
            problems.append(problem)
    if not found:
        raise _worst(problems)
    best = max(one.sure for one, _sql in found)
    fitting = [(one, sql) for one, sql in found if one.sure == best]
    if len(fitting) > 1:
        titles = " and ".join(code(one.table.title) for one, _sql in fitting[:6])
        raise NotUnderstood(f"It may be about {titles}: say which.", "question_ambiguous")
    return fitting[0]


def _named(said: Sequence[Token], known: Sequence[Table]) -> list[Table]:
    """Return the table that the question names as one, if any. Raises NotUnderstood for two."""
    named = [table for table in known if titled(said, table)]
    longest = max((len(table.words) for table in named), default=0)
    named = [table for table in named if len(table.words) == longest]
    if len(named) > 1:
        titles = " and ".join(code(table.title) for table in named[:6])
        raise NotUnderstood(f"It names {titles}: ask of one table at a time.", "question_ambiguous")
    return named


def _worst(problems: Sequence[NotUnderstood]) -> NotUnderstood:
    """Return why none of the tables was understood to be meant."""
    if len(problems) == 1:
        return problems[0]
    ambiguous = [problem for problem in problems if problem.code == "question_ambiguous"]
    return ambiguous[0] if len(ambiguous) == 1 else NotUnderstood("The question fits none of the tables.")
