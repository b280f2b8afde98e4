"""The requests of a message: where one ends and the next begins, and which words join them. Pure text work.

A message is cut at list items, `then`, semicolons, new lines and sentences, only where a request stands on
both sides; nothing is cut inside quotations, brackets, code, JSON, or a text that the message hands over.
What is left out of the requests is only what separates them.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cartrita.orchestrator.slash import SlashCall, slash_call

Link = Literal["", "list", "then", "sentence", "line", "semicolon", "and", "agent", "call"]

# Context before the first request is repeated for the others up to this length, in characters.
_LONGEST_CONTEXT = 300
# What is longer hands over more text than it asks, and stays whole.
_LONGEST_CUT = 4_000
# How far a clause is looked at, so that no text makes this slow.
_LONGEST_CLAUSE = 500
_LONGEST_HANDING_OVER = 300


@dataclass(frozen=True, slots=True)
class Part:
    """A request within a message: where it stands, and what joins it to the part before.

    `asked` is where its own request begins, after what was said before; `context` is the text to repeat
    before it. `agent` is named in the message, `call` written out in it.
    """

    start: int
    end: int
    text: str
    link: Link = ""
    asked: int = 0
    context: str = ""
    agent: str = ""
    call: SlashCall | None = None

    @property
    def intent(self) -> str:
        return f"{self.context} {self.text}" if self.context else self.text


def parts(text: str, *, agents: Collection[str], tools: Collection[str]) -> tuple[Part, ...]:
    """Return the requests of a message in order. Those joined by `and` are only candidates.

    Raises what slash_call raises where the whole message should be a call and is none.
    """
    if len(text) > _LONGEST_CUT:
        return (_part(text, 0, len(text)),)
    whole = slash_call(text) if text.strip().startswith("/") and not _has_more(text, tools) else None
    if whole is not None:
        return (_part(text, 0, len(text), call=whole),)
    masked = _masked(text)
    found: list[Part] = []
    start = 0
    for begin, end, call in _calls(text, masked, tools):
        found += _plain(text, masked, start, begin, agents, first=not found)
        link: Link = "call" if found else ""
        if found and _ENDS_IN_THEN.search(masked, start, begin):
            link = "then"
        found.append(replace(_part(text, begin, end, call=call), link=link))
        start = end
    found += _plain(text, masked, start, len(text), agents, first=not found)
    return tuple(found) if found else (_part(text, 0, len(text)),)


def merged(one: Part, other: Part, text: str) -> Part:
    """Return two neighbouring parts of a text as one."""
    return replace(one, end=other.end, text=text[_begin(one, text) : other.end].strip())


def unquoted(text: str) -> str:
    """Return a text without code, quotations and addresses."""
    return _PROTECTED.sub(" ", text)


def makes(text: str) -> bool:
    """Tell whether a text asks to make something or to judge it, rather than to find something out."""
    return _MAKES.match(text) is not None


_WH = (
    r"(?:what|which|who|whom|whose|when|where|why|how|was|wer|wen|wem|wo|wann|warum|wieso|weshalb|wie|"
    r"wieviele?|welche[mnrs]?|wohin|woher|quel(?:le)?s?|qui|que|quand|où|pourquoi|comment|combien|qué|"
    r"quién(?:es)?|cuándo|dónde|cuál(?:es)?|cómo|cuánt[oa]s?)"
)
_LEAD = (
    r"(?:(?:please|pls|kindly|also|and|but|so|now|next|first(?:ly| of all)?|second(?:ly)?|third(?:ly)?|then|"
    r"finally|lastly|additionally|furthermore|moreover|besides|in addition|afterwards|after that|just|"
    r"ok(?:ay)?|hi|hello|hey|(?:and )?once (?:that is|that's|it is|you are) done|bitte|auch|außerdem|zuerst|"
    r"zunächst|erstens|zweitens|drittens|und|dann|danach|anschließend|schließlich|ensuite|puis|enfin|aussi|"
    r"d'abord|et|y|luego|después|también|por favor|primero|(?:can|could|would|will) you|i(?:'d|"
    r" would) like (?:you )?to|i (?:want|need) (?:you )?to|let's|let us|help me(?: to)?|you should|(?:kannst|"
    r"könntest) du(?: mir| bitte)?|(?:können|könnten) sie(?: mir| bitte)?|peux-tu|pouvez-vous|puedes|"
    # So few at a time that a text of nothing else is not looked through once for each of its words.
    r"podrías)\b[,:]?\s+){0,8}"
)
# Verbs that begin a request of their own, wherever they stand at the beginning of a sentence.
_STRONG = (
    r"(?:write|draft|compose|translate|summari[sz]e|calculate|compute|evaluate|check|proof-?read|review|"
    r"criti(?:ci[sz]e|que)|double-?check|fact-?check|verify|validate|assess|judge|grade|find|search|look up|"
    r"list|tell me|explain|describe|compare|count|run|execute|implement|code|generate|plot|draw|convert|"
    r"give me|show me|read|analy[sz]e|extract|rewrite|rephrase|paraphrase|shorten|suggest|propose|name|"
    r"define|determine|estimate|identify|outline|quote|solve|simulate|debug|fix|refactor|correct|prepare|"
    r"produce|work out|figure out|create|build|report|multiply|divide|subtract|sum|query|group|train|predict|"
    r"schreibe?n?|verfasse?n?|formuliere?n?|entwirf|übersetze?n?|fasse|berechne?n?|rechne?n?|teile|multipliziere|"
    r"addiere|subtrahiere|verdopple|halbiere|prüfe?n?|"
    r"überprüfe?n?|kontrolliere?n?|korrigiere?n?|bewerte?n?|finde?n?|suche?n?|nenne?n?|liste?|erkläre?n?|"
    r"vergleiche?n?|zähle?n?|ermittle|erstelle?n?|zeige?n?|programmiere?n?|führe?|lies|sag(?:e)? mir|écris|"
    r"écrivez|rédige[rz]?|traduis|traduisez|résume[rz]?|calcule[rz]?|vérifie[rz]?|corrige[rz]?|trouve[rz]?|"
    r"cherche[rz]?|explique[rz]?|compare[rz]?|donne[rz]?-moi|escribe|redacta|traduce|resume|calcula|verifica|"
    r"revisa|busca|encuentra|explica|dime|cuenta)"
)
# Further verbs that say what is to be done after a `then`; at the beginning of a sentence they add to it.
_WEAK = (
    r"(?:round|sort|show|give|add|make|turn|use|send|double|halve|take|put|test|tell|filter|rank|rate|pick|"
    r"choose|apply|combine|mention|include|print|say|answer|reply|format|improve|polish|simplify|order|"
    r"decide|conclude|point|reverse|repeat|square|store|save|present|mach(?:e)?|gib|runde|sortiere?|"
    r"verwende?|nimm|sende?|verdopple|halbiere|teile|addiere|fais|donne|ajoute|arrondis|haz|añade|redondea|"
    r"suma|ordena)"
)
# What a strong verb with one of these after it asks for is still about the request before.
_OF_THE_SAME = re.compile(
    rf"{_LEAD}(?:explain|describe|show me|run|execute|list|count|give me|report)\s+(?:(?:how|why|what)\s+)?"
    r"(?:it|them|your?|each|every step|the steps|all steps)\b",
    re.IGNORECASE,
)
_STARTS = re.compile(rf"{_LEAD}(?:{_STRONG}\b(?!['’:]))", re.IGNORECASE)
_STARTS_ANY = re.compile(rf"{_LEAD}(?:(?:{_STRONG}|{_WEAK})\b(?!['’:]))", re.IGNORECASE)
_ASKS = re.compile(rf"{_LEAD}{_WH}\b", re.IGNORECASE)
_WANTS = re.compile(
    r"(?:i (?:need|want)|i(?:'d| would) like|ich (?:brauche|möchte|hätte gerne?)|je voudrais|quiero|"
    r"necesito)\b",
    re.IGNORECASE,
)
_EXPRESSION = re.compile(r"(?=[^\n]*\d)(?=[^\n]*[-+*/^×÷!])[-+*/^×÷!().,%\s\de=?\x01]+\Z")
# Questions that ask for nothing beside what is asked already.
_FILLER = re.compile(
    r"(?:(?:can|could|would) you (?:please )?(?:help(?: me)?(?: with (?:that|this|it))?|tell me|do (?:it|"
    r"that|this))|is (?:that|this|it) (?:ok|okay|possible|right|clear|correct)|(?:do|does) (?:you|"
    r"that) (?:know|work|make sense)|any ideas?|what do you think|ok|okay|right|geht das|"
    r"kannst du (?:mir )?(?:dabei |"
    r"damit )?helfen)[^?]{0,15}\?",
    re.IGNORECASE,
)


_THEN = (
    r"(?:(?:and|und|et|y)\s+)?(?:then|after that|after this|afterwards|subsequently|thereafter|once (?:that|"
    r"this) is done|dann|danach|anschließend|daraufhin|hinterher|ensuite|puis|après cela|luego|después)"
)
# A run of blanks is looked at once, from its beginning.
_BREAK = re.compile(
    rf"(?P<then>(?<!\s)(?:\s*+[,;]\s*+|\s++){_THEN}\b\s*,?\s+)"
    r"|(?P<semicolon>(?<!\s)\s*+;\s*+)|(?P<line>(?<![ \t])[ \t]*+\n\s*+)"
    r"|(?P<sentence>(?<=[.!?…\x01])\s+)"
    r"|(?P<and>(?:,\s*+|(?<!\s)\s++)(?:and|und|et|y|as well as|sowie)\s+(?:also\s+|auch\s+)?"
    rf"(?={_LEAD}(?:{_STRONG}|{_WH})\b)"
    rf"|,\s*(?=(?:{_WH}|{_STRONG})\b))",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?…](?=\s|\Z)|;|\n|\Z")
_ENDS_IN_THEN = re.compile(rf"{_THEN}\b[\s,:]*\Z", re.IGNORECASE)
# `and then` is read in one way only: in two, many of them would be read in all combinations.
_SEPARATOR = re.compile(rf"(?>(?:[\s,;]|\b(?:{_THEN}|and|und|et|y)\b)+)", re.IGNORECASE)
_TRAILING = re.compile(r"(?:[\s,;]|\b(?:and|und|et|y)\s*\Z)+\Z", re.IGNORECASE)
_CONDITION = re.compile(
    r"\b(?:if|when|whenever|once|unless|wenn|falls|sobald|si)\b[^.!?;\n]*\Z", re.IGNORECASE
)
# The clause so far speaks of what something else does: `a program to read a file (and) then sort it`.
_CHAIN = re.compile(
    r"\b(?:to|how to|that|which|who|where|in which|zu|um|der|die|das|qui|que|pour)\s+(?!(?:the|a|an|my|our|"
    r"your|his|"
    r"her|their|me|us|him|them|column|each|all|dem|den|der|die|das|meine[mnrs]?)\b)[a-z]\w+\b[^.!?;\n]*\Z",
    re.IGNORECASE,
)
# A text that is handed over: what follows the colon is its matter.
_HANDS_OVER = re.compile(
    rf"(?:{_LEAD}(?:check|proof-?read|review|criti(?:ci[sz]e|que)|verify|fact-?check|double-?check|correct|"
    rf"evaluate|"
    r"assess|judge|rate|grade|translate|rewrite|rephrase|paraphrase|reword|shorten|summari[sz]e|simplify|"
    r"improve|polish|fix|debug|run|execute|refactor|optimi[sz]e|explain|reply to|respond to|answer this|turn|"
    r"make|convert|continue|analy[sz]e|extract|use this|format|prüfe?|korrigiere?|übersetze?|kürze|"
    r"verbessere?|fasse|bewerte|führe|relis|corrige|traduis|résume|revisa|traduce|resume|what(?:'s|"
    r" is) wrong|what do you think|is this|does this|are these|here is|this is|i wrote|"
    r"write[^:.?!\n]*\b(?:from|based on|using|about|with|containing|mentioning|including|"
    r"that says))\b[^:.?!\n]*|[^:.?!\n]*\b(?:the following|this|below|"
    r"these)\b[^:.?!\n]*):[ \t]*",
    re.IGNORECASE,
)
_NEUTRAL = re.compile(
    r"(?:^|\b)(?:questions?|tasks?|things?|steps?|points?|requests?|to-?dos?|jobs?|fragen|aufgaben|schritte|"
    r"punkte|"
    r"following|folgende[sn]?|all of (?:these|this)|each)\b",
    re.IGNORECASE,
)
_MAKES = re.compile(
    rf"{_LEAD}(?:write|draft|compose|translate|summari[sz]e|check|proof-?read|review|criti(?:ci[sz]e|que)|"
    rf"implement|"
    r"code|create|build|generate|rewrite|shorten|explain|describe|compare|list|sort|rank|choose|pick|turn|"
    r"make|fix|correct|rate|grade|run|execute|schreibe?|verfasse|formuliere|übersetze|prüfe|korrigiere|"
    r"erstelle|"
    r"programmiere|écris|rédige|traduis|corrige|escribe|redacta|traduce|revisa)\b",
    re.IGNORECASE,
)
_STEP = r"(?:step|task|question|part|point|schritt|aufgabe|frage|punkt|étape|paso)[ \t]+"
_MARK = (
    rf"(?:{_STEP}(?P<step>\d{{1,2}})[.):]|(?P<number>\d{{1,2}})[.)]|\((?P<bracketed>\d{{1,2}})\)|"
    r"\(?(?P<letter>[a-h])\)"
)
_LINE_MARK = re.compile(rf"^[ \t]*{_MARK}|(?P<bullet>[-*•–]))[ \t]+(?=\S)", re.MULTILINE | re.IGNORECASE)
_INLINE_MARK = re.compile(rf"(?<!\S){_MARK})[ \t]+(?=\S)", re.IGNORECASE)
_AGENT = re.compile(r"(?<!\S)@([A-Za-z][A-Za-z0-9_]*)(?:[,:])?(?=\s|\Z)")
_CALL = re.compile(r"(?<!\S)/([a-z][a-z0-9_]*)(?=\s*\{)")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


_MASK = "\x01"
_MASKED = re.compile(rf"\s*{_MASK}+")
_PROTECTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+|(?<![\w\"])\"(?=\S)[^\"]{1,4000}?\"(?!\w)|“[^“”]{1,4000}”|"
    r"„[^„“”]{1,4000}[“”]|«[^«»]{1,4000}»|"
    r"(?<![\w'])'(?=\S)[^'\n]{2,2000}?'(?!\w)|‘[^‘’\n]{2,2000}’(?!\w)",
    re.DOTALL,
)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def _has_more(text: str, tools: Collection[str]) -> bool:
    """Tell whether words follow the call that a text begins with."""
    begun = _CALL.match(text.strip())
    if begun is None or begun[1] not in tools:
        return False
    _, end = _object(text.strip(), begun.end())
    return end > 0 and bool(text.strip()[end:].strip())


def _masked(text: str) -> str:
    """Return the text with everything that is never cut written over, at the same length."""
    masked = _PROTECTED.sub(lambda found: _MASK * len(found[0]), text)
    for start, end in _bracketed(masked):
        masked = masked[:start] + _MASK * (end - start) + masked[end:]
    return _without_matter(masked)


def _bracketed(masked: str) -> Iterator[tuple[int, int]]:
    """Yield the outermost pairs of brackets; those that are not closed are ordinary characters."""
    opened: list[tuple[int, str]] = []
    spans: list[tuple[int, int]] = []
    for place, character in enumerate(masked):
        if character in _BRACKETS:
            opened.append((place, _BRACKETS[character]))
        elif opened and character == opened[-1][1]:
            start, _ = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, place + 1))
    # `1)` of a list stands alone; `(1)` is a mark too.
    yield from (
        span for span in spans if span[1] - span[0] > 4 or not masked[span[0] + 1 : span[1] - 1].isalnum()
    )


def _without_matter(masked: str) -> str:
    """Write over the texts that the message hands over after a colon: to the line's end, or all that "
    "follows."""
    start = 0
    while True:
        found = next(_handed_over(masked, start), None)
        if found is None:
            return masked
        begin = found
        whole = _MASKED.match(masked, begin)
        line_end = masked.find("\n", begin)
        if whole is not None:
            end = whole.end()
        else:
            end = len(masked) if line_end < 0 or not masked[begin:line_end].strip() else line_end
        masked = masked[:begin] + _MASK * (end - begin) + masked[end:]
        start = max(end, begin + 1)


def _handed_over(masked: str, start: int) -> Iterator[int]:
    """Yield where a matter begins: after the colon of a clause that hands a text over."""
    for place in _clause_starts(masked, start):
        found = _HANDS_OVER.match(masked, place, place + _LONGEST_HANDING_OVER)
        if found is None or not masked[found.end() :].strip():
            continue
        rest = masked[found.end() :]
        if _is_list(rest) and not _MAKES.match(masked, place) and _NEUTRAL.search(found[0]):
            continue
        yield found.end()


def _clause_starts(masked: str, start: int) -> Iterator[int]:
    place = start
    while place < len(masked):
        while place < len(masked) and masked[place].isspace():
            place += 1
        if place < len(masked):
            yield place
        for found in _BREAK.finditer(masked, place):
            if found.end() > place:
                place = found.end()
                break
        else:
            return


def _is_list(text: str) -> bool:
    return (
        len(_marks(_LINE_MARK, text, 0, len(text))) > 1 or len(_marks(_INLINE_MARK, text, 0, len(text))) > 1
    )


def _calls(text: str, masked: str, tools: Collection[str]) -> Iterator[tuple[int, int, SlashCall]]:
    """Yield the tool calls within a text: a known name and a JSON object, at the beginning of a clause."""
    start = 0
    for found in _CALL.finditer(text):
        if found.start() < start or found[1] not in tools or masked[found.start()] == _MASK:
            continue
        value, end = _object(text, found.end())
        if value is None:
            # Says what is wrong with the JSON.
            slash_call(text[found.start() :])
            continue
        yield found.start(), end, SlashCall(found[1], value)
        start = end


def _object(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, 0
    return (value, end) if isinstance(value, dict) else (None, 0)


def _plain(
    text: str, masked: str, start: int, end: int, agents: Collection[str], *, first: bool
) -> list[Part]:
    """Return the parts of a stretch without tool calls."""
    link: Link = ""
    if not first:
        separated = _SEPARATOR.match(masked, start, end)
        if separated is not None:
            if _ENDS_IN_THEN.search(masked, start, separated.end()):
                link = "then"
            start = separated.end()
        link = link or "call"
    if not masked[start:end].strip(" \t\n\r,;"):
        return []
    if _SEPARATOR.fullmatch(masked, start, end) and (not first or end < len(text)):
        return []
    found: list[Part] = []
    for begin, stop, name in _addressed(masked, start, end, agents):
        block = _block(text, masked, begin, stop)
        if name:
            block[0] = replace(block[0], agent=name)
        if found:
            joined: Link = "then" if _ENDS_IN_THEN.search(masked, found[-1].start, found[-1].end) else "agent"
            found[-1] = _trimmed(found[-1], text, masked)
            block[0] = replace(block[0], link=joined)
        found += block
    if link:
        found[0] = replace(found[0], link=link)
    return found


def _addressed(masked: str, start: int, end: int, agents: Collection[str]) -> list[tuple[int, int, str]]:
    """Return the stretches that are addressed to an agent, each with its name; the first may have none."""
    cuts = [
        (found.start(), found.end(), found[1])
        for found in _AGENT.finditer(masked, start, end)
        if found[1] in agents and masked[found.end() : end].strip()
    ]
    stretches: list[tuple[int, int, str]] = []
    begin, name = start, ""
    for cut_start, cut_end, addressed in cuts:
        between = masked[begin:cut_start]
        if not between.strip() or _SEPARATOR.fullmatch(between):
            if name:
                continue
        elif not _begins_part(masked, begin, cut_start, cut_end):
            continue
        else:
            stretches.append((begin, cut_start, name))
        begin, name = cut_end, addressed
    stretches.append((begin, end, name))
    return stretches


def _begins_part(masked: str, start: int, cut_start: int, cut_end: int) -> bool:
    before = masked[max(start, cut_start - _LONGEST_CLAUSE) : cut_start].rstrip()
    return (
        before[-1] in ".,;:!?\n"
        or "\n" in masked[max(start, cut_start - _LONGEST_CLAUSE) + len(before) : cut_start]
        or re.search(rf"\b(?:{_THEN}|and|und|et|y)\Z", before, re.IGNORECASE) is not None
        or _is_request(masked, cut_end + len(masked[cut_end:]) - len(masked[cut_end:].lstrip()))
    )


def _trimmed(part: Part, text: str, masked: str) -> Part:
    """Return the part without the words that only lead on to the next."""
    tail = re.compile(rf"(?:[\s,;]|\b(?:{_THEN}|and|und|et|y)\s*\Z)+\Z", re.IGNORECASE)
    found = tail.search(masked, part.start, part.end)
    if found is None or found.start() <= part.start:
        return part
    return replace(part, end=found.start(), text=text[part.start : found.start()].strip())


def _block(text: str, masked: str, start: int, end: int) -> list[Part]:
    """Return the parts of a stretch that is addressed to nobody or to one agent; at least one."""
    marks = _marks(_LINE_MARK, masked, start, end) or _marks(_INLINE_MARK, masked, start, end)
    if marks:
        listed = _listed(text, masked, start, end, marks)
        if listed:
            return listed
        after = _end_of_list(masked, marks, end)
        inside = masked[marks[0][0] : after]
        masked = masked[: marks[0][0]] + re.sub(r"[\s\S]", _MASK, inside) + masked[after:]
    return _clauses(text, masked, start, end)


def _marks(pattern: re.Pattern[str], masked: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return where the marks of the first list begin and end; nothing where there is no list."""
    kind, number = "", 0
    marks: list[tuple[int, int]] = []
    for found in pattern.finditer(masked, start, end):
        of_kind = str(found.lastgroup)
        value = found[of_kind]
        ordinal = int(value) if value.isdigit() else ord(value.lower()) - ord("a") + 1
        if not kind:
            if of_kind != "bullet" and ordinal != 1:
                continue
            kind = of_kind
        if of_kind != kind or (kind != "bullet" and ordinal != number + 1):
            continue
        number = ordinal
        marks.append((found.start(), found.end()))
    return marks if len(marks) > 1 else []


def _end_of_list(masked: str, marks: Sequence[tuple[int, int]], end: int) -> int:
    paragraph = _PARAGRAPH.search(masked, marks[-1][1], end)
    return paragraph.start() if paragraph else end


def _listed(text: str, masked: str, start: int, end: int, marks: Sequence[tuple[int, int]]) -> list[Part]:
    """Return the items of a list as parts where each is a request, with what stands around the list."""
    after = _end_of_list(masked, marks, end)
    bounds = [*(mark[0] for mark in marks[1:]), after]
    items = [(mark[1], bound) for mark, bound in zip(marks, bounds, strict=True)]
    before = _clauses(text, masked, start, marks[0][0]) if masked[start : marks[0][0]].strip() else []
    introduction = before[-1] if before else None
    if (
        introduction is not None
        and _MAKES.match(masked, introduction.asked)
        and not _is_neutral(introduction)
    ):
        return []
    if not all(_STARTS_ANY.match(masked, begin) or _is_request(masked, begin, stop) for begin, stop in items):
        return []
    context = ""
    found: list[Part] = []
    if introduction is not None:
        found = before[:-1]
        context = introduction.text
        if _is_question(masked, introduction.asked, introduction.end) and not context.endswith(":"):
            found, context = before, ""
    begun = bool(found)
    for number, (begin, stop) in enumerate(items):
        stop = _without_trailing(masked, begin, stop)  # noqa: PLW2901 # the item's own end
        # The first item holds the introduction, the others repeat it.
        holds = number == 0 and introduction is not None and bool(context)
        part = _part(text, begin, stop)
        found.append(
            replace(
                part,
                start=introduction.start if holds and introduction is not None else begin,
                link="list" if begun or number else "",
                asked=begin,
                context=context,
            )
        )
    if masked[after:end].strip():
        rest = _block(text, masked, after, end)
        if _is_request(masked, rest[0].asked):
            found += [replace(rest[0], link=rest[0].link or "line"), *rest[1:]]
        else:
            last = found[-1]
            found[-1] = replace(last, end=rest[0].end, text=text[last.asked : rest[0].end].strip())
            found += rest[1:]
    return found


def _is_neutral(introduction: Part) -> bool:
    """Tell whether a list's introduction only announces it."""
    return introduction.text.rstrip().endswith(":") and _NEUTRAL.search(introduction.text) is not None


def _clauses(text: str, masked: str, start: int, end: int) -> list[Part]:
    """Return the parts of running text; at least one."""
    start += len(masked[start:end]) - len(masked[start:end].lstrip())
    spans: list[tuple[int, int, Link, int]] = []
    begin, link = start, ""
    asked = start if _is_request(masked, start, end) else -1
    for found in _BREAK.finditer(masked, start, end):
        right = found.end()
        kind = str(found.lastgroup)
        if right >= end:
            continue
        if asked < 0 and kind == "then" and _STARTS_ANY.match(masked, begin):
            asked = begin
        if asked >= 0 and _cuts(masked, kind, asked=asked, stop=found.start(), right=right, end=end):
            spans.append((begin, found.start(), link, asked))  # type: ignore[arg-type]  # names of groups are links
            begin, link, asked = right, kind, right
        elif asked < 0 and kind not in {"and", "then"} and _is_request(masked, right, end):
            asked = right
    spans.append((begin, end, link, asked if asked >= 0 else begin))  # type: ignore[arg-type]  # as above
    context = text[spans[0][0] : spans[0][3]].strip()
    if len(context) > _LONGEST_CONTEXT or _GREETING.fullmatch(context) or not any(map(str.isalnum, context)):
        context = ""
    return [
        replace(
            _part(text, begin, _without_trailing(masked, begin, stop) if number < len(spans) - 1 else stop),
            link=joined,
            asked=own,
            context=context if number else "",
        )
        for number, (begin, stop, joined, own) in enumerate(spans)
    ]


_GREETING = re.compile(
    r"(?:(?:hi|hello|hey|good (?:morning|afternoon|evening)|dear \w+|thanks|thank you|hallo|guten (?:tag|"
    r"morgen|abend)|"
    r"bonjour|hola)\b[\s\w]{0,12}[,.!]*\s*)+",
    re.IGNORECASE,
)


def _cuts(masked: str, kind: str, *, asked: int, stop: int, right: int, end: int) -> bool:
    """Tell whether the message is cut between a request that began at `asked` and what begins at `right`."""
    if _OF_THE_SAME.match(masked, right) and kind != "semicolon":
        return False
    match kind:
        case "then":
            clause_start = max((masked.rfind(mark, asked, stop) for mark in ".!?;\n"), default=-1) + 1
            so_far = masked[max(clause_start, asked, stop - _LONGEST_CLAUSE) : stop]
            if so_far.strip() and _CONDITION.search(so_far):
                return False
            separator = masked[stop:right].lstrip(" ")
            if separator[0] not in ",;" and so_far.strip() and _CHAIN.search(so_far):
                return False
            return bool(
                _STARTS_ANY.match(masked, right) or _is_question(masked, right, end) or masked[right] in "@/"
            )
        case "and":
            so_far = masked[max(asked, stop - _LONGEST_CLAUSE) : stop]
            bare_comma = masked[stop:right].strip() == ","
            if _CHAIN.search(so_far) and not masked[stop:right].lstrip().startswith(","):
                return False
            if bare_comma and _ASKS.match(masked, right) and not _ASKS.match(masked, asked):
                return False
            return len(so_far.split()) > 2 and len(_clause(masked, right, end).split()) > 2
        case _:
            return _is_request(masked, right, end)


def _is_request(masked: str, start: int, end: int | None = None) -> bool:
    """Tell whether a clause that begins here asks for something."""
    stop = len(masked) if end is None else end
    while start < stop and masked[start].isspace():
        start += 1
    clause = _clause(masked, start, stop)
    if _STARTS.match(masked, start) or _WANTS.match(masked, start) or _AGENT.match(masked, start):
        return True
    return _is_question(masked, start, stop) or _EXPRESSION.match(clause.strip(" ;\n")) is not None


def _is_question(masked: str, start: int, end: int | None = None) -> bool:
    """Tell whether a clause that begins here is a question of its own."""
    clause = _clause(masked, start, len(masked) if end is None else end)
    words = clause.split()
    if not clause.rstrip().endswith("?"):
        return bool(_ASKS.match(clause)) and len(words) > 2 and "," not in clause.rstrip(",")
    if _FILLER.fullmatch(clause.strip()):
        return False
    return len(words) > 2 or (
        len(words) > 1 and _ASKS.match(clause) is not None and "why" not in clause.lower()
    )


def _clause(masked: str, start: int, end: int) -> str:
    end = min(end, start + _LONGEST_CLAUSE)
    found = _CLAUSE_END.search(masked, start, end)
    return masked[start : found.end() if found else end]


def _without_trailing(masked: str, start: int, end: int) -> int:
    found = _TRAILING.search(masked, start, end)
    return found.start() if found and found.start() > start else end


def _part(text: str, start: int, end: int, *, call: SlashCall | None = None) -> Part:
    return Part(start=start, end=end, text=text[start:end].strip(), asked=start, call=call)


def _begin(part: Part, text: str) -> int:
    """Return where a part's own text begins; the first item of a list spans the list's introduction too."""
    return text.index(part.text, part.asked if part.context else part.start)
