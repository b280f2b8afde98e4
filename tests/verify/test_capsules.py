"""Capsules of decisions, and deciding them again."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError
from pytest_django import Settings

from cartrita import verify
from cartrita.eventstore import Sequencer, erase_subject, load, new_id
from cartrita.eventstore.exports import NotVerified
from governance.capsules import NoDecision, decision_capsule, redecide_capsule
from governance.decision import NotRedecidable
from governance.step import take_step
from tests.governance.policies import rule
from tests.governance.steps import Place, settled
from tests.verify.conftest import SignAll
from tests.verify.made import OTHER_KEY, canonical
from tests.verify.test_exports import command, refused, trust

SECRET = "quercetalpine"
RULES = [
    rule("ok", "allow"),
    rule("no-long-code", "deny", "tool.name == 'python' && size(args.?code.orValue('')) > 5500"),
]


@pytest.fixture
def place(sign_all: SignAll) -> Place:
    made = Place()
    made.follows(*RULES)
    return made


def decide(place: Place, *, settle: bool = True, **more: Any) -> UUID:
    act = place.act(**more)
    (decided,) = take_step(context=place.context, acts=[act])
    if settle and decided.permit is not None:
        take_step(context=place.context, settlements=[settled(act.decision_id)])
    return act.decision_id


def altered(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    value = json.loads(content)
    change(value)
    return canonical(value)


class TestDecisionCapsule:
    def test_holds_input_policy_verdict_and_outcome(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place, arguments={"expression": SECRET})
        keys = sign_all()
        content = decision_capsule(decision_id)
        assert SECRET.encode() not in content
        report = verify.verify_capsule(content, trust(keys))
        decision = report.found["decision"]
        assert (decision["outcome"], decision["rule"], decision["settled"]) == ("allow", "ok", "succeeded")
        assert decision["matched"] == ["ok"]
        assert decision["not_matched"] == ["no-long-code"]
        assert "governance.DecisionMade.request" in json.loads(content)["decision"]["not_visible"]
        assert "no-long-code" in json.loads(content)["decision"]["policy_text"]

    def test_holds_the_blobs_of_large_input_as_ciphertext(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place, tool="python", arguments={"code": SECRET * 450})
        keys = sign_all()
        content = decision_capsule(decision_id)
        assert SECRET.encode() not in content
        assert len(json.loads(content)["decision"]["blobs"]) == 1
        report = verify.verify_capsule(content, trust(keys))
        assert report.found["decision"]["outcome"] == "deny"
        assert any("names the capsule's 1 blob" in line for line in report.not_shown)
        bare = decision_capsule(decision_id, with_blobs=False)
        assert len(bare) < len(content) - 7_000
        assert verify.verify_capsule(bare, trust(keys)).trusted

    def test_holds_only_what_is_signed(self, place: Place, sign_all: SignAll, settings: Settings) -> None:
        decision_id = decide(place, settle=False)
        keys = sign_all()
        take_step(context=place.context, settlements=[settled(decision_id)])
        asyncio.run(Sequencer().order())
        key, settings.SIGNING_KEY = settings.SIGNING_KEY, OTHER_KEY
        report = verify.verify_capsule(decision_capsule(decision_id), trust(keys))
        assert report.found["decision"]["settled"] is None
        # Where the process has the key it signs what is not signed yet.
        settings.SIGNING_KEY = key
        report = verify.verify_capsule(decision_capsule(decision_id), trust(keys))
        assert report.found["decision"]["settled"] == "succeeded"

    def test_every_flip_of_a_byte_is_found(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place)
        keys = trust(sign_all())
        content = decision_capsule(decision_id)
        for at in range(len(content)):
            flipped = bytearray(content)
            flipped[at] ^= 1 << at % 8
            with pytest.raises(verify.Fault):
                verify.verify_capsule(bytes(flipped), keys)


class TestRedecideCapsule:
    @pytest.mark.parametrize(
        "act",
        [
            {"arguments": {"expression": "1 + 1"}},
            {"tool": "python", "arguments": {"code": "x" * 5000}},
            {"tool": "python", "arguments": {"code": "x" * 6000}},
            {"arguments": {f"a{n}": "y" * 3000 for n in range(30)}},
            {"arguments": {"messages": [{"role": "user", "content": "y" * 3000} for _ in range(40)]}},
        ],
        ids=["small", "blob", "denied", "all-in-blob", "parts"],
    )
    def test_gives_the_same_verdict(self, place: Place, sign_all: SignAll, act: dict[str, Any]) -> None:
        decision_id = decide(place, **act)
        sign_all()
        again = redecide_capsule(decision_capsule(decision_id))
        assert again.same
        assert again.decision_id == decision_id
        assert again.now.outcome == ("deny" if len(act["arguments"].get("code", "")) > 5500 else "allow")

    def test_refuses_a_changed_capsule(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place)
        sign_all()
        content = decision_capsule(decision_id)
        laxer = altered(content, lambda value: value["decision"].update(policy_text="{}"))
        with pytest.raises(NotVerified, match="edit"):
            redecide_capsule(laxer)

    def test_needs_a_decision(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place)
        sign_all()
        content = altered(decision_capsule(decision_id), lambda value: value.update(decision=None))
        with pytest.raises(NoDecision):
            redecide_capsule(content)

    def test_says_that_erased_input_cannot_be_decided_again(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place, tool="python", arguments={"code": SECRET * 450})
        sign_all()
        before = decision_capsule(decision_id)
        erase_subject(place.user_id)
        keys = sign_all()
        after = decision_capsule(decision_id)
        assert json.loads(after)["decision"]["blobs"] == []
        for content in (before, after):
            assert SECRET.encode() not in content
            assert verify.verify_capsule(content, trust(keys)).trusted
            with pytest.raises(NotRedecidable, match="erased"):
                redecide_capsule(content)

    def test_says_that_blobs_are_missing(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place, tool="python", arguments={"code": "x" * 5000})
        sign_all()
        with pytest.raises(NotRedecidable, match="without blobs"):
            redecide_capsule(decision_capsule(decision_id, with_blobs=False))


class TestCapsuleCommand:
    def test_takes_a_decision_an_event_or_a_position(
        self, place: Place, sign_all: SignAll, tmp_path: Path
    ) -> None:
        decision_id = decide(place)
        (key,) = sign_all()
        made = load(decision_id)[0]
        out = tmp_path / "decision.json"
        command("capsule", decision_id, "--out", out)
        assert verify.main([str(out), "--key", key]) == verify.VERIFIED
        assert "decided again: allow by ok, as recorded" in command("capsule", "--redecide", out)
        said = json.loads(command("capsule", "--redecide", out, "--json", "--key", key))
        assert (said["same"], said["decision_id"]) == (True, str(decision_id))
        by_id = command("capsule", made.event_id)
        by_position = command("capsule", json.loads(by_id)["events"][0]["position"])
        assert by_id == by_position
        assert verify.verify_capsule(by_id.encode(), trust([key])).found["events"][0]["event_id"] == str(
            made.event_id
        )

    def test_says_what_it_cannot_find(self, place: Place, sign_all: SignAll, tmp_path: Path) -> None:
        decision_id = decide(place)
        assert "No tree head is signed yet" in refused("capsule", decision_id)
        assert "has no position yet" in refused("capsule", load(decision_id)[0].event_id)
        sign_all()
        assert "No event has the id" in refused("capsule", new_id())
        assert "neither an id (a UUID) nor a position" in refused("capsule", "x")
        assert "beyond the newest signed head" in refused("capsule", "999")
        assert "must be a whole number" in refused("capsule", "0")
        assert "either the ID" in refused("capsule")
        assert "either the ID" in refused("capsule", decision_id, "--redecide", tmp_path / "x")
        out = tmp_path / "there"
        out.write_text("mine")
        assert "File exists" in refused("capsule", decision_id, "--out", out)
        assert out.read_text() == "mine"
        assert "truncation" in refused("capsule", "--redecide", out)
        assert "No such file" in refused("capsule", "--redecide", tmp_path / "nowhere")

    def test_exits_with_three_where_the_input_is_erased(
        self, place: Place, sign_all: SignAll, tmp_path: Path
    ) -> None:
        decision_id = decide(place)
        sign_all()
        out = tmp_path / "decision.json"
        command("capsule", decision_id, "--out", out)
        erase_subject(place.user_id)
        with pytest.raises(CommandError) as caught:
            command("capsule", "--redecide", out)
        assert caught.value.returncode == 3
