"""Orders to the model inside a text, and characters that hide text. The rules are our own.

No library is an authority on this, and no list can be complete: a rule says what is written in so many words,
in English or German, and each is explained. `docs/content-safety.md` says what they miss and what they find
wrongly in ordinary text.
"""

import re
from collections.abc import Iterator

from governance.detectors.finding import Detector

# What stands for one blank of a rule: words may be apart by line ends and by the marks of Markdown, too.
_BLANK = r"[\s*_>\"'`,:#\-]+"
_MANY = {
    "[of what]": """
        (?:(?:all|any|every|each|of|the|your|my|our|these|those|that|you(?:'ve)?|have|been|was|were|given|and
        |or|other|previous|prior|above|earlier|preceding|former|initial|original|existing|current|system
        |safety) )*
    """,
    "[orders]": """
        (?:instructions?|prompts?|directives?|directions|rules|guidelines|orders|commands|constraints
        |programming)
    """,
    "[wovon]": """
        (?:(?:alle[nr]?|jede|sämtlichen?|die|den|der|deinen?|ihren?|meine|diesen?|und|oder|bisherigen?
        |vorherigen?|vorigen|obigen?|früheren?|vorangegangenen|vorangehenden|ursprünglichen|anderen
        |bestehenden|system) )+
    """,
    "[anweisungen]": """
        (?:anweisung(?:en)?|instruktion(?:en)?|regeln|befehle?n?|vorgaben|richtlinien|prompts?
        |aufforderungen|einschränkungen)
    """,
    "[who]": "(?:user|human|reader|recipient|operator)",
    "[nutzer]": "(?:nutzer|benutzer|anwender|user|leser)(?:in|n|s)?",
}

# What it is called, what it looks for, and how that is written: as a pattern in which a blank stands for any
# blanks, and [lists] for the words above. Case does not matter.
_RULES: dict[str, tuple[str, str]] = {
    "ignore-instructions": (
        "Forget what you were told: the verb, then whose orders.",
        """
        \\b(?:ignore|disregard|forget|override|bypass|neglect|discard) [of what]
        (?:previous|prior|above|earlier|preceding|former|initial|original|system|your|safety)
         [of what][orders]\\b
        |\\b(?:ignore|disregard|forget) (?:everything|anything|all) (?:(?:you|that|was|were|been|have|i) )*
        (?:told|said|written|above|before|instructed)\\b
        """,
    ),
    "ignore-instructions-de": (
        "The same in German.",
        """
        \\b(?:ignorier(?:e|en|t)?|vergiss|vergesst|vergessen|missachte[nt]?|verwirf|verwerfen|übergehe?n?)
         (?:sie )?(?:(?:die|den|der) )*(?:alle[nr]?|sämtlichen?|deinen?|bisherigen?|vorherigen?|vorigen
        |obigen?|früheren?|vorangegangenen|vorangehenden|ursprünglichen) (?:[wovon])?[anweisungen]\\b
        |\\b(?:vergiss|ignoriere?) (?:alles|das) (?:was|bisherige|obige|vorherige)
        (?: (?:dir|ihnen|man|ich|bisher|vorher|zuvor|bislang|oben|gesagt|steht|stand|geschrieben|wurde))*\\b
        """,
    ),
    "new-role": (
        "You are somebody else from now on: a role without limits.",
        """
        \\byou (?:are|will be|must act|shall act) (?:now|from now on|henceforth|as) (?:(?:in|an?|the|my|as) )*
        (?:dan|unrestricted|unfiltered|uncensored|jailbroken|(?:developer|god) mode|evil
        |different (?:ai|assistant|model))\\b
        |\\b(?:act|behave|respond|pretend|roleplay) as (?:if you (?:had|have|were)|an?|though)
         (?:(?:no|an?|without|any|ai|assistant) )*
        (?:restrictions|filters?|limits|limitations|unrestricted|unfiltered|uncensored|ethical guidelines)\\b
        |\\b(?:enable|enter|activate|switch to) (?:developer|god|dan|debug|jailbreak) mode\\b
        """,
    ),
    "new-role-de": (
        "The same in German.",
        """
        \\bdu bist (?:jetzt|ab jetzt|ab sofort|nun|von nun an) (?:(?:eine?|im|kein|der|die) )*
        (?:dan|uneingeschränkte[rs]?|unzensierte[rs]?|ungefilterte[rs]?|entwicklermodus
        |anderer? (?:ki|assistent(?:in)?))\\b
        |\\b(?:verhalte|benimm) dich (?:so )?als (?:ob|hättest|wärst) (?:(?:du|hättest|keine|ohne) )*
        (?:einschränkungen|regeln|filter|grenzen)\\b
        """,
    ),
    "tell-the-prompt": (
        "Give away what you were told.",
        """
        \\b(?:reveal|print|show|output|repeat|disclose|leak|display|tell me|give me|write out)
         (?:(?:me|us|back|out|verbatim|all|of|your|full|entire|exact|complete|whole) )*
        (?:your|hidden|secret|the (?:hidden|secret)) (?:(?:full|entire|exact|hidden|secret) )*
        (?:system (?:prompt|message|instructions)|(?:hidden |initial |secret )?(?:prompt|instructions))\\b
        """,
    ),
    "tell-the-prompt-de": (
        "The same in German.",
        """
        \\b(?:zeige?n?|nenne?n?|verraten?|gib|geben|wiederhole?n?|drucke?n?)
         (?:(?:mir|uns|sie|bitte|wörtlich|den|die|das|ganzen|vollständigen|kompletten) )*
        (?:deinen?|ihren?|die geheimen|die versteckten) (?:(?:ganzen|vollständigen|geheimen|versteckten) )*
        (?:system prompt|systemprompt|systemanweisung(?:en)?|systemnachricht|prompt|anweisungen)\\b
        """,
    ),
    "behind-the-users-back": (
        "Do something and do not tell the person.",
        """
        \\b(?:do not|don'?t|never|must not|without) (?:ever )?
        (?:tell|inform|mention|reveal|alert|notify|say)(?:ing)?
         (?:(?:this|it|that|anything|of|about|to) )*(?:the )?[who]\\b
        """,
    ),
    "behind-the-users-back-de": (
        "The same in German.",
        """
        \\b(?:sage?n?|erwähnen?|verraten?|teilen?|informieren?) (?:(?:sie|dies|das|es|davon|dem|den|der) )*
        [nutzer] (?:(?:davon|das|dies|es|darüber) )*(?:nichts|nicht)\\b
        |\\bohne (?:(?:es|dies|das|den|dem|der) )+[nutzer] (?:(?:davon|darüber|zu) )*
        (?:sagen|erzählen|informieren|mitzuteilen|erwähnen)\\b
        """,
    ),
    "to-the-model": (
        "Addresses the machine that reads the text, and orders it about.",
        """
        \\b(?:attention|important|note|notice|instructions?|message|hey|dear)
        (?: (?:to|for|all|any|the|every))* (?:ai|llm|language model|chatbot|(?:ai|llm|automated|virtual|chat)
         (?:assistants?|agents?|models?|systems?|reviewers?|bots?))
         (?:(?:reading|processing|summari[sz]ing|reviewing|that|which|who|reads?|this|document|page|text) )*
        (?:you )?(?:must|should|shall|have to|need to|please|ignore|do|respond|reply|send|include|say|always
        |never|execute|call|forward)\\b
        |\\bif you are an? (?:(?:ai|llm|virtual) (?:assistant|agent|model)|ai|llm|(?:large )?language model
        |chatbot)\\b
        """,
    ),
    "to-the-model-de": (
        "The same in German.",
        """
        \\b(?:achtung|wichtig|hinweis|anweisung(?:en)?|nachricht|hallo)(?: (?:an|für|alle|jede|die|das|den))*
         (?:ki|llms?|chatbots?|sprachmodelle?|ki (?:assistent(?:en|in)?|agent(?:en)?|modelle?|systeme?))
         (?:(?:die|das|der|diesen|dieses|text|dokument|liest|lesen|verarbeitet|zusammenfasst) )*
        (?:du|ihr|sie|antworte|sende|ignoriere|schreibe|rufe|führe|bitte)\\b
        |\\b(?:wenn|falls) (?:du|sie) (?:eine? )?(?:ki|llm|sprachmodell|chatbot|ki assistent(?:in)?)
         (?:bist|sind)\\b
        """,
    ),
}
# Written as they are: blanks are blanks here.
_FORMS: dict[str, tuple[str, str]] = {
    "chat-form": (
        "Marks by which models tell who speaks: a text has no business with them.",
        (
            r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|(?:start|end)_header_id|"
            r"begin_of_text)\|>"
            r"|<<SYS>>|<</SYS>>|\[/?INST\]|<start_of_turn>|<end_of_turn>"
            r"|(?m:^[ #*\[<]{0,6}(?:system[ _](?:prompt|message|override)|new instructions|"
            r"neue anweisung(?:en)?|admin override)[\]>*# ]{0,5}:)"
        ),
    ),
    "sends-data-away": (
        "An image or link whose address is to be filled with what the model knows.",
        r"!?\[[^\]\n]{0,80}\]\(https?://[^\s)]{1,200}[?&/=](?:\{|\[|<|%7B|\$\{)[^)\n]{1,80}\)",
    ),
}
RULES = {name: why for name, (why, _) in (_RULES | _FORMS).items()}


def detectors() -> Iterator[Detector]:
    """Yield the detectors of orders to models."""
    for name, (_why, written) in _RULES.items():
        yield Detector(name, "injection", f"(?i){_pattern(written)}")
    for name, (_why, pattern) in _FORMS.items():
        yield Detector(name, "injection", f"(?i){pattern}")


def _pattern(written: str) -> str:
    for name, words in _MANY.items():
        written = written.replace(name, _joined(words))
    # A word ends before an underscore, too: Markdown's emphasis.
    return _joined(written).replace(" ", _BLANK).replace(r"\b", r"(?:\b|_)")


def _joined(written: str) -> str:
    """Put the lines of a rule into one; a blank that is meant stands at the end of a line or deeper in it."""
    lines = [line for line in written.split("\n") if line.strip()]
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return "".join(line[indent:] for line in lines)


# Tag characters repeat ASCII without being seen. The three flags of nations that Unicode recommends use them.
_FLAGS = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|"
    "\U000e0077\U000e006c\U000e0073)\U000e007f"
)
# So many places of one rule in a text are told apart.
MOST_HIDDEN = 5000
_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_OVERRIDES = re.compile("[\u202d\u202e]")
_DIRECTIONS = re.compile("[\u202a\u202b\u2066\u2067\u2068]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# One joiner or break has its uses; several in a row are seen by nobody and read by machines.
_RUNS = re.compile(
    "[\u200b-\u200f\u2060-\u2064\u206a-\u206f\ufeff\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u180b-\u180f"
    "\ufe00-\ufe0f\U000e0100-\U000e01ef]{3,}"
)
# What is left out before words are looked for, so that it cannot keep them from being found.
_INVISIBLE_RANGES = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F)),
    *((0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xE0000, 0xE007F), (0xE0100, 0xE01EF)),
)
INVISIBLE = frozenset(chr(code) for first, last in _INVISIBLE_RANGES for code in range(first, last + 1))


def hidden(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the places of characters that hide or reorder text, with the name of the rule."""
    if text.isascii():
        return
    flags = {match.start() + 1 for match in _FLAGS.finditer(text)}
    tags = 0
    for match in _TAGS.finditer(text):
        if match.start() not in flags or match.end() - match.start() > 6:
            tags += 1
            if tags > MOST_HIDDEN:
                yield match.start(), len(text), "tag-characters"
                break
            yield match.start(), match.end(), "tag-characters"
    yield from _not_too_many(_OVERRIDES, text, "reversed-text")
    if not _RIGHT_TO_LEFT.search(text):
        yield from _not_too_many(_DIRECTIONS, text, "needless-direction")
    yield from _not_too_many(_RUNS, text, "invisible-run")


def _not_too_many(pattern: re.Pattern[str], text: str, name: str) -> Iterator[tuple[int, int, str]]:
    """Yield the places of a pattern; behind too many of them, the rest of the text as one."""
    for number, match in enumerate(pattern.finditer(text)):
        if number == MOST_HIDDEN:
            yield match.start(), len(text), name
            return
        yield match.start(), match.end(), name
