from uuid import UUID

import pytest

from cartrita.errors import BadInput
from cartrita.eventstore.types import Event
from retrieval.document import (
    Document,
    DocumentChunked,
    DocumentEmbedded,
    DocumentFailed,
    DocumentHeld,
    DocumentNotFound,
    DocumentNotOpen,
    DocumentReceived,
    DocumentReleased,
    DocumentRemoved,
    divide,
    embed,
    fail,
    fold,
    hold,
    receive,
    release,
    remove,
)

RECEIVED = DocumentReceived(
    title="Handbook",
    media_type="text/plain",
    size=3,
    blob="a" * 64,
    fingerprint="b" * 64,
    collection_id=UUID(int=1),
    owner_id=UUID(int=2),
)
CHUNKED = DocumentChunked(parser="plain-1", chunker="structure-1", text_blob="c" * 64, characters=3, chunks=1)
EMBEDDED = DocumentEmbedded(model="m", dimension=384, chunks=1)
FAILED = DocumentFailed(stage="parse", code="document_encrypted", message="It is protected.")

HELD = DocumentHeld(decision_id=UUID(int=3), approval_id=UUID(int=4), rule="ask", reason="A person reads it.")
RELEASED = DocumentReleased(decision_id=UUID(int=5))
REFUSED = DocumentFailed(stage="policy", code="approval_denied", message="A reviewer said no.")


class TestReceive:
    def test_accepts_a_new_document(self) -> None:
        assert receive(Document(), RECEIVED) == [RECEIVED]

    def test_records_nothing_when_it_is_there_already(self) -> None:
        assert receive(fold([RECEIVED]), RECEIVED) == []

    def test_refuses_the_id_of_a_removed_document(self) -> None:
        with pytest.raises(DocumentNotOpen):
            receive(fold([RECEIVED, DocumentRemoved()]), RECEIVED)

    @pytest.mark.parametrize("title", ["", "  ", "a\nb", "a\0b", "half \ud800", "x" * 501])
    def test_names_the_title_that_cannot_be_kept(self, title: str) -> None:
        with pytest.raises(BadInput) as caught:
            receive(Document(), RECEIVED.model_copy(update={"title": title}))
        assert caught.value.field == "title"

    @pytest.mark.parametrize("labels", [("",), ("two words",), ("x" * 65,), tuple("abcdefgh") * 5])
    def test_names_labels_that_cannot_be_kept(self, labels: tuple[str, ...]) -> None:
        with pytest.raises(BadInput) as caught:
            receive(Document(), RECEIVED.model_copy(update={"labels": labels}))
        assert caught.value.field == "labels"


class TestHold:
    def test_keeps_a_document_from_being_read_until_it_is_released(self) -> None:
        held = fold([RECEIVED, HELD])
        assert held.status == "held"
        with pytest.raises(DocumentNotOpen):
            divide(held, CHUNKED)
        assert embed(held, EMBEDDED) == []
        assert release(held, RELEASED) == [RELEASED]
        assert fold([RECEIVED, HELD, RELEASED]).status == "received"

    def test_may_follow_another_one(self) -> None:
        assert hold(fold([RECEIVED]), HELD) == hold(fold([RECEIVED, HELD]), HELD) == [HELD]

    def test_ends_in_failure_where_it_is_refused(self) -> None:
        assert fail(fold([RECEIVED, HELD]), REFUSED) == [REFUSED]
        refused = fold([RECEIVED, HELD, REFUSED])
        assert release(refused, RELEASED) == []
        with pytest.raises(DocumentNotOpen):
            hold(refused, HELD)

    @pytest.mark.parametrize("history", [[], [RECEIVED, CHUNKED], [RECEIVED, DocumentRemoved()]])
    def test_comes_too_late_for_what_was_read_or_removed(self, history: list[Event]) -> None:
        with pytest.raises(DocumentNotOpen):
            hold(fold(history), HELD)

    def test_ends_with_removal(self) -> None:
        with pytest.raises(DocumentNotOpen):
            release(fold([RECEIVED, HELD, DocumentRemoved()]), RELEASED)
        assert remove(fold([RECEIVED, HELD])) == [DocumentRemoved()]


class TestProgress:
    def test_goes_from_received_over_chunked_to_ready(self) -> None:
        assert [fold([RECEIVED, CHUNKED, EMBEDDED][:n]).status for n in range(4)] == [
            "absent", "received", "chunked", "ready",
        ]  # fmt: skip

    def test_is_recorded_once(self) -> None:
        assert divide(fold([RECEIVED, CHUNKED]), CHUNKED) == []
        assert embed(fold([RECEIVED, CHUNKED, EMBEDDED]), EMBEDDED) == []
        assert fail(fold([RECEIVED, FAILED]), FAILED) == []

    def test_does_not_embed_what_was_not_divided(self) -> None:
        assert embed(fold([RECEIVED]), EMBEDDED) == []

    def test_ends_with_removal(self) -> None:
        removed = fold([RECEIVED, DocumentRemoved()])
        with pytest.raises(DocumentNotOpen):
            divide(removed, CHUNKED)
        with pytest.raises(DocumentNotOpen):
            embed(removed, EMBEDDED)
        with pytest.raises(DocumentNotOpen):
            fail(removed, FAILED)


class TestRemove:
    def test_happens_once(self) -> None:
        assert remove(fold([RECEIVED])) == [DocumentRemoved()]
        assert remove(fold([RECEIVED, DocumentRemoved()])) == []

    def test_lets_a_removed_document_be_erased(self) -> None:
        assert remove(fold([RECEIVED, DocumentRemoved()]), erased=True) == [DocumentRemoved(erased=True)]

    def test_knows_no_absent_document(self) -> None:
        with pytest.raises(DocumentNotFound):
            remove(Document())
