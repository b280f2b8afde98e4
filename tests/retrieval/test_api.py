from collections.abc import Callable, Iterator
from functools import partial

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from cartrita.eventstore import new_id
from retrieval import ingest, models
from sessions_app.commands import create_session
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.retrieval.conftest import order

pytestmark = pytest.mark.flow

TEXT = b"# Fruit\n\nThe Zephyrine apple ripens in October."


@pytest.fixture
def ann(database: Database, check_read_models: Callable[[], None]) -> Iterator[Person]:
    yield someone()
    check_read_models()


def upload(
    content: bytes = TEXT, name: str = "fruit.md", media_type: str = "text/markdown"
) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, content_type=media_type)


class TestDocuments:
    def test_are_received_listed_read_found_and_removed(self, ann: Person) -> None:
        client = ann.program()
        sent = client.post("/api/v2/documents", {"file": upload(), "labels": ["orchard"]})
        assert sent.status_code == 202
        document_id = sent.json()["id"]
        assert sent["Location"] == f"/api/v2/documents/{document_id}"
        ingest.process_pending()
        (entry,) = client.get("/api/v2/documents").json()["items"]
        assert entry == client.get(sent["Location"]).json()
        assert (entry["title"], entry["status"], entry["labels"]) == ("fruit.md", "ready", ["orchard"])
        search = partial(
            client.post,
            "/api/v2/search",
            {"query": "Zephyrine"},
            content_type="application/json",
            headers={"Idempotency-Key": "a"},
        )
        (hit,) = search().json()["hits"]
        assert hit["document_id"] == document_id
        place = f"{sent['Location']}/text?start={hit['start']}&end={hit['end']}"
        assert client.get(place).json()["text"] == hit["text"]
        assert client.delete(sent["Location"]).status_code == 204
        assert client.get(sent["Location"]).status_code == 404
        # Under the same key too: what was taken away is not given again.
        assert search().json()["hits"] == []

    def test_are_what_their_file_says_whatever_their_title(self, ann: Person) -> None:
        client = ann.program()
        table = upload(b"item,price\npear,2\n", "fruit.csv", "application/octet-stream")
        place = client.post("/api/v2/documents", {"file": table, "title": "Prices"})["Location"]
        entry = client.get(place).json()
        assert (entry["title"], entry["media_type"]) == ("Prices", "text/csv")

    def test_are_erased_where_asked(self, ann: Person) -> None:
        client = ann.program()
        place = client.post("/api/v2/documents", {"file": upload()})["Location"]
        assert client.delete(f"{place}?erase=true").status_code == 204
        row = models.Document.objects.get()
        assert row.status == "removed"

    @pytest.mark.parametrize(
        ("file", "status", "code"),
        [
            (upload(b""), 400, "document_empty"),
            (upload(b"\x89PNG\r\n\x1a\n"), 415, "media_type_unsupported"),
            (upload(b"%PDF-1.4"), 415, "media_type_mismatch"),
            (upload(b"a\0b"), 400, "document_holds_nul"),
        ],
    )
    def test_are_refused_with_a_code(
        self, ann: Person, file: SimpleUploadedFile, status: int, code: str
    ) -> None:
        file.seek(0)
        answer = ann.program().post("/api/v2/documents", {"file": file})
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    def test_of_another_workspace_are_unknown(self, ann: Person) -> None:
        place = ann.program().post("/api/v2/documents", {"file": upload()})["Location"]
        stranger = someone("eve@example.org").program()
        assert stranger.get(place).status_code == 404
        assert stranger.get(f"{place}/text?start=0&end=5").status_code == 404
        assert stranger.delete(place).status_code == 404
        assert stranger.get("/api/v2/documents").json()["items"] == []

    def test_attached_to_a_session_are_its_owners(self, ann: Person) -> None:
        session_id = create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
        client = ann.program()
        sent = client.post("/api/v2/documents", {"file": upload(), "session_id": str(session_id)})
        assert sent.status_code == 202
        colleague = someone("bob@example.org", workspace_id=ann.workspace_id).program()
        place = f"{sent['Location']}?session_id={session_id}"
        assert client.get(place).status_code == 200
        assert client.get(sent["Location"]).status_code == 404
        assert colleague.get(place).json()["code"] == "session_not_found"
        intrusion = colleague.post(
            "/api/v2/documents", {"file": upload(b"Lies."), "session_id": str(session_id)}
        )
        assert intrusion.json()["code"] == "session_not_found"
        # Who may read another's session still plants nothing in it.
        auditor = someone("eve@example.org", workspace_id=ann.workspace_id, roles=("auditor",)).program()
        assert auditor.get(place).status_code == 200
        planted = auditor.post("/api/v2/documents", {"file": upload(b"Lies."), "session_id": str(session_id)})
        assert planted.json()["code"] == "session_not_found"

    def test_of_elsewhere_are_no_attachments(self, ann: Person) -> None:
        bob = someone("bob@example.org")
        foreign = bob.program().post("/api/v2/documents", {"file": upload()}).json()["id"]
        client = ann.program()
        ours = client.post("/api/v2/documents", {"file": upload()}).json()["id"]
        session_id = create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
        address = f"/api/v2/sessions/{session_id}/messages"
        for attachment, status in ((foreign, 400), (str(new_id()), 400), (ours, 202)):
            answer = client.post(
                address,
                {"content": "What is it?", "attachments": [attachment]},
                content_type="application/json",
            )
            assert answer.status_code == status, answer.content
            if status == 400:
                assert answer.json()["field"] == "attachments"
                assert attachment in answer.json()["detail"]

    def test_are_removed_by_their_sender_or_an_administrator(self, ann: Person) -> None:
        place = ann.program().post("/api/v2/documents", {"file": upload()})["Location"]
        bob = someone("bob@example.org", workspace_id=ann.workspace_id)
        assert bob.program().delete(place).status_code == 403
        boss = someone("boss@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        assert boss.program().delete(place).status_code == 204


class TestSearch:
    @pytest.mark.parametrize("body", [{}, {"query": ""}, {"query": "x", "k": 0}, {"query": "x", "k": 101}])
    def test_refuses_wrong_input(self, ann: Person, body: dict[str, object]) -> None:
        answer = ann.program().post("/api/v2/search", body, content_type="application/json")
        assert answer.status_code == 400

    def test_needs_a_token_that_may_read(self, ann: Person) -> None:
        answer = ann.program("tokens").post("/api/v2/search", {"query": "x"}, content_type="application/json")
        assert answer.status_code == 403

    def test_takes_no_key_that_is_none_although_it_keeps_no_answer(self, ann: Person) -> None:
        answer = ann.program().post(
            "/api/v2/search", {"query": "x"}, content_type="application/json",
            headers={"Idempotency-Key": "x" * 256},
        )  # fmt: skip
        assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")

    def test_knows_no_foreign_session(self, ann: Person) -> None:
        body = {"query": "x", "session_id": str(new_id())}
        answer = ann.program().post("/api/v2/search", body, content_type="application/json")
        assert answer.json()["code"] == "session_not_found"


class TestLists:
    def test_are_narrowed_by_status_and_label(self, ann: Person) -> None:
        client = ann.program()
        client.post("/api/v2/documents", {"file": upload(), "labels": ["orchard"]})
        client.post("/api/v2/documents", {"file": upload(b"Other text.", "other.md")})
        for query, count in (
            ("label=orchard", 1),
            ("label=sea", 0),
            ("status=received", 2),
            ("status=ready", 0),
        ):
            assert len(client.get(f"/api/v2/documents?{query}").json()["items"]) == count
        assert client.get("/api/v2/documents?status=lost").json()["field"] == "status"

    @pytest.mark.parametrize("session_id", ["", "x", "e3e70682c2091caca29f6fbed82c07cd", "{}"])
    def test_take_ids_alone_for_a_session(self, ann: Person, session_id: str) -> None:
        answer = ann.program().get("/api/v2/documents", {"session_id": session_id})
        assert (answer.status_code, answer.json()["field"]) == (400, "session_id")


class TestRetrievalMetrics:
    def test_are_for_those_who_may_read_the_session_or_look_after_the_workspace(self, ann: Person) -> None:
        session_id = create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")
        client = ann.program()
        client.post("/api/v2/documents", {"file": upload()})
        ingest.process_pending()
        body = {"query": "Zephyrine", "session_id": str(session_id)}
        in_session = client.post("/api/v2/search", body, content_type="application/json").json()
        outside = client.post("/api/v2/search", {"query": "October"}, content_type="application/json").json()
        order()
        path = "/api/v2/retrieval/metrics"
        [own] = client.get(f"{path}?session_id={session_id}").json()["items"]
        assert (own["id"], own["query"]) == (in_session["retrieval_id"], "Zephyrine")
        assert own == client.get(f"{path}/{own['id']}").json()
        assert client.get(path).json()["code"] == "role_missing"
        assert client.get(f"{path}/{outside['retrieval_id']}").json()["code"] == "retrieval_not_found"
        for role, query in (("operator", None), ("auditor", "October")):
            keeper = someone(f"{role}@example.org", workspace_id=ann.workspace_id, roles=(role,)).program()
            page = keeper.get(f"{path}?limit=1").json()
            assert (page["items"][0]["id"], page["items"][0]["query"]) == (outside["retrieval_id"], query)
            rest = keeper.get(f"{path}?cursor={page['next_cursor']}").json()
            assert [one["id"] for one in rest["items"]] == [own["id"]]
        other = someone("dan@example.org", roles=("auditor",)).program()
        assert other.get(path).json()["items"] == []
        assert other.get(f"{path}/{own['id']}").status_code == 404
