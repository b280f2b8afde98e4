"""How the stream of a document folds."""

from cartrita.eventstore.aggregates import aggregate
from retrieval import document as documents

DOCUMENT = aggregate(
    "retrieval.document",
    documents.DocumentReceived,
    documents.DocumentHeld,
    fold=lambda recorded: documents.fold(each.event for each in recorded),
)
