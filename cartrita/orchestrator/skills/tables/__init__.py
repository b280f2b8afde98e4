"""The skill of the table analyst: questions about tables become one SELECT, by rules.

First it asks what tables there are, then it asks the one that the question fits. Every word of the question
must have a meaning for that table; where one has none, or two, it says so instead of guessing.
"""

from cartrita.orchestrator.skills import Brief, Move, Unable, Use, skill
from cartrita.orchestrator.skills.tables.choosing import understood, written_query
from cartrita.orchestrator.skills.tables.reading import NotUnderstood
from cartrita.orchestrator.skills.tables.schema import tables_of
from cartrita.orchestrator.skills.tables.telling import about_columns, plain_answer, there_are, told

DESCRIBE = "describe_tables"
QUERY = "query_table"


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
        return Unable("table_unreadable", f"No table can be read. {' '.join(errors)[:1000]}".rstrip())
    sql = written_query(brief.intent, known)
    found = None
    try:
        if not sql:
            found, sql = understood(brief.intent, known, brief.inputs)
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
