"""The skill of the table analyst: questions about tables become one SELECT, by rules.

First it asks what tables there are, then it asks the one that the question fits. Every word of the question
must have a meaning for that table; where one has none, or two, it says so instead of guessing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cartrita.orchestrator.skills import Brief, Move, Unable, Use, skill
from cartrita.orchestrator.skills.tables.asking import Asked, NotUnderstood, asked
from cartrita.orchestrator.skills.tables.marking import titled
from cartrita.orchestrator.skills.tables.schema import Table, tables_of
from cartrita.orchestrator.skills.tables.sql import code
from cartrita.orchestrator.skills.tables.statements import statement
from cartrita.orchestrator.skills.tables.telling import about_columns, plain_answer, there_are, told
from cartrita.orchestrator.skills.tables.words import tokens

DESCRIBE = "describe_tables"
QUERY = "query_table"
LONGEST_QUESTION = 1000  # characters
MOST_WORDS = 120
_LONGEST_SQL = 20_000
_SQL = re.compile(r"(?:```(?:sql)?\s*)?((?:select|with)\s[^`]*?)\s*(?:```)?\s*", re.IGNORECASE)


@skill("tables")
def tables(brief: Brief) -> Move:
    """Return what to do next to answer a question about the uploaded tables."""
    described = next((one for one in brief.outcomes if one.tool == DESCRIBE), None)
    if described is None:
        return Use(DESCRIBE, {})
    if described.result is None:
        return Unable(described.code or "tables_not_described", described.message or "No table can be read.")
    known = tables_of(described.result)
    if not known:
        errors = [
            f"{one['title']}: {one['error'] or 'it is too large'}" for one in described.result["tables"]
        ]
        return Unable("table_unreadable", f"No table can be read. {' '.join(errors)[:1000]}")
    written = _written(brief.intent, known)
    try:
        found = None if written else _understood(brief, known)
        sql = written or statement_of(found)
    except NotUnderstood as problem:
        return Unable(problem.code, f"{problem.reason} {there_are(known)}")
    if found is not None and found.kind == "columns":
        return about_columns(found.table, counted="how many" in brief.intent.casefold())
    queried = next((one for one in brief.outcomes if one.tool == QUERY), None)
    if queried is None:
        documents = {"documents": [found.table.document_id]} if found else {}
        return Use(QUERY, {"sql": sql, **documents})
    if queried.result is None:
        return Unable(queried.code or "query_failed", queried.message or "The query failed.")
    return plain_answer(sql, queried.result) if found is None else told(found, sql, queried.result)


def statement_of(found: Asked | None) -> str:
    """Return the SQL of what is asked; nothing for what needs no query."""
    return "" if found is None or found.kind == "columns" else statement(found)


def _written(intent: str, known: Sequence[Table]) -> str:
    """Return the query that the intent itself is, if it is one over a known table."""
    if len(intent) > _LONGEST_SQL:
        return ""
    match = _SQL.fullmatch(intent.strip())
    if match is None:
        return ""
    named = {one.casefold() for one in re.findall(r"\b(?:from|join)\s+\"?(\w+)", match[1], re.IGNORECASE)}
    is_query = re.search(r"\bfrom\b", match[1], re.IGNORECASE) and re.search(r"[*(,=]|\bwhere\b", match[1])
    return match[1].strip() if is_query and named & {table.name.casefold() for table in known} else ""


def _understood(brief: Brief, known: Sequence[Table]) -> Asked:
    """Return what is asked of which table. Raises NotUnderstood."""
    if len(brief.intent) > LONGEST_QUESTION:
        raise NotUnderstood("The question is too long: ask it in a sentence or two.", "question_too_long")
    said = tokens(brief.intent)
    if len(said) > MOST_WORDS:
        raise NotUnderstood("The question is too long: ask it in a sentence or two.", "question_too_long")
    inputs: list[Mapping[str, Any]] = [
        {**one.result, "columns": [_named(column) for column in one.result.get("columns", ())]}
        for one in brief.inputs
        if isinstance(one.result.get("columns", ()), list | tuple) and one.result.get("rows")
    ]
    named = [table for table in known if titled(said, table)]
    if len(named) > 1:
        longest = max(len(table.words) for table in named)
        named = [table for table in named if len(table.words) == longest]
        if len(named) > 1:
            titles = " and ".join(code(table.title) for table in named[:6])
            raise NotUnderstood(f"It names {titles}: ask of one table at a time.", "question_ambiguous")
    found: list[Asked] = []
    problems: list[NotUnderstood] = []
    for table in named or known:
        try:
            one = asked(said, table, inputs)
            statement_of(one)
        except NotUnderstood as problem:
            problems.append(problem)
        else:
            found.append(one)
    if not found:
        if len(problems) == 1:
            raise problems[0]
        ambiguous = [problem for problem in problems if problem.code == "question_ambiguous"]
        raise ambiguous[0] if len(ambiguous) == 1 else NotUnderstood("The question fits none of the tables.")
    best = max(one.sure for one in found)
    fitting = [one for one in found if one.sure == best]
    if len(fitting) > 1:
        titles = " and ".join(code(one.table.title) for one in fitting[:6])
        raise NotUnderstood(f"It may be about {titles}: say which.", "question_ambiguous")
    return fitting[0]


def _named(column: Any) -> Mapping[str, str]:
    """Return a column of an earlier result as an object, however it was given."""
    return column if isinstance(column, Mapping) else {"name": str(column)}
