"""What detectors find, where, in which time, and what is left when it is taken out."""

import random
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from json import dumps, loads
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governance.decide import DecisionRequest, RequestFacts
from governance.detectors import (
    HOLD_BACK,
    KINDS,
    LABELS,
    Holdback,
    detect,
    detection,
    detectors_version,
    finding,
    injection,
    kept_within,
    kinds_in,
    kinds_within,
    labels_of,
    personal,
    redacted,
    redacted_within,
    secrets,
    version,
)
from tests.governance.findings import LONG, ORDINARY, SECRETS, WITHIN, made, private_key

HITS = [*((kind, text) for kind, text, _ in WITHIN), *(("secret", make()) for make in SECRETS.values())]

characters = st.characters(codec="utf-8", exclude_characters="\0")
ordinary = st.text(characters, max_size=40) | st.sampled_from(ORDINARY)
found = st.sampled_from([text for _, text in HITS] + [private_key()])
texts = st.lists(ordinary | found, max_size=6).map(" ".join)
glued = st.lists(
    ordinary | found | st.sampled_from(["4", "@", "+", ":", "⟦email⟧", "-----"]), max_size=8
).map("".join)
kinds = st.sets(st.sampled_from([*KINDS, "*"]), min_size=1)


def signed_token(length: int) -> str:
    """Return a JWT about that long."""
    parts = [b'{"alg":"RS256"}', b'{"sub":"' + b"ab7" * (length // 4) + b'"}', bytes(range(64))]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class TestDetect:
    @pytest.mark.parametrize("detector", SECRETS)
    def test_finds_secrets_by_their_form(self, detector: str) -> None:
        secret = SECRETS[detector]()
        text = f"It is {secret} and no other."
        (one,) = [each for each in detect(text) if each.kind == "secret"]
        assert (text[one.start : one.end], one.kind, one.detector) == (secret, "secret", detector)

    @pytest.mark.parametrize(("kind", "text", "expected"), WITHIN, ids=[text for _, text, _ in WITHIN])
    def test_finds(self, kind: str, text: str, expected: str) -> None:
        assert expected in [text[each.start : each.end] for each in detect(text) if each.kind == kind]

    @pytest.mark.parametrize("name", ["RSA ", "OPENSSH ", "", "EC "])
    def test_finds_private_keys_from_end_to_end(self, name: str) -> None:
        key = private_key(name)
        text = f"before {key} after"
        spans = [text[each.start : each.end] for each in detect(text) if each.kind == "private-key"]
        assert spans == [key]

    def test_finds_a_private_key_that_was_cut_off(self) -> None:
        key = private_key().partition("-----END")[0]
        assert redacted(f"a {key}", ["private-key"]) == "a ⟦private-key⟧"

    @pytest.mark.parametrize("text", ORDINARY)
    def test_finds_nothing_in(self, text: str) -> None:
        assert [(each.detector, text[each.start : each.end]) for each in detect(text)] == []

    def test_finds_what_blocks_cut(self) -> None:
        for before in range(detection.BLOCK_BYTES - 30, detection.BLOCK_BYTES + 30, 3):
            text = "ä " * (before // 3) + "x" * (before % 3) + " jane.doe@example.com." + " word" * 500
            (one,) = detect(text)
            assert text[one.start : one.end] == "jane.doe@example.com"

    @pytest.mark.parametrize("beside", [" ", '"', "\n", ","])
    def test_cuts_no_long_token_in_two(self, beside: str) -> None:
        for token in (signed_token(600), signed_token(2500), f"sk-ant-{LONG * 60}"):
            for before in range(detection.BLOCK_BYTES - len(token) - 20, detection.BLOCK_BYTES + 20, 97):
                filled = ("some words " * detection.BLOCK_BYTES)[:before]
                text = f"{filled}{beside}{token}{beside}{'x' * 2000} more words"
                (one,) = [each for each in detect(text) if each.kind == "secret"]
                assert text[one.start : one.end] == token

    def test_finds_private_keys_behind_invisible_and_wide_characters(self) -> None:
        key = private_key()
        wide = "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in key)
        for written in ("\u200b".join(key), wide):
            text = f"before {written} after"
            assert text[7:-6] in [text[each.start : each.end] for each in detect(text)]
            assert "private-key" in kinds_in(text)

    def test_takes_the_whole_of_a_token_that_is_longer_than_usual(self) -> None:
        token = "ghp_" + made(60)
        assert redacted(f"{token} x", ["secret"]) == "⟦secret⟧ x"

    def test_uses_every_format_of_its_library(self) -> None:
        named = {each.name for each in secrets.detectors()}
        assert len(named) > 30
        assert {"AWSKey", "AzureStorageKey", "Cloudant", "DiscordBotToken", "GitLabToken"} <= named
        assert all(each.regexp.search(b"") is None for each in secrets.detectors())

    @given(texts | glued)
    @settings(max_examples=150, deadline=None)
    def test_gives_exact_places_in_order(self, text: str) -> None:
        findings = detect(text)
        assert list(findings) == sorted(findings)
        assert findings == detect(text)
        for one in findings:
            assert 0 <= one.start < one.end <= len(text)
            assert one.kind in KINDS
        for kind in KINDS:
            ends = [(one.start, one.end) for one in findings if one.kind == kind]
            assert all(before[1] <= after[0] for before, after in pairwise(ends))

    @given(st.lists(found, min_size=1, max_size=4), st.lists(ordinary, min_size=5, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_finds_the_same_whatever_stands_in_the_next_paragraph(
        self, hits: Sequence[str], between: Sequence[str]
    ) -> None:
        text = "\n\n".join(part for pair in zip(between, hits, strict=False) for part in pair)
        assert kinds_in(text) >= {kind for hit in hits for kind in kinds_in(hit)} - {"hidden", "injection"}

    def test_takes_lone_surrogates_and_nulls(self) -> None:
        assert redacted("\ud800 a@b.co \0", ["email"]) in {"\ud800 a@b.co \0", "\ud800 ⟦email⟧ \0"}

    @pytest.mark.parametrize("value", ["a1B2c3D4\ud800é", "a1B2c3\ud800D4xyz99", "a1B2\ud800\udc00é9Zz"])
    def test_takes_values_with_lone_surrogates_as_a_whole(self, value: str) -> None:
        assert redacted(f"é password: {value} é", ["secret"]) == "é password: ⟦secret⟧ é"

    @pytest.mark.parametrize("end", ["\n", "\t", "\r\n"])
    @pytest.mark.parametrize("text", ["sk-ant-" + LONG, "4111111111111111", "DE89370400440532013000"])
    def test_finds_what_stands_behind_an_escape_of_json(self, text: str, end: str) -> None:
        written = dumps({"out": f"Here:{end}{text}"})
        assert kinds_in(text)
        assert kinds_in(written) == kinds_in(text)
        assert loads(redacted(written, ["*"]))["out"].startswith(f"Here:{end}⟦")


HOSTILE = [
    "a@b.co ",
    "a.b-c_d+e@",
    "+491512345678 ",
    "tel 030 901820 ",
    "4111 1111 1111 1111 ",
    "1 ",
    "DE89370400440532013000",
    "GB82 ",
    "8.8.8.8.",
    "2001:",
    "-----BEGIN RSA PRIVATE" + " KEY-----",
    "password: a1b2c3 ",
    "eyJ",
    "eyJhbGciOi.",
    "//a/:_authToken=",
    "://a:a@",
    "ignore all ",
    "ig\u200bnore ",
    "\u200b",
    "sk-",
    "aws key '",
    "x",
    "1-",
    "12-",
    "4111-",
    "4 4 4 4 4 444 ",
    "(212) 736-5000 ",
    "212-736-5000 ",
    "030 901820 ",
    "2001:db8::1 ",
    "api_key=aaaaaa1b ",
    "de12 3 4 5 ",
    "a@ä.ö.ü.example ",
    "\u202e ",
    "\u200b1 ",
]


def costs(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[finding.Effort, int]:
    """Return what it took to look at a text: effort, and bytes that were searched."""
    searched = Counter[str]()
    real = finding._found

    def counted(detector: Any, block: bytes, effort: finding.Effort) -> Any:
        searched["bytes"] += len(block)
        yield from real(detector, block, effort)

    monkeypatch.setattr(finding, "_found", counted)
    begun = finding.some_effort(len(text.encode()))
    effort = replace(begun)
    detect(text, effort)
    return finding.Effort(begun.checks - effort.checks, begun.matches - effort.matches), searched["bytes"]


class TestBounds:
    """Hostile texts cost work in proportion to their length: counted, not timed."""

    @pytest.mark.parametrize("piece", HOSTILE)
    def test_of_checks_and_searches(self, piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
        spent, searched = costs(piece * (1_000_000 // len(piece.encode())), monkeypatch)
        # Each detector looks at a text but once, and at what the blocks share, in the plain form of it too.
        assert searched <= 2.2 * 1_000_000 * 12
        # Units of a microsecond, for the matches and for what they are checked for; what is begun is ended.
        assert spent.checks <= 30_000 + 70_000 + 5_000
        assert spent.matches <= 30_000 + 60_000 + 5_000

    def test_of_all_that_is_hostile_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shuffled = random.Random(1)
        text = " ".join(shuffled.choice(HOSTILE) for _ in range(100_000))
        size = len(text.encode())
        spent, _ = costs(text, monkeypatch)
        assert spent.checks <= 30_000 + size * 0.07 + 5_000
        assert spent.matches <= 30_000 + size * 0.06 + 5_000

    @pytest.mark.parametrize("kind", ["email", "phone", "card", "iban", "ip", "secret", "hidden"])
    def test_let_nothing_through_that_is_behind_too_much(self, kind: str) -> None:
        """What is found in a text alone is found behind any number of others, and taken out."""
        for other, text, expected in WITHIN:
            if other != kind:
                continue
            filled = "".join(
                f"{piece}\n" * 12_000 for piece in ("a@b.co", "tel 030 901820", "8.8.8.8", "\u202e")
            )
            long = f"{filled}\n{text}\n"
            assert kind in {each.kind for each in detect(long) if each.end > len(filled)}
            assert expected not in redacted(long, [kind])

    def test_hold_for_all_texts_of_a_value_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        value = [{"text": f"tel 030 {number:06d} 4111 {number}"} for number in range(20_000)]
        size = sum(len(each["text"]) for each in value)
        spent = Counter[str]()
        real = finding._found

        def counted(detector: Any, block: bytes, effort: finding.Effort) -> Any:
            before = effort.checks + effort.matches
            yield from real(detector, block, effort)
            spent["all"] += before - effort.checks - effort.matches

        monkeypatch.setattr(finding, "_found", counted)
        assert kinds_within(value) >= {"phone"}
        assert spent["all"] <= 60_000 + size * 0.13 + 20_000 * 0.13 * 4 + 5_000
        spent.clear()
        told = redacted_within(value, ["phone"])
        assert spent["all"] <= 2 * (60_000 + size * 0.13 + 20_000 * 0.13 * 4 + 5_000)
        assert "phone" not in kinds_within(told)

    @pytest.mark.parametrize("piece", ["-----BEGIN PRIVATE" + " KEY-----#", "PuTTY-User-Key-File-1#"])
    def test_of_looking_for_the_ends_of_private_keys(
        self, piece: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ends = secrets._ENDS
        looked_at = []

        class Counted:
            def finditer(self, text: str) -> Any:
                looked_at.append(len(text))
                return ends.finditer(text)

        monkeypatch.setattr(secrets, "_ENDS", Counted())
        text = piece * 2000
        assert len(list(secrets.private_keys(text))) == 2000
        assert looked_at == [len(text)]

    def test_of_cards_that_a_long_row_of_digits_is_tried_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[str] = []
        monkeypatch.setattr(personal, "_is_card", tried.append)
        for piece in ("4 ", "41 ", "4111-"):
            tried.clear()
            text = piece * 10_000
            detect(text)
            assert len(tried) <= len(text)
            assert tried == [] or piece == "4111-"

    def test_are_kept_by_taking_further_matches_for_real(self) -> None:
        addresses = [f"a{number}@b.co" for number in range(2_500)]
        assert len([each for each in detect(" ".join(addresses)) if each.kind == "email"]) == len(addresses)
        # No address that can be, and yet found behind so many others.
        text = " ".join([*addresses, "x@-.-"])
        assert "x@-.-" not in redacted(text, ["email"])

    def test_are_kept_by_taking_whole_blocks_where_matches_are_too_many(self) -> None:
        addresses = "a@b.co " * 100_000
        found = detect(f"{addresses}and more words")
        assert len(found) < 20_000
        assert found[-1].end > len(addresses) - detection.BLOCK_BYTES
        assert "@" not in redacted(addresses, ["email"])


class TestRedacted:
    @pytest.mark.parametrize(("kind", "text", "expected"), WITHIN, ids=[text for _, text, _ in WITHIN])
    def test_puts_a_mark_there(self, kind: str, text: str, expected: str) -> None:
        assert f"⟦{kind}⟧" in redacted(text, [kind])
        assert expected not in redacted(text, [kind])

    def test_leaves_other_kinds(self) -> None:
        assert redacted("a@b.co 4111111111111111", ["card"]) == "a@b.co ⟦card⟧"

    @given(texts | glued, kinds)
    @example("password: a1b2c3d4 a@b.co", {"*"})
    @settings(max_examples=150, deadline=None)
    def test_changes_nothing_the_second_time(self, text: str, wanted: set[str]) -> None:
        once = redacted(text, wanted)
        assert redacted(once, wanted) == once
        left = kinds_in(once)
        assert left.isdisjoint(KINDS if "*" in wanted else wanted)

    @given(texts, kinds)
    @settings(max_examples=100, deadline=None)
    def test_keeps_all_else(self, text: str, wanted: set[str]) -> None:
        pieces = re.split(r"⟦[a-z-]+⟧", redacted(text, wanted))
        at = 0
        for piece in pieces:
            at = text.index(piece, at) + len(piece)

    def test_reaches_into_json(self) -> None:
        value = {"to": ["a@b.co"], "n": 3, "api_key": LONG, "id": "550e8400-e29b-41d4-a716-446655440000"}
        assert kinds_within(value) == {"email", "secret"}
        assert redacted_within(value, ["*"]) == {
            "to": ["⟦email⟧"],
            "n": 3,
            "api_key": "⟦secret⟧",
            "id": "550e8400-e29b-41d4-a716-446655440000",
        }


names = st.text(max_size=8) | st.sampled_from(
    ["phone", "tel", "api_key", "password", "pesel", *(text for _, text in HITS), "a@b.co", "c@d.co"]
)
numbers = (
    st.sampled_from([4111111111111111, 378282246310005, -5555555555554444, 30901820, 49308765432, 2.5, 0])
    | st.sampled_from([4111111111111111.5, 7569217076985])
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
)
json = st.recursive(
    st.none() | st.booleans() | numbers | texts | found,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(names, inside, max_size=4),
    max_leaves=12,
)


class TestRedactedWithin:
    @given(json, kinds)
    @example({"a@b.co": 1, "c@d.co": {"e@f.co": 2}}, {"email"})
    @example({"phone": 30901820, "phones": [{"tel": 30901820}]}, {"phone"})
    @example({"token": "ghp_" + LONG, "n": [4111111111111111]}, {"*"})
    @settings(max_examples=200, deadline=None)
    def test_leaves_nothing_of_its_kinds_in_texts_names_and_numbers(
        self, value: Any, wanted: set[str]
    ) -> None:
        told = redacted_within(value, wanted)
        gone = KINDS.keys() if "*" in wanted else wanted
        assert kinds_within(told).isdisjoint(gone)
        assert redacted_within(told, wanted) == told
        pending = [told]
        while pending:
            each = pending.pop()
            if isinstance(each, dict):
                pending += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                pending += each
            elif isinstance(each, str):
                assert detection.is_identifier(each) or kinds_in(each).isdisjoint(gone)
            elif each is not None:
                assert kinds_in(repr(each)).isdisjoint(gone)

    def test_covers_numbers_by_what_they_are_and_what_they_are_called(self) -> None:
        value = {"n": 4111111111111111, "phone": 30901820, "at": 1732300000000, "count": 30901820}
        assert kinds_within(value) == {"card", "phone"}
        assert kinds_within({"tel": ["30901820"], "text": "30901820"}) == {"phone"}
        assert redacted_within({"tel": ["30901820"], "text": "30901820"}, ["phone"]) == {
            "tel": ["⟦phone⟧"],
            "text": "30901820",
        }
        assert redacted_within(value, ["*"]) == {
            "n": "⟦card⟧",
            "phone": "⟦phone⟧",
            "at": 1732300000000,
            "count": 30901820,
        }

    def test_covers_names_and_counts_those_that_become_the_same(self) -> None:
        value = {"a@b.co": 1, "⟦email⟧": 2, "c@d.co": 3, "plain": 4}
        assert redacted_within(value, ["email"]) == {
            "⟦email⟧ 2": 1,
            "⟦email⟧": 2,
            "⟦email⟧ 3": 3,
            "plain": 4,
        }

    def test_covers_what_stands_in_a_list_under_a_telling_name(self) -> None:
        assert redacted_within({"api_keys": [LONG, "none"]}, ["secret"]) == {"api_keys": ["⟦secret⟧", "none"]}
        assert redacted_within({"dbPassword": LONG, "compass": LONG}, ["secret"]) == {
            "dbPassword": "⟦secret⟧",
            "compass": LONG,
        }

    def test_covers_what_looks_like_a_secret_once_something_else_is_out(self) -> None:
        told = redacted_within({"password": "_[/INST]tel DE89 3704 0044 0532 0130 000"}, ["*"])
        assert kinds_within(told) == frozenset()


class TestKeptWithin:
    def test_tells_what_names_and_numbers_hold(self) -> None:
        schema = {"properties": {"a@b.co": {"const": "4111111111111111"}}, "maximum": 378282246310005}
        assert kept_within(schema, ["*"]) == {"email", "card"}
        assert kept_within(schema, ["card"]) == {"card"}
        assert kept_within({"description": "a@b.co", "x": 1}, ["*"]) == frozenset()


class TestDetectorsVersion:
    def test_names_the_rules_and_every_library(self) -> None:
        told = detectors_version()
        assert told == detectors_version()
        assert len(told) < 200
        for name in ("rules", "detect-secrets", "email-validator", "phonenumberslite", "python-stdnum"):
            assert re.search(rf"\b{name} \d", told)

    def test_is_another_one_when_our_rules_are(self) -> None:
        """Raise RULES in `governance/detectors/version.py`, then write down the new hash here."""
        ours = [*personal.detectors(), *injection.detectors()]
        rules = [[each.name, each.kind, each.pattern, each.again] for each in ours]
        written = dumps([rules, secrets._OURS, secrets._ASSIGNED, sorted(KINDS)]).encode()
        assert (version.RULES, sha256(written).hexdigest()[:16]) == (3, "7285372daf049bf0")

    def test_is_recorded_with_the_requests_that_were_looked_at(self) -> None:
        facts = RequestFacts(workspace_id=UUID(int=1), at=datetime(2026, 11, 22, tzinfo=UTC))
        looked = DecisionRequest.about(facts, "tool_call", arguments={}, findings=frozenset())
        unseen = DecisionRequest.about(facts, "tool_call", arguments={})
        assert (looked.detectors, unseen.detectors) == (detectors_version(), "")
        # It is no part of what is decided on: requests of before, and their hashes, stay what they were.
        assert (looked.hash, looked.as_json) == (unseen.hash, unseen.as_json)
        assert DecisionRequest.from_json(looked.as_json) == looked
        assert looked.with_facts(labels=frozenset({"pii"})).detectors == detectors_version()


class TestLabelsOf:
    def test_are_those_of_the_kinds(self) -> None:
        assert labels_of(KINDS) == LABELS
        assert labels_of(["email", "national-id"]) == {"pii"}
        assert labels_of(["private-key"]) == {"secret"}
        assert labels_of(["hidden"]) == {"injection"}
        assert all(labels_of([kind]) for kind in KINDS)


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


# Orders to models may be longer than what is held back.
GUARDED = [text for kind, text in HITS if kind not in {"injection", "hidden"}] + [private_key()]


class TestHoldback:
    @given(
        st.lists(ordinary | st.sampled_from(GUARDED), max_size=5).map("\n".join),
        st.lists(st.integers(0, 90), max_size=60),
    )
    @settings(max_examples=200, deadline=None)
    def test_lets_no_character_of_a_finding_out_however_the_text_is_cut(
        self, text: str, sizes: Sequence[int]
    ) -> None:
        live = Holdback()
        out = ""
        stopped = False
        for piece in [*(live.add(each) for each in cut(text, sizes)), live.rest()]:
            stopped = stopped or bool(piece.kinds)
            if not stopped:
                out += piece.text
        assert text.startswith(out)
        first = [each.start for each in detect(text) if labels_of([each.kind]) != {"injection"}]
        if first:
            assert stopped
            assert len(out) <= min(first)
        elif not stopped:
            assert out == text

    @pytest.mark.parametrize("size", [1, 7, 64, 200])
    def test_holds_back_words_in_wide_letters_and_with_invisible_ones(self, size: int) -> None:
        token = signed_token(900)
        wide = "".join(chr(ord(each) + 0xFEE0) for each in token)
        for written in (wide, "\u200b".join(token), "\u00ad".join(token)):
            text = f"Here it is: {written} and some more words that go on behind it for a while, and longer."
            live = Holdback()
            out = ""
            for piece in [*(live.add(each) for each in cut(text, [size] * len(text))), live.rest()]:
                if piece.kinds:
                    break
                out += piece.text
            assert len(out) <= text.index(written)

    @given(st.text("abc \n", max_size=400), st.lists(st.integers(0, 9), max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_is_never_further_behind_than_a_word_and_64_characters(
        self, text: str, sizes: Sequence[int]
    ) -> None:
        live = Holdback()
        written = out = ""
        for each in cut(text, sizes):
            written += each
            out += live.add(each).text
            words = re.split(r"\s", written[: max(0, len(written) - HOLD_BACK)])
            assert len(written) - len(out) <= HOLD_BACK + len(words[-1])
        assert out + live.rest().text == text
