"""Personal data: numbers with check digits (python-stdnum), phone numbers (libphonenumber), addresses."""

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from itertools import islice

from governance.detectors.finding import Check, Detector, Effort, Spans

# Where a number without its country's code may be from, where words around it say that it is one.
REGIONS = ("DE", "AT", "CH", "US", "GB", "FR", "NL", "ES", "IT")
_LONGEST_EMAIL = 254
# What libphonenumber takes for a number, and the other checks for a match, in microseconds.
_PARSED = 25
_CHECKED = 8
# Four small numbers with dots between are the number of a section.
_LEAST_TELLING = 32
_LETTER_OR_DIGIT = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_AFTER_VERSION = re.compile(rb"(?i)(?:\bv|version|release|build|ver\.)[ :=v]{0,3}\Z")


def detectors() -> Iterator[Detector]:
    """Yield the detectors of personal data."""
    yield Detector("email", "email", r"[\pL\pN._%+'\-]+@[\pL\pN\-]+(?:\.[\pL\pN\-]+)+", _email)
    yield Detector(
        "phone-international", "phone", r"(?:\+|\b00)[1-9](?:[ ()./\-\x{A0}]{0,3}\d){6,16}", _phone
    )
    yield Detector("phone-named", "phone", rf"(?i){_PHONE_NAMES}[^\d+\n]{{0,16}}{_NATIONAL}", _national_phone)
    yield Detector("phone-us", "phone", r"\(\d{3}\) ?\d{3}[\- ]\d{4}\b", _us_phone)
    yield Detector("phone-us-plain", "phone", r"\b\d{3}[\-.]\d{3}[\-.]\d{4}\b", _us_phone)
    yield Detector(
        "phone-dialled", "phone", r"\(?\b0[1-9]\d{1,4}\)?[ /\-]{1,3}\d(?:[ \-]?\d){5,9}", _german_phone
    )
    yield Detector("card", "card", r"\d(?:[ \-]?\d){12,}", _card)
    yield Detector("iban", "iban", r"(?i)\b[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]){11,30}", _iban, again=True)
    yield Detector("ipv4", "ip", r"\d{1,3}(?:\.\d{1,3}){3}", _ipv4)
    yield Detector("ipv6", "ip", r"(?i)\b[23][0-9A-F]{3}:[0-9A-F:]{2,35}", _ipv6)
    for name, (pattern, module) in _NATIONAL_IDS.items():
        yield Detector(name, "national-id", pattern, _by_check_digits(module))


_PHONE_NAMES = (
    r"\b(?:tel(?:efon(?:nummer)?|ephone)?|phone(?: number)?|fon|mobil(?:e|nummer|funk)?|cell|"
    r"handy(?:nummer)?|fax|hotline|durchwahl|rufnummer|whatsapp|call(?: (?:me|us))?(?: at| on)?|"
    r"ruf(?:en sie)? (?:mich|uns) an)\b"
)
_NATIONAL = r"(\(?\d[\d()./ \-]{5,20}\d)"

# Numbers that anything else may look like stand behind their name; the others have a form of their own.
_NATIONAL_IDS = {
    "german-tax-id": (
        r"(?i)\b(?:steuer\S{0,20}|idnr\.?|identifikationsnummer|tax ?id)[^\d\n]{0,24}(\d{2}(?: ?\d{3}){3})\b",
        "de.idnr",
    ),
    "austrian-insurance-number": (
        r"(?i)\b(?:svnr|sv-nummer|sozialversicherungsnummer)[^\d\n]{0,16}(\d{4}[ \-]?\d{6})\b",
        "at.vnr",
    ),
    "swiss-insurance-number": (r"\b756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}\b", "ch.ssn"),
    "us-social-security-number": (r"\b\d{3}-\d{2}-\d{4}\b", "us.ssn"),
    "french-insurance-number": (r"\b[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}\b", "fr.nir"),
    "spanish-identity-number": (r"\b\d{8}-?[A-HJ-NP-TV-Z]\b", "es.dni"),
    "spanish-foreigner-number": (r"\b[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]\b", "es.nie"),
    "italian-tax-code": (r"(?i)\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b", "it.codicefiscale"),
    "polish-number": (r"(?i)\bpesel\b[^\d\n]{0,16}(\d{11})\b", "pl.pesel"),
    "dutch-number": (
        r"(?i)\b(?:bsn|burgerservicenummer)\b[^\d\n]{0,16}(\d{3}[. ]?\d{3}[. ]?\d{3})\b",
        "nl.bsn",
    ),
    "belgian-number": (r"\b\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}\b", "be.nn"),
    "swedish-number": (r"\b(?:19|20)?\d{6}[\-+]\d{4}\b", "se.personnummer"),
    "finnish-number": (r"\b\d{6}[\-+A]\d{3}[0-9A-FHJ-NPR-Y]\b", "fi.hetu"),
    "british-health-number": (r"(?i)\bnhs\b[^\d\n]{0,24}(\d{3}[ \-]?\d{3}[ \-]?\d{4})\b", "gb.nhs"),
    "brazilian-tax-number": (r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b", "br.cpf"),
    "indian-identity-number": (
        r"(?i)\b(?:aadhaar|uidai?)\b[^\d\n]{0,24}(\d{4} ?\d{4} ?\d{4})\b",
        "in_.aadhaar",
    ),
}
# Names under which a value that looks like nothing by itself is what they say.
TELLING = re.compile(
    rf"(?i)(?:{_PHONE_NAMES}|steuer|idnr|identifikationsnummer|\btax ?id|\bsvnr|sv-nummer|"
    r"sozialversicherungsnummer|\bpesel\b|\bbsn\b|burgerservicenummer|\bnhs\b|aadhaar|\buidai?)"
)
LONGEST_TOLD = 64


def _email(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    text = block[start:end].decode(errors="ignore")
    # Letters beyond ASCII are prepared (IDNA), character by character.
    effort.checks -= 25 + (0 if text.isascii() else 4 * min(len(text), _LONGEST_EMAIL))
    # Quotes and dots around an address are the sentence's.
    address = text.lstrip("'.-%+").rstrip("'.-")
    start += len(text[: len(text) - len(text.lstrip("'.-%+"))].encode())
    return ((start, start + len(address.encode())),) if _is_email(address) else ()


@lru_cache(maxsize=256)
def _is_email(address: str) -> bool:
    from email_validator import EmailNotValidError, validate_email

    if len(address) > _LONGEST_EMAIL:
        return False
    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        return False
    return True


def _phone(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    if _goes_on(block, start, end):
        return ()
    written = block[start:end].decode(errors="ignore")
    # What looks like the number's end may be the next number in the sentence: the longest that exists counts.
    for length in _ends_of_digits(written):
        effort.checks -= _PARSED
        number = written[:length]
        if _exists(f"+{number[2:]}" if number.startswith("00") else number, None):
            return ((start, start + len(number.encode())),)
    return ()


def _national_phone(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    if _goes_on(block, start, end):
        return ()
    effort.checks -= _PARSED * 3
    number = block[start:end].decode(errors="ignore")
    return ((start, end),) if any(_exists(number, region) for region in REGIONS) else ()


def _us_phone(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    if _goes_on(block, start, end):
        return ()
    effort.checks -= _PARSED
    return ((start, end),) if _exists(block[start:end].decode(errors="ignore"), "US") else ()


def _german_phone(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    if _goes_on(block, start, end) or block[max(start - 2, 0) : max(start - 1, 0)].isdigit():
        return ()
    effort.checks -= _PARSED
    return ((start, end),) if _exists(block[start:end].decode(errors="ignore"), "DE") else ()


def _ends_of_digits(written: str) -> list[int]:
    ends = [match.end() for match in re.finditer(r"\d+", written)]
    return [length for length in reversed(ends) if length >= 8]


@lru_cache(maxsize=256)
def _exists(number: str, region: str | None) -> bool:
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False


def _card(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    """Find cards among the groups of digits of a long run: whole groups, 13 to 19 digits, issuer, Luhn."""
    if start and (block[start - 1] in _LETTER_OR_DIGIT or block[start - 1 : start] in {b".", b","}):
        return
    if end < len(block) and block[end] in _LETTER_OR_DIGIT:
        return
    effort.checks -= 1 + (end - start) // 200
    at = start
    while (group := _MAY_BEGIN_CARD.search(block, at, end)) is not None:
        effort.checks -= 3
        if effort.checks <= 0:
            yield group.start(), end
            return
        at = group.start() + 1
        digits = b""
        # Printed in blocks of four and more; single digits in a row are a list.
        for further in islice(_GROUP.finditer(block, group.start(), end), _MOST_GROUPS):
            digits += further[0]
            if len(digits) > 19:
                break
            if len(digits) >= 13:
                effort.checks -= _CHECKED
                if _is_card(digits.decode()):
                    yield group.start(), further.end()
                    at = further.end()
                    break


_GROUP = re.compile(rb"\d+")
# Of no more than six groups, one has three digits or more.
_MAY_BEGIN_CARD = re.compile(rb"(?<!\d)(?=[2-689])(?=(?:\d{1,2}[ -]){0,5}\d{3})")
_MOST_GROUPS = 6
# ISO/IEC 7812 ranges of the large schemes, with the lengths of their numbers.
_ISSUERS = (
    (r"4", {13, 16, 19}),
    (r"5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)", {16}),
    (r"3[47]", {15}),
    (r"6(?:011|4[4-9]|5)|62|81", {16, 17, 18, 19}),
    (r"35(?:2[89]|[3-8])", {16, 17, 18, 19}),
    (r"30[0-5]|3095|36|3[89]", {14, 16, 17, 18, 19}),
    (r"50|5[6-9]|6[0-9]", {16, 18, 19}),
    (r"220[0-4]|9792", {16}),
)


def _is_card(digits: str) -> bool:
    if len(set(digits)) < 2:
        return False
    if not any(len(digits) in lengths and re.match(starts, digits) for starts, lengths in _ISSUERS):
        return False
    return bool(import_module("stdnum.luhn").is_valid(digits))


def _iban(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    iban = import_module("stdnum.iban")
    written = block[start:end]
    effort.checks -= 1
    if written[:2].upper() not in _iban_countries():
        return
    # Each country has its length: where the number ends in what a sentence goes on with, that tells.
    compact = 0
    for place, each in enumerate(written):
        if each not in _LETTER_OR_DIGIT:
            continue
        compact += 1
        following = written[place + 1 : place + 2] or block[end : end + 1]
        inside = following and following[0] in _LETTER_OR_DIGIT
        if compact >= 15 and not inside:
            effort.checks -= 2 * _CHECKED
            if iban.is_valid(written[: place + 1].decode()):
                yield start, start + place + 1
                return


@lru_cache(maxsize=1)
def _iban_countries() -> frozenset[bytes]:
    iban = import_module("stdnum.iban")
    return frozenset(prefix.encode() for _, prefix, *_ in iban._ibandb.prefixes)  # noqa: SLF001


def _ipv4(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    if _goes_on(block, start, end) or (start and block[start - 1 : start] in {b".", b"-", b"/"}):
        return ()
    effort.checks -= _CHECKED
    if _AFTER_VERSION.search(block[max(0, start - 12) : start]):
        return ()
    if all(int(part) < _LEAST_TELLING for part in block[start:end].split(b".")):
        return ()
    return ((start, end),) if _is_public(block[start:end].decode()) else ()


def _ipv6(block: bytes, start: int, end: int, effort: Effort) -> Spans:
    end -= len(block[start:end]) - len(block[start:end].rstrip(b":"))
    effort.checks -= _CHECKED
    if _goes_on(block, start, end):
        return ()
    return ((start, end),) if _is_public(block[start:end].decode()) else ()


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _goes_on(block: bytes, start: int, end: int) -> bool:
    """Tell whether a number is the middle of a longer word or number."""
    before, after = block[start - 1 : start] if start else b"", block[end : end + 1]
    if before and (before[0] in _LETTER_OR_DIGIT):
        return True
    if after and after[0] in _LETTER_OR_DIGIT:
        return True
    return after in {b".", b"-", b"/"} and block[end + 1 : end + 2].isdigit()


def _by_check_digits(name: str) -> Check:
    def check(block: bytes, start: int, end: int, effort: Effort) -> Spans:
        effort.checks -= _CHECKED
        if _goes_on(block, start, end):
            return ()
        module = import_module(f"stdnum.{name}")
        return ((start, end),) if module.is_valid(block[start:end].decode(errors="ignore")) else ()

    return check
