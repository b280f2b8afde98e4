"""Beat jobs for what lies below the apps that have their own: answers, texts on their way, logins, blobs."""

from django.utils import timezone

from cartrita.eventstore.collection import collect_blobs
from cartrita.http.idempotency import delete_old_answers
from cartrita.streaming.deltas import delete_old_texts
from cartrita.upkeep.commands import delete_ended_logins
from cartrita.upkeep.jobs import job


@job("cartrita.http.delete_old_answers")
def delete_stored_answers() -> int:
    """Delete answers of requests with an Idempotency-Key after 24 hours; return how many."""
    return delete_old_answers(now=timezone.now())


@job("cartrita.streaming.delete_old_texts")
def delete_texts() -> int:
    """Delete buffered texts of answers that are complete or abandoned; return how many."""
    return delete_old_texts()


@job("cartrita.upkeep.delete_ended_logins")
def delete_logins() -> int:
    """Delete logins of browsers whose time is over; return how many."""
    return delete_ended_logins(now=timezone.now())


@job("cartrita.eventstore.collect_blobs")
def remove_blobs() -> int:
    """Remove bodies that no event names, a day after they were stored, and those of erased keys; how many."""
    collected = collect_blobs()
    return collected.unnamed + collected.erased
