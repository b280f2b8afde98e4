"""REST: tree heads and proofs, as who may read what they prove gets them."""

import asyncio
import json
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from cartrita.eventstore import Sequencer, append, new_id
from cartrita.eventstore.heads import Signing
from cartrita.eventstore.models import Log, OrderedEvent
from cartrita.eventstore.proofs import ConsistencyProof, InclusionProof
from cartrita.eventstore.signed_note import Checkpoint, VerifierKey, open_note
from tests.databases import Database
from tests.eventstore.happenings import happening
from tests.permissions.world import World, build

WRONG = [
    ("inclusion/0", 404, "event_missing", "position"),
    ("inclusion/99999999999999999999999", 404, "event_missing", "position"),
    ("inclusion/{position}?size=x", 400, "bad_input", "size"),
    ("inclusion/{position}?size=99999999", 404, "proof_out_of_range", "size"),
    ("inclusion/{position}?size=1", 404, "proof_out_of_range", "position"),
    ("consistency", 400, "bad_input", "first"),
    ("consistency?first=0", 400, "bad_input", "first"),
    ("consistency?first=2&second=1", 404, "proof_out_of_range", "second"),
    ("consistency?first=1&second=9007199254740991", 404, "proof_out_of_range", "second"),
]


def grow(count: int = 1) -> None:
    append(happening(new_id(), count=count))
    asyncio.run(Sequencer().order())


@pytest.fixture
def world(database: Database) -> World:
    made = build()
    grow(300)
    assert Signing().sign(pause=0) is not None
    return made


def newest(client: Client) -> Checkpoint:
    note = str(get(client, "/api/v2/log/head")["checkpoint"])
    return Checkpoint.parse(note.partition("\n\n")[0] + "\n")


def get(client: Client, path: str, status: int = 200) -> dict[str, object]:
    answer = client.get(path)
    assert answer.status_code == status, answer.content
    return dict(answer.json())


class TestProofs:
    def test_prove_an_event_to_a_head_that_its_keys_verify(self, world: World) -> None:
        owner = world.client("owner")
        head = get(owner, "/api/v2/log/head")
        keys = [VerifierKey.parse(key) for key in head["verifier_keys"]]  # type: ignore[attr-defined]
        checkpoint = Checkpoint.parse(open_note(str(head["checkpoint"]), keys).text)
        position = world.things["position"]
        proof = InclusionProof.from_dict(get(owner, f"/api/v2/log/inclusion/{position}"))
        assert proof.proves(checkpoint.root)
        assert proof.leaf == bytes(OrderedEvent.objects.get(position=position).leaf)

    def test_prove_that_the_log_grew(self, world: World) -> None:
        owner = world.client("owner")
        before = Checkpoint.parse(
            str(get(owner, "/api/v2/log/head")["checkpoint"]).partition("\n\n")[0] + "\n"
        )
        grow(7)
        Signing().sign(pause=0)
        after = Checkpoint.parse(
            str(get(owner, "/api/v2/log/head")["checkpoint"]).partition("\n\n")[0] + "\n"
        )
        found = get(owner, f"/api/v2/log/consistency?first={before.size}")
        assert ConsistencyProof.from_dict(found).proves(before.root, after.root)

    def test_are_given_to_readers_of_the_event_alone(self, world: World) -> None:
        in_session = world.things["position"]
        without = Log.objects.filter(workspace_id=world.things["workspace_id"], session_id=None).first()
        assert without is not None
        for caller, session, workspace in (
            ("owner", 200, 404),
            ("admin", 200, 200),
            ("auditor", 200, 200),
            ("reviewer", 404, 404),
            ("admin_elsewhere", 404, 404),
        ):
            get(world.client(caller), f"/api/v2/log/inclusion/{in_session}", session)
            get(world.client(caller), f"/api/v2/log/inclusion/{without.position}", workspace)

    def test_name_what_is_wrong(self, world: World, subtests: pytest.Subtests) -> None:
        for path, status, code, field in WRONG:
            with subtests.test(path):
                found = get(world.client("owner"), "/api/v2/log/" + path.format(**world.things), status)
                assert (found["code"], found["field"]) == (code, field)


class TestCommand:
    def test_prints_what_verifies(self, world: World) -> None:
        event = OrderedEvent.objects.get(position=200)
        note, by_position, by_id, growth = StringIO(), StringIO(), StringIO(), StringIO()
        call_command("proof", "head", stdout=note)
        call_command("proof", "inclusion", "200", stdout=by_position)
        call_command("proof", "inclusion", str(event.event_id), stdout=by_id)
        call_command("proof", "consistency", "3", stdout=growth)
        assert by_position.getvalue() == by_id.getvalue()
        root = Checkpoint.parse(note.getvalue().partition("\n\n")[0] + "\n").root
        assert InclusionProof.from_dict(json.loads(by_id.getvalue())).proves(root)
        assert ConsistencyProof.from_dict(json.loads(growth.getvalue())).first == 3

    def test_says_what_is_wrong(self, world: World) -> None:
        for arguments, problem in (
            (("inclusion", "x"), r"POSITION \(or an event's id\) must be a whole number"),
            (("inclusion", str(uuid4())), "No event has the id"),
            (("inclusion", "99999"), "Position 99999 is not among the"),
            (("inclusion", "1", "--size", "0"), "--size must be a whole number"),
            (("consistency", "9", "3"), "There is no proof from size 9 to size 3"),
            (("head", "--size", "1"), "No tree head of 1 positions was signed"),
        ):
            with pytest.raises(CommandError, match=problem):
                call_command("proof", *arguments)

    def test_tells_of_events_without_position_or_head(self, world: World) -> None:
        (recorded,) = append(happening(new_id()))
        with pytest.raises(CommandError, match="has no position yet"):
            call_command("proof", "inclusion", str(recorded.event_id))
        asyncio.run(Sequencer().order())
        with pytest.raises(CommandError, match="No signed tree head holds position"):
            call_command("proof", "inclusion", str(recorded.event_id))
