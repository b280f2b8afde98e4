"""Secrets: by the token formats of detect-secrets, and some more in the same way."""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from cartrita.accounts.secrets import TOKEN_PREFIX
from governance.detectors.finding import Check, Detector, Effort, Spans, as_it_is

# Addresses are found elsewhere, and private keys as a whole (below).
_NOT_THESE = frozenset({"IPPublicDetector", "PrivateKeyDetector"})

# RE2 knows no look-around; these say the same where only the group counts.
_IN_OTHER_WORDS = (
    (r"(?:(?<=\W)|(?<=^))", r"(?:^|\W)"),
    (r"(?![a-f0-9])", ""),
    (r"(?![a-zA-Z0-9_\-])", r"\b"),
    (r"(?!\w)", r"\b"),
    ("{50,1024}", "{50,}"),
)

_KEY_NAMES = (
    r"(?:pass(?:word|wd|phrase|code|wort)|pwd|kennwort|zugangscode|secret|"
    r"(?:api|access|auth|private)[_ \-]?key|(?:auth|access|api|bearer|session)?[_ \-]?token|credential)s?"
)
_NAMED = re.compile(rf"(?:\A|[^A-Za-z]|(?<=[a-z])(?=[A-Z]))(?i:{_KEY_NAMES})\Z")
_PLACEHOLDER = re.compile(
    r"(?i)\$\{|\{\{|%\(|\*{3}|\.{3}|x{4}|example|beispiel|placeholder|your[_-]|dein|changeme|redacted|<|\(|\["
)
_REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_LEAST_ENTROPY = 2.5  # bits a character

_REST_OF_TOKEN = re.compile(rb"[A-Za-z0-9_\-]*")
_REST_OF_JWT = re.compile(rb"[A-Za-z0-9_\-.]{0,4096}")


def detectors() -> Iterator[Detector]:
    """Yield the detectors of secrets."""
    yield from _of_the_library()
    for name, pattern in _OURS.items():
        yield Detector(name, "secret", pattern, _whole_token)
    yield Detector("named-secret", "secret", _ASSIGNED, _looks_random)


_OURS = {
    "cartrita-token": rf"\b{TOKEN_PREFIX}[A-Za-z0-9_\-]{{40,}}",
    "anthropic-key": r"\bsk-ant-[A-Za-z0-9_\-]{20,}",
    "openai-key": r"\bsk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_\-]{20,}|[A-Za-z0-9]{40,})",
    "google-key": r"\bAIza[0-9A-Za-z_\-]{35}",
    "google-token": r"\bya29\.[0-9A-Za-z_\-]{20,}",
    "hugging-face-token": r"\bhf_[A-Za-z0-9]{30,}",
    "github-fine-grained-token": r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    "npm-token": r"\bnpm_[A-Za-z0-9]{36}",
    "stripe-key": r"\b(?:(?:sk|rk)_(?:live|test)_|whsec_)[0-9A-Za-z]{16,}",
    "slack-app-token": r"\bxapp-\d-[A-Z0-9]+-\d+-[a-f0-9]+",
    "digitalocean-token": r"\bdo[opr]_v1_[a-f0-9]{64}",
    "databricks-token": r"\bdapi[a-f0-9]{32}",
    "azure-signature": r"\bsig=([A-Za-z0-9%/+]{43,}(?:%3D|=))",
    "authorization-header": r"(?i)\bauthorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+"
    r"([A-Za-z0-9._~+/=\-]{16,})",
}

# A pattern that is bounded by a large number is a large automaton: it sees the beginning of a value.
_IN_VALUE = r"[^\t\n\f\r \"'`,;⟦⟧]"
_ASSIGNED = (
    rf"(?i){_KEY_NAMES}[\"'`*]{{0,3}}\s{{0,3}}(?:[:=]{{1,2}}|=>|\b(?:is|ist|lautet|war)\b:?)\s{{0,3}}[\"'`*]{{0,3}}"
    rf"({_IN_VALUE}{{6}})"
)
_VALUE = re.compile(rf"{_IN_VALUE}{{6,200}}")
_LONGEST_VALUE_BYTES = 4 * 200


def is_named_secret(name: str, value: str) -> bool:
    """Tell whether a value stands under a name such as `api_key` and looks like one."""
    return bool(_NAMED.search(name)) and _random_looking(value)


def _of_the_library() -> Iterator[Detector]:
    # Takes some tens of milliseconds, which a process that looks at no text need not spend.
    import pkgutil
    from importlib import import_module
    from inspect import isabstract

    from detect_secrets import plugins
    from detect_secrets.plugins.base import RegexBasedDetector

    for found in sorted(module.name for module in pkgutil.iter_modules(plugins.__path__)):
        module = import_module(f"{plugins.__name__}.{found}")
        for name, member in sorted(vars(module).items()):
            if not (isinstance(member, type) and issubclass(member, RegexBasedDetector)):
                continue
            if isabstract(member) or member.__module__ != module.__name__ or name in _NOT_THESE:
                continue
            yield from _detectors_of(name, member())


def _detectors_of(name: str, plugin: "RegexBasedDetector") -> Iterator[Detector]:  # type: ignore[name-defined] # noqa: F821
    check: Check = _CHECKS.get(name, _whole_token)
    for known in plugin.denylist:
        pattern = known.pattern
        for theirs, ours in _IN_OTHER_WORDS:
            pattern = pattern.replace(theirs, ours)
        # Groups in front of the secret, such as a token's prefix, are part of it.
        pattern = pattern.replace("(ghp|", "(?:ghp|").replace("(glpat|", "(?:glpat|")
        pattern = pattern.replace("glcbt-(", "glcbt-(?:")
        if known.flags & re.IGNORECASE:
            pattern = f"(?i){pattern}"
        yield Detector(name.removesuffix("Detector"), "secret", pattern, check)


def _whole_token(block: bytes, start: int, end: int, _effort: Effort) -> Spans:
    """Take the rest of the word, too: what follows a token's usual length belongs to it."""
    return ((start, _end_of(_REST_OF_TOKEN, block, end)),)


def _end_of(rest: re.Pattern[bytes], block: bytes, start: int) -> int:
    found = rest.match(block, start)
    return start if found is None else found.end()


def _mixed(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    """Take what has a digit, capitals and small letters, and so is no word in capitals."""
    effort.checks -= 5 + (end - start) // 10
    written = block[start:end]
    mixed = any(48 <= each <= 57 for each in written) and not (written.isupper() or written.islower())
    return _trimmed(block, start, end) if mixed else ()


def _trimmed(block: bytes, start: int, end: int) -> Spans:
    """Leave out what a pattern takes in around a token that stands between blanks or quotes."""
    around = b' \t\r\n=:"'
    while start < end and block[start] in around:
        start += 1
    while end > start and block[end - 1] in around:
        end -= 1
    return ((start, end),)


def _jwt(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    from detect_secrets.plugins.jwt import JwtTokenDetector

    end = _end_of(_REST_OF_JWT, block, end)
    effort.checks -= 10 + (end - start) // 20
    while block[end - 1] == ord("."):
        end -= 1
    try:
        valid = JwtTokenDetector.is_formally_valid(block[start:end].decode())
    except ValueError:
        return ()
    return ((start, end),) if valid else ()


def _looks_random(block: bytes, start: int, _end: int, effort: Effort) -> Spans:
    # What is no UTF-8, such as half a surrogate pair, keeps its length.
    whole = _VALUE.match(block[start : start + _LONGEST_VALUE_BYTES].decode(errors="surrogateescape"))
    if whole is None:
        return ()
    effort.checks -= 6 + len(whole[0]) // 5
    value = whole[0].rstrip(".!?:)")
    end = start + len(value.encode(errors="surrogateescape"))
    return ((start, end),) if _random_looking(value) else ()


def _random_looking(value: str) -> bool:
    """Tell a password or key from a word, a placeholder and a name in a program."""
    if len(value) < 6 or not (any(map(str.isdigit, value)) and any(map(str.isalpha, value))):
        return False
    if _PLACEHOLDER.search(value) or _REFERENCE.fullmatch(value):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= _LEAST_ENTROPY


_CHECKS: dict[str, Check] = {
    "ArtifactoryDetector": _mixed,
    "BasicAuthDetector": as_it_is,
    "JwtTokenDetector": _jwt,
    "NpmDetector": as_it_is,
}


_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d")
# The last dashes are looked at only, as they may begin the next: each end is found once, for all keys.
_ENDS = re.compile(
    r"-----END [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?(?=-----)|Private-(?:MAC|Hash): [0-9a-f]{0,128}"
)
_DASHES = 5
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s:,.\\\-]*")
LONGEST_KEY = 16 * 1024


def private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of private keys; one without an end goes as far as what may belong to it."""
    if "PRIVATE KEY" not in text and "PuTTY-User-Key-File-" not in text:
        return
    ends = [
        (match.start(), match.end() + (_DASHES if match[0].startswith("-") else 0))
        for match in _ENDS.finditer(text)
    ]
    at = 0
    while (begins := _BEGINS.search(text, at)) is not None:
        place = bisect_left(ends, (begins.end(), 0))
        if place < len(ends) and ends[place][1] <= begins.end() + LONGEST_KEY:
            at = ends[place][1]
        else:
            body = _KEY_BODY.match(text, begins.end(), begins.end() + LONGEST_KEY)
            at = begins.end() if body is None else body.end()
        yield begins.start(), at
