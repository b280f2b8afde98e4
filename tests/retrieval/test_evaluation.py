import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from cartrita.eventstore import unseal
from retrieval import models
from tests.databases import Database

pytestmark = pytest.mark.flow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = {
        "a": "Apples ripen in October.",
        "b": "The tax on furniture is due at the border.",
        "c": "Violins are made of spruce and maple.",
        "empty": " ",
    }
    entries = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in corpus.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(entries))
    questions = [("1", "When do apples ripen?"), ("2", "Of which wood are violins?"), ("3", "not judged")]
    queries = [json.dumps({"_id": key, "text": text}) for key, text in questions]
    (tmp_path / "queries.jsonl").write_text("\n".join(queries))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tc\t2\n2\tb\t0\n")
    return tmp_path


class TestEvaluateRetrieval:
    def test_prints_the_measures_and_leaves_nothing(
        self, database: Database, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("evaluate_retrieval", str(folder), "--json")
        figures = json.loads(capsys.readouterr().out)
        assert list(figures) == [
            "dataset", "documents", "queries", "ndcg@10", "recall@100", "mrr@10", "p50_ms", "p95_ms",
            "chunks_per_minute",
        ]  # fmt: skip
        assert (figures["documents"], figures["queries"]) == (3, 2)
        assert (figures["ndcg@10"], figures["recall@100"], figures["mrr@10"]) == (1, 1, 1)
        assert not models.Chunk.objects.exists()
        assert set(models.Document.objects.values_list("status", flat=True)) == {"removed"}

    def test_names_a_document_without_title_by_its_first_words(
        self, database: Database, folder: Path
    ) -> None:
        text = "Violins are made of spruce and maple. " * 4
        (folder / "corpus.jsonl").write_text(json.dumps({"_id": "c", "text": text}))
        call_command("evaluate_retrieval", str(folder), "--json", "--keep")
        row = models.Document.objects.get()
        assert unseal(row.key_id, row.title) == (
            "Violins are made of spruce and maple. Violins are made of spruce and maple."
        )

    def test_says_what_the_folder_lacks(self, database: Database, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match=r"corpus\.jsonl cannot be read"):
            call_command("evaluate_retrieval", str(tmp_path))

    def test_names_the_line_that_is_wrong(self, database: Database, folder: Path) -> None:
        (folder / "queries.jsonl").write_text('{"_id": "1", "text": "x"}\n[]\n')
        with pytest.raises(CommandError, match=r"queries\.jsonl line 2"):
            call_command("evaluate_retrieval", str(folder))
