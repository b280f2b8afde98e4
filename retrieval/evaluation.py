"""Measures retrieval on judged collections (corpus.jsonl, queries.jsonl, qrels.tsv) with ir-measures."""

import csv
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import ir_measures

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import new_id
from retrieval import commands, ingest, models
from retrieval.search import search

_TIMED_QUERIES = 200
_OPENING = 80
_ACTOR = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation measured. Latencies are milliseconds of whole searches for 10 passages."""

    dataset: str
    documents: int
    queries: int
    ndcg_at_10: float
    recall_at_100: float
    mrr_at_10: float
    p50_ms: float
    p95_ms: float
    chunks_per_minute: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures under the names that the field uses."""
        names = {"ndcg_at_10": "ndcg@10", "recall_at_100": "recall@100", "mrr_at_10": "mrr@10"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


def evaluate(
    folder: Path, *, keep: bool = False, progress: Callable[[str], None] = lambda _text: None
) -> Evaluation:
    """Index a judged collection, run its queries, and return the measures; the documents are erased
    afterwards.

    The collection lies in a workspace of its own, so nobody's search meets it; `keep` leaves it there.
    Raises BadInput for a folder without the three files or with lines that cannot be read,
    EvaluationUnavailable.
    """
    corpus, queries = _lines(folder / "corpus.jsonl"), _lines(folder / "queries.jsonl")
    judged = _judgements(folder / "qrels.tsv")
    workspace_id = new_id()
    collection_id = commands.create_collection(
        workspace_id=workspace_id, name=f"Evaluation of {folder.name}", actor=_ACTOR
    )
    try:
        started = time.perf_counter()
        names = _receive(corpus, workspace_id=workspace_id, collection_id=collection_id)
        progress(f"{len(names)} documents received")
        _ingest(workspace_id)
        seconds = time.perf_counter() - started
        chunks = models.Chunk.objects.filter(collection_id=collection_id).count()
        progress(f"{chunks} passages indexed in {seconds:.0f} s")
        asked = [query for query in queries if str(query["_id"]) in judged]
        run: dict[str, dict[str, float]] = {}
        latencies = []
        for number, query in enumerate(asked):
            found = search(query["text"], workspace_id=workspace_id, k=100)
            run[str(query["_id"])] = _by_document(found.hits, names)
            if number < _TIMED_QUERIES:
                latencies.append(search(query["text"], workspace_id=workspace_id, k=10).timings["total"])
        progress(f"{len(asked)} queries run")
        ndcg, recall, mrr = _measured({key: judged[key] for key in run}, run)
    finally:
        if not keep:
            _erase(workspace_id)
    latencies.sort()
    return Evaluation(
        dataset=folder.name,
        documents=sum(len(ids) for ids in names.values()),
        queries=len(asked),
        ndcg_at_10=round(ndcg, 4),
        recall_at_100=round(recall, 4),
        mrr_at_10=round(mrr, 4),
        p50_ms=round(statistics.median(latencies), 2),
        p95_ms=round(latencies[min(len(latencies) - 1, int(len(latencies) * 0.95))], 2),
        chunks_per_minute=round(chunks * 60 / seconds, 1),
    )


Judgements = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def _measured(judged: Judgements, run: Run) -> tuple[float, float, float]:
    """Return nDCG@10, recall@100 and MRR@10, means over the queries of the run."""
    measures = [ir_measures.nDCG @ 10, ir_measures.R @ 100, ir_measures.RR @ 10]
    values = ir_measures.calc_aggregate(measures, judged, run)
    ndcg, recall, mrr = (float(values[measure]) for measure in measures)
    return ndcg, recall, mrr


def _receive(
    corpus: list[dict[str, Any]], *, workspace_id: UUID, collection_id: UUID
) -> dict[UUID, list[str]]:
    """Return the names in the corpus of each document received; documents without text are left out."""
    names: dict[UUID, list[str]] = defaultdict(list)
    owner_id = new_id()
    for entry in corpus:
        if not entry["text"].strip():
            continue
        title = " ".join(str(entry.get("title") or "").split())[:500] or _opening(entry["text"])
        try:
            document_id = commands.receive_document(
                workspace_id=workspace_id,
                owner_id=owner_id,
                title=title,
                media_type="text/plain",
                content=entry["text"].encode(),
                collection_id=collection_id,
                actor=_ACTOR,
            )
        except CartritaError as error:
            raise BadInput(f"Document {entry['_id']}: {error.message}", field="corpus.jsonl") from error
        names[document_id].append(str(entry["_id"]))
    return dict(names)


def _opening(text: str) -> str:
    """Return the words that a text begins with, by which a document without a title is known."""
    words = " ".join(text.split())
    cut = words if len(words) <= _OPENING else words[:_OPENING].rsplit(" ", 1)[0]
    return "".join(character for character in cut if character.isprintable()) or "Untitled"


def _ingest(workspace_id: UUID) -> None:
    """Ingest together with whoever else does, until everything is."""
    pending = models.Document.objects.filter(workspace_id=workspace_id, status__in=["received", "chunked"])
    while pending.exists():
        if not ingest.process_pending():
            time.sleep(0.05)


def _by_document(hits: Any, names: dict[UUID, list[str]]) -> dict[str, float]:
    """Return each document's best passage's score."""
    best: dict[str, float] = {}
    for hit in hits:
        for name in names[hit.document_id]:
            best[name] = max(best.get(name, 0.0), hit.score)
    return best


def _erase(workspace_id: UUID) -> None:
    ids = models.Document.objects.filter(workspace_id=workspace_id).exclude(status="removed")
    for document_id in ids.values_list("id", flat=True):
        commands.erase_document(document_id=document_id, workspace_id=workspace_id, actor=_ACTOR)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", field=path.name) from error
    return list(_entries(path, text))


def _entries(path: Path, text: str) -> Iterator[dict[str, Any]]:
    # Not splitlines: a text may hold characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            complete = isinstance(entry["text"], str) and isinstance(entry["_id"], str | int)
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise BadInput(f"{path.name} line {number} is no object with _id and text.", field=path.name)
        yield entry


def _judgements(path: Path) -> Judgements:
    judged: Judgements = defaultdict(dict)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if float(row["score"]) > 0:
                    judged[row["query-id"]][row["corpus-id"]] = int(float(row["score"]))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", field=path.name) from error
    except (KeyError, ValueError, TypeError):
        raise BadInput(
            f"{path.name} needs the tab-separated columns query-id, corpus-id and score.", field=path.name
        ) from None
    return dict(judged)
