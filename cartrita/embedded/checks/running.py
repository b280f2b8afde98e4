"""What runs on the database: schema, keys, the log and what follows it, turns, approvals, jobs, models.

Needs Django, set up for this installation.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from django.conf import settings
from django.core import checks
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from cartrita.embedded.checks.finding import Finding, fail, ok, warn
from cartrita.errors import CartritaError
from cartrita.eventstore import heads, sealing, signing
from cartrita.eventstore.erasure import erased_list, listed_erasures, recorded_erasures
from cartrita.eventstore.integrity import verify_on
from cartrita.eventstore.projections import all_following
from cartrita.eventstore.references import missing_blobs
from cartrita.eventstore.schema import SchemaTooNew, check_not_newer
from cartrita.eventstore.sequencer import LEADER_LOCK
from cartrita.wording import counted

Connection = psycopg.Connection[Any]

LAG: Final = timedelta(seconds=30)
STUCK: Final = timedelta(minutes=15)
OVERDUE: Final = timedelta(minutes=5)
CLAIM_SECONDS: Final = 60
MODEL_TIMEOUT_SECONDS: Final = 5
UNAUTHORIZED = frozenset({401, 403})

# Committed since the last tick's snapshot, and without a position.
_UNPLACED = """
    with last as (select snapshot, cluster from tick order by number desc limit 1)
    select count(*), min(recorded_at) from event
    where xid >= coalesce((select pg_snapshot_xmin(snapshot) from last
                           where cluster = (select system_identifier from pg_control_system())), '0')
    and not exists (select from log where log.stream_id = event.stream_id and log.version = event.version)
"""
_LEADER = """
    select count(*) from pg_locks where locktype = 'advisory' and granted and mode = 'ExclusiveLock'
    and database = (select oid from pg_database where datname = current_database())
    and classid::bigint = %s and objid::bigint = %s
"""
_BEHIND = """
    select c.name, c.position, h.position,
           (select recorded_at from log join event using (stream_id, version)
            where log.position > c.position order by log.position limit 1)
    from projection_checkpoint c, (select coalesce(max(position), 0) as position from log) h
    where c.name = any(%s) and c.position < h.position order by c.position limit 1
"""


def check_migrations() -> Finding:
    """Compare the schema with this version's."""
    executor = MigrationExecutor(connections["default"])
    try:
        check_not_newer(executor)
    except SchemaTooNew as error:
        return fail("migrations", error.message, "Start the newer version of Cartrita, or restore a backup.")
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        first = missing[0][0]
        return fail(
            "migrations", f"{len(missing)} are missing, the first is {first.app_label}.{first.name}",
            "Run `manage.py migrate`; `make up` does so by itself.",
        )  # fmt: skip
    return ok("migrations", "all applied")


def check_secret_key() -> Finding:
    """Look whether the key that signs sessions is there, and long enough."""
    key = settings.SECRET_KEY if getattr(settings, "SECRET_KEY", "") else ""
    remedy = "Set CARTRITA_SECRET_KEY to 50 random characters or more, or restore keys/secret.key."
    if not key:
        return fail("secret key", "missing", remedy)
    return fail("secret key", f"{len(key)} characters", remedy) if len(key) < 40 else ok("secret key", "set")


def check_master_key(connection: Connection) -> Finding:
    """Look whether the master keys that are set open every key of the database."""
    remedy = (
        "Set CARTRITA_MASTER_KEY as it was, or restore keys/master.key from the file of keys. Without it "
        "nothing that people wrote can be read."
    )
    try:
        present = set(sealing.ids_of_master_keys())
    except CartritaError as error:
        return fail("master key", error.message, remedy)
    needed = {
        row[0]
        for row in connection.execute(
            "select distinct master_key_id from subject_key where wrapped is not null"
        )
    }
    if needed - present:
        return fail("master key", f"{', '.join(sorted(needed - present))} is missing", remedy)
    row = connection.execute(
        "select key_id from data_key where wrapped is not null order by created_at desc limit 1"
    ).fetchone()
    if row is not None:
        try:
            sealing.cipher(row[0])
        except CartritaError as error:
            return fail("master key", error.message, remedy)
    return ok("master key", "opens every key")


def check_erasures() -> Finding:
    """Look whether the list outside the database has every erasure."""
    path, listed = erased_list(), listed_erasures()
    missing = [erased_id for _, erased_id in recorded_erasures() if erased_id not in listed]
    if missing:
        return warn(
            "erasures", f"{path} lacks {len(missing)}: a restore could bring them back",
            "Run `manage.py erase_subject --repeat`, which completes the list.",
        )  # fmt: skip
    return ok("erasures", f"{len(listed)} listed outside the database")


def check_heads(connection: Connection) -> Finding:
    """Look whether the log is signed as it grows, and whether a key to sign it is here."""
    remedy = (
        "Set CARTRITA_SIGNING_KEY as it was, or restore keys/signing.key; where it is lost, "
        "`manage.py rotate_signing_key`. The log goes on being ordered meanwhile."
    )
    del connection
    try:
        standing = heads.standing()
    except heads.HeadsLate as error:
        return warn("tree heads", error.message, remedy)
    try:
        signing.usable_signers()
    except signing.SigningKeyUnusable as error:
        return warn("tree heads", f"this machine signs none: {error.message}", remedy)
    witness = settings.WITNESS_FILE or "no witness (CARTRITA_WITNESS_FILE)"
    return ok("tree heads", f"{standing['signed']} positions are signed; {witness}")


def check_blobs() -> Finding:
    """Look whether the bodies that events name are there, as far as their names were found already."""
    lost = list(missing_blobs())
    if lost:
        first = lost[0]
        return fail(
            "blobs", f"{len(lost)} are lost; event {first.position} ({first.type_name}) needs one",
            "Restore them from a backup; `manage.py collect_blobs --check` names each, and what was altered.",
        )  # fmt: skip
    return ok("blobs", "none that an event names is lost")


def check_sequencer(connection: Connection, now: datetime | None = None) -> Finding:
    """Look whether committed events get their position."""
    leads = connection.execute(_LEADER, [LEADER_LOCK >> 32, LEADER_LOCK & 0xFFFFFFFF]).fetchone() != (0,)
    waiting, since = connection.execute(_UNPLACED).fetchone() or (0, None)
    age = (now or timezone.now()) - since if since else timedelta()
    if waiting and age > LAG:
        if not leads:
            return warn(
                "sequencer", f"{counted(waiting, 'event')} without a position, and no server runs",
                "Start it: `make up`, or `manage.py run_orchestrator`.",
            )  # fmt: skip
        return fail(
            "sequencer", f"{counted(waiting, 'event')} without a position, since {age.total_seconds():.0f} s",
            "Look into the server's log for `sequencer`; a transaction that stays open delays only its own.",
        )  # fmt: skip
    return ok("sequencer", "leads" if leads else "nothing waits; no server runs")


def check_projector(connection: Connection, now: datetime | None = None) -> Finding:
    """Look how far behind the log read models are."""
    row = connection.execute(_BEHIND, [[each.name for each in all_following()]]).fetchone()
    if row is not None and row[3] is not None and (now or timezone.now()) - row[3] > LAG:
        return warn(
            "projector", f"{row[0]} is at position {row[1]} of {row[2]}",
            "A running server catches up by itself; if it does not, look into its log for that name.",
        )  # fmt: skip
    return ok("projector", "follows the log")


def check_log(connection: Connection, last: int) -> Finding:
    """Verify the end of the log."""
    report = verify_on(connection, last=last)
    if not report.verified:
        return fail(
            "log", f"altered at position {report.first_bad_position}: {report.problem}",
            "Stop writing, keep this database as evidence, run `manage.py verify_log`, and restore a backup "
            "of before the alteration.",
        )  # fmt: skip
    return ok("log", f"verified to position {report.positions}")


def check_claims(connection: Connection) -> Finding:
    """Look for claims of processes that hang, and for runs that began long ago and have not ended."""
    (stale,) = connection.execute(
        "select count(*) from orchestrator_claim "
        "where renewed_at < clock_timestamp() - make_interval(secs => %s)",
        [CLAIM_SECONDS],
    ).fetchone() or (0,)
    (stuck,) = connection.execute(
        "select count(*) from runs where finished_at is null and status = 'running' "
        "and created_at < now() - %s "
        "and not exists (select from orchestrator_claim c where c.session_id = runs.session_id)",
        [STUCK],
    ).fetchone() or (0,)
    if stale or stuck:
        return warn(
            "turns", f"{stuck} runs stand still, {stale} claims are of processes that died",
            "A running orchestrator takes them over within seconds: start it, or look into its log.",
        )  # fmt: skip
    return ok("turns", "none stuck")


def check_approvals(connection: Connection) -> Finding:
    """Look for approvals that should have expired."""
    (overdue,) = connection.execute(
        "select count(*) from governance_approval where status = 'waiting' and expires_at < now() - %s",
        [OVERDUE],
    ).fetchone() or (0,)
    if overdue:
        return warn(
            "approvals", f"{overdue} wait beyond their time",
            "Beat expires them: see that it runs, and the job `expire due approvals` in the admin.",
        )  # fmt: skip
    return ok("approvals", "none overdue")


def check_circuits(connection: Connection) -> Finding:
    """Look which models are not called because they failed."""
    rows = connection.execute(
        "select model, failure from llm_circuit where state <> 'closed' order by model"
    ).fetchall()
    if rows:
        return warn(
            "circuits", ", ".join(f"{model} ({failure or 'failed'})" for model, failure in rows),
            "Each is tried again by itself; see that its provider answers and the key is right.",
        )  # fmt: skip
    return ok("circuits", "all closed")


def check_jobs() -> Finding:
    """Look whether beat, and a worker where there is Celery, run the jobs."""
    from cartrita.upkeep.jobs import standing

    try:
        facts = standing()
    except CartritaError as error:
        return warn(
            "jobs", error.message,
            "`make up` runs them; elsewhere start beat and a worker (`celery -A cartrita worker`), and see "
            "Jobs in the admin.",
        )  # fmt: skip
    return ok("jobs", f"last run {facts['last_run'] or 'never'}")


def check_redis() -> Finding:
    """Look whether Redis answers where it is used."""
    from cartrita.http import health

    try:
        used = health.check_redis()["used"]
    except CartritaError as error:
        return fail("redis", error.message, "Start it, or take REDIS_URL away: one process works without.")
    return ok("redis", "answers" if used else "not used")


def check_provider(*, key: str, base_url: str) -> Finding:
    """Look whether the provider answers and takes the key."""
    address = f"{base_url.rstrip('/') or 'https://api.openai.com/v1'}/models"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=MODEL_TIMEOUT_SECONDS) as answer:  # noqa: S310
            json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in UNAUTHORIZED:
            return fail("models", f"{address} refuses the key ({error.code})", "Set another OPENAI_API_KEY.")
        return warn("models", f"{address} answers {error.code}", "Look at the provider's status page.")
    except (OSError, ValueError) as error:
        return fail("models", f"{address}: {error}", "See that OPENAI_BASE_URL is right and can be reached.")
    return ok("models", f"{address} takes the key")


def check_settings(messages: Iterable[checks.CheckMessage] | None = None) -> Finding:
    """Look whether the settings are safe for others to reach: Django's `check --deploy`."""
    found = list(checks.run_checks(include_deployment_checks=True) if messages is None else messages)
    serious = [one for one in found if one.is_serious(checks.ERROR)]
    if serious:
        return fail("settings", serious[0].msg, serious[0].hint or "Run `manage.py check --deploy`.")
    if settings.PUBLIC_URL.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]")):
        return ok("settings", "for this machine alone (CARTRITA_URL)")
    warnings = [one for one in found if one.is_serious(checks.WARNING)]
    if warnings:
        return warn("settings", warnings[0].msg, warnings[0].hint or "Run `manage.py check --deploy`.")
    return ok("settings", "safe to deploy")
