"""Documents that come in, and searches, under rules that let them pass, refuse them, or ask people."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone

from cartrita.errors import NotAllowed
from cartrita.eventstore import load, new_id
from cartrita.eventstore.erasure import erase_subject
from cartrita.eventstore.models import Blob
from governance.approval import ApprovalVoided, OwnRequest
from governance.commands import approvals
from governance.decision import ActSettled, DecisionMade
from governance.models import Approval, LabelSet, PolicyDecision
from governance.queries.decisions import recount, redecide_all
from governance.refusals import DeniedByPolicy, Throttled
from retrieval import ingest, models
from retrieval.commands import TooManyLabels, receive_document, remove_document
from retrieval.document import (
    DocumentFailed,
    DocumentHeld,
    DocumentReceived,
    DocumentReleased,
    RetrievalPerformed,
)
from retrieval.search import search
from sessions_app.commands import create_session
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import as_caller
from tests.governance.policies import rule
from tests.governance.steps import EVERY_KIND, Place

pytestmark = pytest.mark.flow

TEXT = b"# Fruit\n\nThe Zephyrine apple ripens in October."
SECRET = b"# Plans\n\nThe Zephyrine apple is sold to Atlantis in May."


def default() -> dict[str, Any]:
    return rule("default", "allow", match={"kinds": list(EVERY_KIND)}, priority=900)


def on_documents(outcome: str, condition: str | None = None, **more: Any) -> dict[str, Any]:
    return rule(f"{outcome}-documents", outcome, condition, match={"kinds": ["document"]}, **more)


def on_searches(outcome: str, condition: str | None = None, **more: Any) -> dict[str, Any]:
    return rule(f"{outcome}-searches", outcome, condition, match={"kinds": ["retrieval"]}, **more)


@pytest.fixture
def ann(database: Database, check_read_models: Callable[[], None]) -> Iterator[Person]:
    """Somebody who may approve too; afterwards read models, labels and verdicts are as their events say."""
    yield someone(roles=("member", "reviewer"))
    check_read_models()
    assert recount() == []
    assert redecide_all()[1] == []


@pytest.fixture
def rita(ann: Person) -> Person:
    return someone("rita@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


def follow(person: Person, *rules: dict[str, Any]) -> None:
    """Put these rules in force in the person's workspace, with one that lets the rest pass."""
    Place(workspace_id=person.workspace_id).follows(*rules, default())


def send(person: Person, content: bytes = TEXT, **more: Any) -> UUID:
    given: dict[str, Any] = {"title": "fruit.md", "media_type": "text/markdown", "actor": f"user:{person.id}"}
    return receive_document(
        workspace_id=person.workspace_id, owner_id=person.id, content=content, **{**given, **more}
    )


def approve(person: Person, approval_id: UUID) -> None:
    approvals.approve(approval_id=approval_id, caller=as_caller(person))


def in_thread(function: Callable[..., UUID], *arguments: Any) -> UUID:
    try:
        return function(*arguments)
    finally:
        connection.close()


def row_of(document_id: UUID) -> models.Document:
    return models.Document.objects.get(id=document_id)


def decision_on_search() -> UUID:
    return PolicyDecision.objects.get(subject_kind="retrieval").id


def approval_of(document_id: UUID) -> Approval:
    approval_id = row_of(document_id).approval_id
    assert approval_id is not None
    return Approval.objects.get(id=approval_id)


def events_of(stream_id: UUID) -> list[Any]:
    return [recorded.event for recorded in load(stream_id)]


def found_by(person: Person, session_id: UUID | None = None) -> set[UUID]:
    found = search("Zephyrine", workspace_id=person.workspace_id, session_id=session_id)
    return {hit.document_id for hit in found.hits}


class TestReceiveDocument:
    @pytest.mark.parametrize("outcome", ["allow", "audit"])
    def test_is_decided_and_settled_before_anything_is_read(self, ann: Person, outcome: str) -> None:
        follow(ann, on_documents(outcome))
        document_id = send(ann, labels=["orchard"])
        (received,) = events_of(document_id)
        made, settled = events_of(received.decision_id)
        assert isinstance(made, DecisionMade)
        assert isinstance(settled, ActSettled)
        assert (made.outcome, made.subject_kind, made.review) == (outcome, "document", outcome == "audit")
        assert made.request["roles"] == ["member", "reviewer"]
        assert made.request["arguments"] == {
            "title": "fruit.md",
            "media_type": "text/markdown",
            "bytes": len(TEXT),
            "labels": ["orchard"],
            "sha256": sha256(TEXT).hexdigest(),
        }
        ingest.process_pending()
        assert found_by(ann) == {document_id}

    def test_leaves_nothing_readable_of_an_erased_one(self, ann: Person) -> None:
        document_id = send(ann)
        erase_subject(ann.id)
        (received,) = events_of(document_id)
        made, _ = events_of(received.decision_id)
        assert (made.request, made.request_hash) == ({}, "")
        ingest.remove_erased()

    def test_is_denied_with_the_words_of_the_rule_and_recorded(self, ann: Person) -> None:
        follow(ann, on_documents("deny", message_for_people="No documents on Sundays."))
        blobs = Blob.objects.count()
        answer = post(ann.program())
        assert (answer.status_code, answer["Content-Type"]) == (403, "application/problem+json")
        said = answer.json()
        assert (said["code"], said["detail"]) == ("denied_by_policy", "No documents on Sundays.")
        decision_id: UUID | None = PolicyDecision.objects.get().id
        assert (said["rule"], decision_id) == (
            "deny-documents",
            UUID(said["decision_id"]),
        )
        assert not models.Document.objects.exists()
        assert Blob.objects.count() == blobs

    def test_is_denied_by_facts_of_the_document(self, ann: Person) -> None:
        follow(ann, on_documents("deny", "'pii' in args.labels || args.bytes > 100"))
        with pytest.raises(DeniedByPolicy):
            send(ann, labels=["pii"])
        with pytest.raises(NotAllowed):
            send(ann, TEXT * 10)
        send(ann)

    def test_waits_its_turn(self, ann: Person) -> None:
        follow(ann, on_documents("throttle", parameters={"rate": "1/hour", "per": "user"}))
        send(ann)
        answer = post(ann.program(), b"Another text.")
        assert (answer.status_code, answer.json()["code"]) == (429, "throttled")
        assert 3500 < int(answer["Retry-After"]) <= 3600
        with pytest.raises(Throttled):
            send(ann, b"Another text.")
        assert models.Document.objects.count() == 1

    def test_keeps_the_same_content_once_without_another_decision(self, ann: Person) -> None:
        assert send(ann) == send(ann)
        assert PolicyDecision.objects.count() == 1

    def test_is_kept_once_when_it_comes_several_times_at_once(self, ann: Person, rita: Person) -> None:
        for number, outcome in enumerate(("allow", "escalate")):
            follow(ann, on_documents(outcome))
            content = b"The Zephyrine apple, sort %d." % number
            with ThreadPoolExecutor(4) as pool:
                ids = {*pool.map(lambda _, content=content: in_thread(send, ann, content), range(4))}
            (document_id,) = ids
        assert not PolicyDecision.objects.filter(decision="allow", act_outcome="").exists()
        assert [row.id for row in Approval.objects.filter(status="waiting")] == [approval_of(document_id).id]

    def test_of_the_system_is_decided_too(self, ann: Person) -> None:
        follow(ann, on_documents("deny", "actor == 'system'"))
        with pytest.raises(DeniedByPolicy):
            send(ann, actor="system", document_id=new_id())


class TestHeldDocument:
    @pytest.fixture
    def held(self, ann: Person, rita: Person) -> UUID:
        follow(ann, on_documents("escalate"))
        document_id = send(ann)
        ingest.process_pending()
        return document_id

    def test_is_neither_read_nor_found(self, ann: Person, held: UUID) -> None:
        client = ann.program()
        entry = client.get(f"/api/v2/documents/{held}").json()
        assert (entry["status"], entry["approval_id"]) == ("held", str(row_of(held).approval_id))
        text = client.get(f"/api/v2/documents/{held}/text?start=0&end=5")
        assert (text.status_code, "held" in text.json()["detail"]) == (400, True)
        assert found_by(ann) == set()
        assert not models.Chunk.objects.exists()
        # The same content again asks nobody again.
        assert (post(client).json()["id"], post(client).json()["status"]) == (str(held), "held")
        assert Approval.objects.count() == 1

    def test_is_read_when_a_second_person_has_approved_it(
        self, ann: Person, rita: Person, held: UUID
    ) -> None:
        approval_id = approval_of(held).id
        with pytest.raises(OwnRequest):
            approve(ann, approval_id)
        ingest.process_pending()
        assert row_of(held).status == "held"
        approve(rita, approval_id)
        ingest.process_pending()
        assert [type(event) for event in events_of(held)[:3]] == [
            DocumentReceived,
            DocumentHeld,
            DocumentReleased,
        ]
        assert (row_of(held).status, found_by(ann)) == ("ready", {held})
        released = events_of(held)[2]
        made, settled = events_of(released.decision_id)
        assert (made.outcome, made.grants, made.actor) == ("allow", (approval_id,), f"user:{ann.id}")
        assert settled.outcome == "succeeded"
        assert approval_of(held).status == "used"

    def test_fails_when_it_is_denied_and_may_be_sent_again(
        self, ann: Person, rita: Person, held: UUID
    ) -> None:
        approvals.deny(approval_id=approval_of(held).id, caller=as_caller(rita), text="Ann's diary, no.")
        ingest.process_pending()
        failed = events_of(held)[-1]
        assert isinstance(failed, DocumentFailed)
        assert (failed.stage, failed.code, failed.message) == (
            "policy",
            "approval_denied",
            "A reviewer said no.",
        )
        again = send(ann)
        assert again != held
        assert row_of(again).status == "held"

    def test_fails_when_nobody_approves_it_in_time(self, ann: Person, held: UUID) -> None:
        approvals.expire_due(timezone.now() + timedelta(days=2))
        ingest.process_pending()
        row = row_of(held)
        assert (row.status, row.error_code) == ("failed", "approval_expired")

    def test_fails_when_another_rule_denies_it_by_then(self, ann: Person, rita: Person, held: UUID) -> None:
        approve(rita, approval_of(held).id)
        follow(ann, on_documents("escalate"), on_documents("deny", message_for_people="Not any more."))
        ingest.process_pending()
        row = row_of(held)
        assert (row.status, row.error_code, row.error_message) == (
            "failed",
            "denied_by_policy",
            "Not any more.",
        )
        voided = events_of(approval_of(held).id)[-1]
        assert isinstance(voided, ApprovalVoided)
        assert (voided.cause, voided.detail) == ("not_covered", "deny-documents")

    def test_is_asked_for_anew_when_the_rule_changed(self, ann: Person, rita: Person, held: UUID) -> None:
        first = approval_of(held).id
        approve(rita, first)
        follow(ann, on_documents("escalate", parameters={"approvers": ["reviewer"]}))
        ingest.process_pending()
        assert row_of(held).status == "held"
        assert Approval.objects.get(id=first).void_cause == "rule_changed"
        second = approval_of(held).id
        assert second != first
        approve(rita, second)
        ingest.process_pending()
        assert row_of(held).status == "ready"

    def test_goes_on_by_itself_when_no_rule_asks_any_more(
        self, ann: Person, rita: Person, held: UUID
    ) -> None:
        approval_id = approval_of(held).id
        approve(rita, approval_id)
        follow(ann)
        ingest.process_pending()
        assert row_of(held).status == "ready"
        assert Approval.objects.get(id=approval_id).void_cause == "rule_changed"

    def test_waits_its_turn_with_its_grant(self, ann: Person, rita: Person, held: UUID) -> None:
        slow = on_documents("throttle", parameters={"rate": "4/second", "burst": 1, "per": "workspace"})
        follow(ann, on_documents("escalate"), slow)
        other = send(ann, b"Another text.")
        approval_ids = [approval_of(held).id, approval_of(other).id]
        for approval_id in approval_ids:
            approve(rita, approval_id)
        ingest.process_pending()
        first, second = sorted((held, other), key=lambda one: row_of(one).status == "held")
        assert row_of(first).status == "ready"
        while row_of(second).status == "held":
            assert row_of(second).retry_after is not None
            ingest.process_pending()
        assert {Approval.objects.get(id=one).status for one in approval_ids} == {"used"}
        assert row_of(second).status == "ready"

    def test_takes_its_request_with_it_when_it_is_removed(self, ann: Person, held: UUID) -> None:
        approval_id = approval_of(held).id
        remove_document(document_id=held, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
        assert Approval.objects.get(id=approval_id).void_cause == "cancelled"
        ingest.process_pending()
        assert row_of(held).status == "removed"

    def test_is_removed_when_its_key_is_destroyed(self, ann: Person, rita: Person, held: UUID) -> None:
        approve(rita, approval_of(held).id)
        erase_subject(ann.id)
        ingest.process_pending()
        assert row_of(held).status == "removed"


class TestSearch:
    def test_adds_the_labels_of_all_candidates_to_session_and_person(self, ann: Person) -> None:
        follow(ann)
        session_id = create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
        send(ann, labels=["orchard"])
        send(ann, b"Taxes are paid in May.", labels=["pii"], session_id=session_id)
        ingest.process_pending()
        found = ask(ann.program(), session_id=str(session_id)).json()
        made, settled = events_of(decision_on_search())
        assert made.request["labels"] == ["orchard", "pii"]
        assert made.possible_labels == ("orchard", "pii", "untrusted")
        assert settled.outcome == "succeeded"
        for subject in (f"session:{session_id}", f"user:{ann.id}"):
            assert {*LabelSet.objects.get(subject=subject).labels} == {"orchard", "pii", "untrusted"}
        assert isinstance(events_of(UUID(found["retrieval_id"]))[0], RetrievalPerformed)

    def test_is_denied_with_the_words_of_the_rule(self, ann: Person) -> None:
        follow(ann, on_searches("deny", "'pii' in labels", message_for_people="Not in personal data."))
        send(ann, labels=["pii"])
        answer = ask(ann.program())
        assert (answer.status_code, answer.json()["code"]) == (403, "denied_by_policy")
        assert answer.json()["detail"] == "Not in personal data."
        assert not LabelSet.objects.filter(labels__has_key="pii").exists()

    def test_waits_its_turn(self, ann: Person) -> None:
        follow(ann, on_searches("throttle", parameters={"rate": "1/hour", "per": "user"}))
        client = ann.program()
        assert ask(client).status_code == 200
        answer = ask(client)
        assert (answer.status_code, answer.json()["code"]) == (429, "throttled")
        assert 3500 < int(answer["Retry-After"]) <= 3600

    def test_works_once_the_same_request_is_approved(self, ann: Person, rita: Person) -> None:
        follow(ann, on_searches("escalate"))
        document_id = send(ann)
        ingest.process_pending()
        client = ann.program()
        answer = ask(client)
        assert (answer.status_code, answer.json()["code"]) == (403, "approval_needed")
        # Who asks again meanwhile asks nobody anew.
        assert ask(client).json()["approval_id"] == answer.json()["approval_id"]
        approve(rita, UUID(answer.json()["approval_id"]))
        assert ask(client, query="Something else").json()["code"] == "approval_needed"
        (hit,) = ask(client).json()["hits"]
        assert hit["document_id"] == str(document_id)
        # The grant was for once.
        assert ask(client).json()["code"] == "approval_needed"

    def test_finds_nothing_in_what_is_left_out(self, ann: Person) -> None:
        follow(ann, on_searches("audit", parameters={"leave_out": ["restricted"]}))
        shown = send(ann, labels=["orchard"])
        send(ann, SECRET, labels=["restricted", "pii"])
        ingest.process_pending()
        hits = ask(ann.program()).json()["hits"]
        assert {hit["document_id"] for hit in hits} == {str(shown)}
        made, settled = events_of(decision_on_search())
        assert (made.left_out, made.left_out_documents) == (("restricted",), 1)
        assert made.request["labels"] == ["orchard", "pii", "restricted"]
        assert made.possible_labels == settled.labels_added == ("orchard", "untrusted")
        assert {*LabelSet.objects.get(subject=f"user:{ann.id}").labels} == {"orchard", "untrusted"}

    def test_leaves_restricted_documents_to_reviewers_in_the_starter_policy(self, ann: Person) -> None:
        shown, restricted = send(ann), send(ann, SECRET, labels=["restricted"])
        ingest.process_pending()
        member = someone("bob@example.org", workspace_id=ann.workspace_id)
        for person, seen in ((member, {shown}), (ann, {shown, restricted})):
            hits = ask(person.program()).json()["hits"]
            assert {UUID(hit["document_id"]) for hit in hits} == seen

    def test_finds_nothing_with_labels_that_nobody_decided_on(self, ann: Person) -> None:
        plain, late = send(ann), send(ann, SECRET, labels=["late"])
        ingest.process_pending()
        for within, seen in (((), {plain}), (("late",), {plain, late}), (None, {plain, late})):
            found = search("Zephyrine", workspace_id=ann.workspace_id, within_labels=within)
            assert {hit.document_id for hit in found.hits} == seen

    def test_decides_nothing_about_wrong_input(self, ann: Person) -> None:
        assert ask(ann.program(), query=" ").status_code == 400
        assert not PolicyDecision.objects.exists()

    def test_that_was_approved_for_one_person_does_not_pass_for_another(
        self, ann: Person, rita: Person
    ) -> None:
        follow(ann, on_searches("escalate"))
        mia = someone("mia@example.org", workspace_id=ann.workspace_id).program()
        client = ann.program()
        approve(rita, UUID(ask(client).json()["approval_id"]))
        assert ask(mia).json()["code"] == "approval_needed"
        assert ask(client).status_code == 200


class TestReading:
    """The text over REST, and the page that citations lead to."""

    @pytest.fixture
    def document_id(self, ann: Person) -> UUID:
        follow(ann)
        document_id = send(ann, SECRET, labels=["secret"])
        ingest.process_pending()
        return document_id

    def test_adds_the_labels_to_session_and_person(self, ann: Person, document_id: UUID) -> None:
        for read in (text_of, page_of):
            session_id = create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
            assert read(ann, document_id, session_id).status_code == 200
            made, settled = events_of(PolicyDecision.objects.get(session_id=session_id).id)
            assert (made.tool, made.request["labels"]) == ("read_document", ["secret"])
            assert made.request["arguments"] == {
                "document_id": str(document_id),
                "start": 0,
                "end": 7 if read is text_of else row_of(document_id).characters,
            }
            assert (settled.outcome, settled.labels_added) == ("succeeded", ("secret", "untrusted"))
            for subject in (f"session:{session_id}", f"user:{ann.id}"):
                assert {*LabelSet.objects.get(subject=subject).labels} == {"secret", "untrusted"}

    def test_is_denied_with_the_words_of_the_rule(self, ann: Person, document_id: UUID) -> None:
        follow(ann, on_searches("deny", "'secret' in labels", message_for_people="Not for you."))
        for answer in (text_of(ann, document_id), page_of(ann, document_id)):
            assert answer.status_code == 403
            assert b"Not for you." in answer.content
            assert b"Atlantis" not in answer.content
        assert text_of(ann, document_id).json()["code"] == "denied_by_policy"
        assert not LabelSet.objects.filter(labels__has_key="secret").exists()

    def test_finds_no_document_that_is_left_out(self, ann: Person, document_id: UUID) -> None:
        shown = send(ann)
        ingest.process_pending()
        follow(ann, on_searches("audit", parameters={"leave_out": ["secret"]}))
        assert text_of(ann, document_id).json()["code"] == "document_not_found"
        page = page_of(ann, document_id)
        assert page.status_code == 404
        assert b"Atlantis" not in page.content
        assert {*LabelSet.objects.get(subject=f"user:{ann.id}").labels} == {"untrusted"}
        assert (text_of(ann, shown).status_code, page_of(ann, shown).status_code) == (200, 200)

    def test_waits_its_turn(self, ann: Person, document_id: UUID) -> None:
        follow(ann, on_searches("throttle", parameters={"rate": "1/hour", "per": "user"}))
        assert page_of(ann, document_id).status_code == 200
        for answer in (text_of(ann, document_id), page_of(ann, document_id)):
            assert answer.status_code == 429
            assert 3500 < int(answer["Retry-After"]) <= 3600

    def test_works_once_the_same_request_is_approved(
        self, ann: Person, rita: Person, document_id: UUID
    ) -> None:
        follow(ann, on_searches("escalate"))
        for read in (text_of, page_of):
            answer = read(ann, document_id)
            assert answer.status_code == 403
            assert b"Atlantis" not in answer.content
            approve(rita, Approval.objects.get(status="waiting").id)
            assert [read(ann, document_id).status_code for _ in range(2)] == [200, 403]
            approvals.deny(
                approval_id=Approval.objects.get(status="waiting").id, caller=as_caller(rita), text="Once."
            )

    def test_is_not_decided_on_where_there_is_nothing_to_read(self, ann: Person, document_id: UUID) -> None:
        unread = send(ann)
        client = ann.program()
        for place, status in ((f"{document_id}/text?start=5&end=9999", 400), (f"{new_id()}/text?end=1", 400)):
            assert client.get(f"/api/v2/documents/{place}").status_code == status
        assert text_of(ann, unread).status_code == 400
        assert page_of(ann, unread).status_code == 200
        assert not PolicyDecision.objects.filter(subject_kind="retrieval").exists()


class TestLabelsOfAWorkspace:
    def test_are_limited_so_that_decisions_stay_possible(self, ann: Person) -> None:
        follow(ann)
        for number in range(10):
            own = [f"l{number}-{each}" for each in range(32)]
            if number < 3:
                send(ann, b"Text %d." % number, labels=own)
                continue
            with pytest.raises(TooManyLabels, match=r"l0-0, l0-1, ") as refused:
                send(ann, b"Text %d." % number, labels=own)
            assert refused.value.field == "labels"
        assert models.Document.objects.count() == 3
        # Known ones are taken, and new ones up to the limit.
        send(ann, b"More.", labels=["l0-0", "l2-31", *(f"new-{each}" for each in range(4))])
        send(ann, b"Without.")
        decided = PolicyDecision.objects.count()
        with pytest.raises(TooManyLabels):
            send(ann, b"Still more.", labels=["l0-0", "another"])
        assert PolicyDecision.objects.count() == decided
        assert ask(ann.program()).status_code == 200
        # Elsewhere they do not count.
        send(someone("bob@example.org"), labels=["another"])

    def test_name_none_of_another_persons_session(self, ann: Person) -> None:
        session_id = create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
        for number in range(4):
            own = [f"hidden-{number}-{each}" for each in range(25)]
            send(ann, b"Text %d." % number, labels=own, session_id=session_id)
        with pytest.raises(TooManyLabels) as refused:
            send(ann, labels=["another"])
        assert "hidden" not in refused.value.message

    def test_are_limited_also_where_many_come_at_once(self, ann: Person) -> None:
        follow(ann)

        def receive(number: int) -> UUID | None:
            try:
                return in_thread(
                    lambda: send(
                        ann, b"Text %d." % number, labels=[f"l{number}-{each}" for each in range(30)]
                    )
                )
            except TooManyLabels:
                return None

        with ThreadPoolExecutor(6) as pool:
            ids = [*pool.map(receive, range(6))]
        assert len([each for each in ids if each]) == 3
        assert not PolicyDecision.objects.filter(decision="allow", act_outcome="").exists()


def text_of(person: Person, document_id: UUID, session_id: UUID | None = None) -> Any:
    named = "" if session_id is None else f"&session_id={session_id}"
    return person.program().get(f"/api/v2/documents/{document_id}/text?start=0&end=7{named}")


def page_of(person: Person, document_id: UUID, session_id: UUID | None = None) -> Any:
    client = Client()
    client.force_login(person.user)
    named = "" if session_id is None else f"&session={session_id}"
    return client.get(f"/documents/{document_id}/?start=2&end=7{named}")


def post(client: Client, content: bytes = TEXT) -> Any:
    file = SimpleUploadedFile("fruit.md", content, content_type="text/markdown")
    return client.post("/api/v2/documents", {"file": file})


def ask(client: Client, **more: Any) -> Any:
    return client.post("/api/v2/search", {"query": "Zephyrine", **more}, content_type="application/json")
