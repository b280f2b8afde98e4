"""The critic without a model: holds a text against the documents, and lists faults of form.

Only what rules can be sure of is said: a sentence is supported where one sentence of a document says the
same in its words, and contradicted where such a one differs in a single figure. The rest is left open.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cartrita.orchestrator.critic import without_marks
from cartrita.orchestrator.skills import Answer, Brief, Move, Unable, Use, skill
from cartrita.orchestrator.skills.check.asking import asked
from cartrita.orchestrator.skills.check.claims import Finding, Statement, compare, statements_of
from cartrita.orchestrator.skills.check.faults import LOOKED_FOR, faults_of
from cartrita.orchestrator.skills.check.sentences import chosen, foremost, sentences_of
from retrieval.answers import plain
from retrieval.questions import MAX_QUERY

_TOOL = "search_documents"
MOST_SEARCHES = 4
# Sentences and faults that an answer lists.
MOST_SENTENCES = 30
_MOST_FAULTS = 12
_LONGEST_SHOWN = 200  # characters of a sentence


@skill("check")
def check(brief: Brief) -> Move:
    """Look the sentences of the text up with the tool `search_documents`; answer with what was found."""
    request = asked(brief.intent, [each.text for each in brief.inputs])
    if request is None:
        return Unable(
            code="nothing_to_check",
            reason=(
                "There is no text to check. Give it after a colon, in quotation marks, or below the request "
                "after an empty line: “Check this claim: …”"
            ),
        )
    if request.form_only:
        return _about_form(faults_of(request.text))
    every = sentences_of(without_marks(request.text))
    sentences = foremost(every, MOST_SENTENCES)
    if not sentences:
        return Unable(code="nothing_to_check", reason="The text to check has no sentence. Give one.")
    wanted = chosen(sentences, MOST_SEARCHES)
    for failed in brief.outcomes:
        if failed.result is None:
            return Unable(
                code=failed.code or "search_failed",
                reason=failed.message or "The documents could not be searched.",
            )
    if len(brief.outcomes) < len(wanted):
        query = sentences[wanted[len(brief.outcomes)]]
        return Use(tool=_TOOL, arguments={"query": query[:MAX_QUERY]})
    passages = [
        passage for outcome in brief.outcomes if outcome.result for passage in outcome.result["passages"]
    ]
    return _about_facts(
        sentences,
        passages,
        looked_up=frozenset(wanted),
        left_out=len(every) - len(sentences),
        faults=faults_of(request.text),
    )


def _about_form(faults: Sequence[str]) -> Move:
    if not faults:
        return Unable(
            code="needs_model",
            reason=(
                "Judging spelling, grammar, style or argument needs a model that can. Set OPENAI_API_KEY "
                "(with OPENAI_BASE_URL for another provider) and start again. Without one only these faults "
                f"were looked for, and there are none: {LOOKED_FOR}."
            ),
        )
    return Answer(
        text=(
            f"{_listed(faults)}\n\nOnly such faults were looked for: {LOOKED_FOR}. Spelling, grammar, style "
            "and argument need a model."
        ),
        result=_counts([], faults),
    )


def _about_facts(
    sentences: Sequence[str],
    passages: Sequence[Mapping[str, Any]],
    *,
    looked_up: frozenset[int],
    left_out: int,
    faults: Sequence[str],
) -> Answer:
    if not passages:
        said = (
            "No document was found to hold the text against, so none of its statements is checked. "
            "Upload the source and ask again."
        )
        unknown = [Finding("unknown")] * len(sentences)
        return Answer(text="\n\n".join([said, *_about_faults(faults)]), result=_counts(unknown, faults))
    statements = statements_of(passages)
    findings = [compare(sentence, statements) for sentence in sentences]
    citations: dict[tuple[str, int, int], dict[str, Any]] = {}
    lines = []
    for place, (sentence, finding) in enumerate(zip(sentences, findings, strict=True)):
        lines.append(f"- “{_shown(sentence)}” – {_said(finding, citations, looked_up=place in looked_up)}")
    if left_out:
        lines.append(f"- {left_out:,} more sentences were not looked at; ask about them by themselves.")
    rest = (
        "A sentence counts as supported only where one sentence of a document says it in the same words; "
        "whether another says it in other words, and whether it follows from them, needs a model."
    )
    parts = ["\n".join(lines), *_about_faults(faults), rest]
    heading = _summary(findings)
    return Answer(
        text="\n\n".join([heading, *parts]),
        result=_counts(findings, faults),
        citations=tuple(citations.values()),
    )


def _summary(findings: Sequence[Finding]) -> str:
    counts = _counts(findings, [])
    return (
        f"Supported by the documents: {counts['supported']}. Another figure in the documents: "
        f"{counts['contradicted']}. Not found in them: {counts['unknown']}."
    )


def _said(finding: Finding, citations: dict[tuple[str, int, int], dict[str, Any]], *, looked_up: bool) -> str:
    where = finding.statement
    if where is None and looked_up:
        return "the passages found do not speak of it."
    if where is None:
        return (
            f"not looked up, since at most {MOST_SEARCHES} are, those with figures, codes or names; not in "
            "the passages found."
        )
    quote = f"“{_shown(where.text)}” {_mark(where, citations)}"
    match finding.kind:
        case "supported":
            return f"**supported**: {quote}"
        case "contradicted":
            return f"**the document says {finding.instead}, not {finding.claimed}**: {quote}"
        case _:
            return f"not found. The nearest is: {quote}"


def _mark(where: Statement, citations: dict[tuple[str, int, int], dict[str, Any]]) -> str:
    """Return the number of a citation in brackets, a new one where it is mentioned first."""
    key = (where.document, where.start, where.end)
    citations.setdefault(
        key,
        {
            "document": where.document,
            "title": where.title,
            "start": where.start,
            "end": where.end,
            "page": where.page,
            "text": where.text,
        },
    )
    return f"[{list(citations).index(key) + 1}]"


def _shown(text: str) -> str:
    """Return a sentence on one line, without numbers in brackets that would read as citations."""
    line = without_marks(plain(text))
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN].rstrip()}…"


def _about_faults(faults: Sequence[str]) -> list[str]:
    return [f"Faults of form:\n\n{_listed(faults)}"] if faults else []


def _listed(faults: Sequence[str]) -> str:
    lines = [f"- {fault}" for fault in faults[:_MOST_FAULTS]]
    if len(faults) > _MOST_FAULTS:
        lines.append(f"- … and {len(faults) - _MOST_FAULTS:,} more")
    return "\n".join(lines)


def _counts(findings: Sequence[Finding], faults: Sequence[str]) -> dict[str, int]:
    kinds = [finding.kind for finding in findings]
    return {
        "supported": kinds.count("supported"),
        "contradicted": kinds.count("contradicted"),
        "unknown": kinds.count("unknown"),
        "faults": len(faults),
    }
