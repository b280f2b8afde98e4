"""Beat jobs of retrieval."""

from cartrita.upkeep.jobs import job
from retrieval import ingest


@job("retrieval.embed_stale")
def embed_stale() -> int:
    """Make vectors anew that another model or recipe made; return of how many documents."""
    return ingest.embed_stale()
