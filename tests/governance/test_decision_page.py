"""What leaves with a decision: its capsule, its proof, a file of many, and the heads that sign it all."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.test import Client

from cartrita.eventstore import erase_subject
from cartrita.eventstore.models import Event, TreeHead
from governance.capsules import redecide_capsule
from governance.exports import DataExported
from governance.models import PolicyDecision
from governance.step import take_step
from tests.accounts.people import someone
from tests.databases import Database
from tests.governance.consoles import guardian
from tests.governance.policies import rule
from tests.governance.steps import Place, settled
from tests.verify.conftest import SignAll, sign_all

__all__ = ["sign_all"]

pytestmark = pytest.mark.flow

VERIFY = Path(sys.executable).with_name("cartrita-verify")
SECRET = "quercetalpine"


@pytest.fixture
def place(sign_all: SignAll) -> Place:
    made = Place()
    made.follows(rule("ok", "allow"), rule("no-mail", "deny", 'tool.name == "send_mail"'))
    return made


def decide(place: Place, tool: str = "calculate", **more: Any) -> UUID:
    act = place.act(tool, arguments={"expression": SECRET}, **more)
    (decided,) = take_step(context=place.context, acts=[act])
    if decided.permit is not None:
        take_step(context=place.context, settlements=[settled(act.decision_id)])
    return act.decision_id


def verified(
    tmp_path: Path, content: bytes, keys: list[str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed program on a downloaded file, in an environment without anything of Cartrita."""
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "keys").write_text("\n".join(keys))
    return subprocess.run(
        [VERIFY, "file", "--key", "keys", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )


def auditor(place: Place) -> Client:
    return guardian(place.workspace_id, "auditor").client


def exports() -> list[tuple[str, int]]:
    rows = Event.objects.filter(type=DataExported.type_name).order_by("recorded_at")
    return [(data["what"], data["rows"]) for data in (json.loads(bytes(row.data)) for row in rows)]


class TestTheCapsuleOfTheConsole:
    def test_is_verified_by_the_installed_program_and_decided_again(
        self, place: Place, sign_all: SignAll, tmp_path: Path
    ) -> None:
        decision_id, keys = decide(place), sign_all()
        answer = auditor(place).get(f"/admin/governance/policydecision/{decision_id}/capsule/")
        assert answer.status_code == 200
        assert answer["Content-Disposition"] == f'attachment; filename="decision-{decision_id}.json"'
        assert SECRET.encode() not in answer.content
        done = verified(tmp_path, answer.content, keys)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Verified: decision capsule" in done.stdout
        assert "decided: allow by ok" in done.stdout
        again = redecide_capsule(answer.content)
        assert (again.decision_id, again.same) == (decision_id, True)
        assert exports() == [("decision capsules", 1)]

    def test_changed_by_a_byte_is_not_verified(self, place: Place, sign_all: SignAll, tmp_path: Path) -> None:
        decision_id, keys = decide(place), sign_all()
        content = auditor(place).get(f"/admin/governance/policydecision/{decision_id}/capsule/").content
        done = verified(tmp_path, content.replace(b'\\"allow\\"', b'\\"audit\\"', 1), keys)
        assert done.returncode == 1
        assert "NOT VERIFIED: edit" in done.stdout + done.stderr

    def test_is_offered_on_the_page_and_closed_to_others(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place)
        sign_all()
        address = f"/admin/governance/policydecision/{decision_id}/capsule/"
        assert address in auditor(place).get(address.replace("capsule", "change")).content.decode()
        assert guardian(Place().workspace_id, "auditor").client.get(address).status_code == 404
        assert guardian(place.workspace_id).client.get(address).status_code in {403, 404}
        assert exports() == []


class TestTheProofOnThePage:
    def test_says_what_is_verified(self, place: Place, sign_all: SignAll) -> None:
        decision_id = decide(place)
        (key,) = sign_all()
        page = self.page(place, decision_id)
        size = TreeHead.objects.latest("size").size
        assert f"Verified up to the signed head of {size} events" in page
        assert "decided: allow by ok" in page
        assert key.rpartition("+")[0] in page

    def test_says_that_no_head_covers_it_yet(self, place: Place, settings: Any) -> None:
        decision_id = decide(place)
        assert "Not proven yet:" in self.page(place, decision_id)

    def test_says_that_it_was_altered(self, place: Place, sign_all: SignAll, database: Database) -> None:
        decision_id = decide(place)
        sign_all()
        with psycopg.connect(database.superuser_url) as intruder:
            intruder.execute("alter table event disable trigger append_only")
            intruder.execute("update event set actor = 'user:x' where stream_id = %s", [decision_id])
        page = self.page(place, decision_id)
        assert "NOT VERIFIED:" in page
        assert "is not the one that was ordered" in page

    def page(self, place: Place, decision_id: UUID) -> str:
        answer = auditor(place).get(f"/admin/governance/policydecision/{decision_id}/change/")
        assert answer.status_code == 200
        return answer.content.decode()


class TestDecidingAgain:
    def test_gives_the_verdict_that_was_recorded(self, place: Place) -> None:
        decision_id = decide(place, "send_mail")
        page = auditor(place).get(f"/admin/governance/policydecision/{decision_id}/again/").content.decode()
        assert "The verdict is the same." in page
        client = someone(workspace_id=place.workspace_id, roles=("member", "auditor")).program("read")
        answer = client.get(f"/api/v2/decisions/{decision_id}/again").json()
        assert (answer["same"], answer["now"]) == (True, answer["recorded"])
        assert (answer["now"]["outcome"], answer["now"]["rules"]) == (
            "deny",
            {"ok": "matched", "no-mail": "matched"},
        )

    def test_says_that_the_input_is_erased(self, place: Place) -> None:
        decision_id = decide(place)
        erase_subject(place.user_id)
        assert auditor(place).get(f"/admin/governance/policydecision/{decision_id}/again/").status_code == 409
        client = someone(workspace_id=place.workspace_id, roles=("member", "auditor")).program("read")
        answer = client.get(f"/api/v2/decisions/{decision_id}/again")
        assert (answer.status_code, answer.json()["code"]) == (400, "not_redecidable")


class TestRest:
    def test_gives_the_capsule_to_those_who_look_after_the_workspace(
        self, place: Place, sign_all: SignAll, tmp_path: Path
    ) -> None:
        decision_id, keys = decide(place), sign_all()
        reader = someone(workspace_id=place.workspace_id, roles=("member", "auditor")).program("read")
        answer = reader.get(f"/api/v2/decisions/{decision_id}/capsule")
        assert verified(tmp_path, answer.content, keys).returncode == 0
        member = someone("m@example.org", workspace_id=place.workspace_id).program("read")
        assert member.get(f"/api/v2/decisions/{decision_id}/capsule").status_code == 403
        other = someone("o@example.org", roles=("member", "auditor")).program("read")
        assert other.get(f"/api/v2/decisions/{decision_id}/capsule").status_code == 404
        assert exports() == [("decision capsules", 1)]

    def test_gives_a_file_of_decisions_that_no_spreadsheet_takes_for_formulas(self, place: Place) -> None:
        decide(place, "=1+1")
        decide(place, "@sum")
        client = someone(workspace_id=place.workspace_id, roles=("member", "auditor")).program("read")
        answer = client.get("/api/v2/decisions/export?outcome=allow")
        assert answer["Content-Type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
        assert sorted(row["tool_name"] for row in rows) == ["'=1+1", "'@sum"]
        assert SECRET not in answer.content.decode()
        assert exports() == [("decisions", 2)]
        assert client.get("/api/v2/decisions/export?since=2026-01-01").status_code == 400
        until = PolicyDecision.objects.earliest("created_at").created_at.isoformat().replace("+00:00", "Z")
        nothing = client.get(f"/api/v2/decisions/export?until={until}")
        assert len(nothing.content.decode("utf-8-sig").splitlines()) == 1


class TestSignedHeads:
    def test_are_listed_newest_first_and_can_be_taken_along(
        self, place: Place, sign_all: SignAll, tmp_path: Path
    ) -> None:
        decide(place)
        sign_all()
        decision_id = decide(place)
        keys = sign_all()
        client = auditor(place)
        heads = [head.size for head in TreeHead.objects.order_by("-size")]
        page = client.get("/admin/eventstore/treehead/").content.decode()
        places = [page.index(f"/admin/eventstore/treehead/{size}/change/") for size in heads]
        assert places == sorted(places)
        assert len(places) > 1
        one = client.get(f"/admin/eventstore/treehead/{heads[0]}/change/").content.decode()
        assert f"/admin/eventstore/treehead/{heads[0]}/checkpoint/" in one
        kept = client.get(f"/admin/eventstore/treehead/{heads[0]}/checkpoint/")
        assert kept["Content-Type"] == "text/plain; charset=utf-8"
        (tmp_path / "kept").write_bytes(kept.content)
        capsule = client.get(f"/admin/governance/policydecision/{decision_id}/capsule/").content
        done = verified(tmp_path, capsule, keys, "--head", "kept")
        assert done.returncode == 0, done.stdout + done.stderr
        assert client.get("/admin/eventstore/treehead/999999/checkpoint/").status_code == 404
        assert client.get(f"/admin/eventstore/treehead/{2**70}/checkpoint/").status_code == 404

    def test_are_closed_to_members(self, place: Place, sign_all: SignAll) -> None:
        sign_all()
        size = TreeHead.objects.latest("size").size
        member = guardian(place.workspace_id).client
        for address in ("", f"{size}/change/", f"{size}/checkpoint/"):
            assert member.get(f"/admin/eventstore/treehead/{address}").status_code in {302, 403}, address
