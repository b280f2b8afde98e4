"""manage.py doctor: look at every part and say how to mend it. Nothing is changed.

    manage.py doctor [--json] [--last N]

Exits with 1 when something does not work or is not safe; what only deserves a look does not count.
"""

import argparse
import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg

from cartrita.embedded import environment, postgres
from cartrita.embedded.checks import database, host
from cartrita.embedded.checks.finding import Finding, fail, guarded, warn
from cartrita.errors import CartritaError

LAST_EVENTS = 1_000
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def run(argv: list[str]) -> int:
    """Look at every part, print what is found, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="manage.py doctor", description="Look at every part and say how to mend it; changes nothing."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--last", type=int, default=LAST_EVENTS, metavar="N", help="verify that many events of the log's end"
    )
    options = parser.parse_args(argv)
    findings = []
    for finding in examine(last=max(options.last, 0)):
        findings.append(finding)
        if not options.json:
            _print(finding)
    well = all(finding.status != "fail" for finding in findings)
    if options.json:
        sys.stdout.write(json.dumps({"well": well, "checks": [each.as_dict() for each in findings]}) + "\n")
    return 0 if well else 1


def examine(*, last: int = LAST_EVENTS) -> Iterator[Finding]:
    """Yield what each check finds: the machine first, then the database, then what runs on it."""
    home = environment.home()
    port = os.environ.get("PORT") or "8000"
    bind = os.environ.get("CARTRITA_BIND") or "127.0.0.1"
    yield from _each(
        python=host.check_python,
        packages=lambda: host.check_packages(environment.CHECKOUT),
        home=lambda: host.check_home(home),
        disk=lambda: host.check_disk(home),
        port=lambda: host.check_port(home, bind, int(port)),
        sandbox=host.check_sandbox,
        backups=lambda: host.check_backups(os.environ.get("CARTRITA_BACKUP_DIR", ""), datetime.now(UTC)),
    )
    with contextlib.ExitStack() as ending:
        url = _database_url(ending)
        if isinstance(url, Finding):
            yield url
            return
        try:
            connection = ending.enter_context(
                psycopg.connect(url, application_name="cartrita doctor", connect_timeout=10, autocommit=True)
            )
        except psycopg.Error as error:
            remedy = "Start it, and see that DATABASE_URL and the role's password are right."
            yield fail("database", str(error).strip(), remedy)
            return
        yield from _of_the_database(connection)
        import django

        django.setup()
        from django.db import connections

        ending.callback(connections.close_all)
        yield from _of_what_runs(connection, last)


def _of_the_database(connection: "psycopg.Connection") -> Iterator[Finding]:
    for name, check in (
        ("database", database.check_version),
        ("pgvector", database.check_vector),
        ("durability", database.check_durability),
        ("connections", database.check_connections),
        ("clock", database.check_clock),
    ):
        yield guarded(name, functools.partial(check, connection))


def _of_what_runs(connection: "psycopg.Connection", last: int) -> Iterator[Finding]:
    from django.conf import settings

    from cartrita.embedded.checks import running

    migrated = guarded("migrations", running.check_migrations)
    yield migrated
    yield guarded("secret key", running.check_secret_key)
    if migrated.status == "ok":
        for name, check in (
            ("rights", database.check_rights),
            ("append-only", database.check_triggers),
            ("master key", running.check_master_key),
            ("sequencer", running.check_sequencer),
            ("tree heads", running.check_heads),
            ("projector", running.check_projector),
            ("turns", running.check_claims),
            ("approvals", running.check_approvals),
            ("circuits", running.check_circuits),
        ):
            yield guarded(name, functools.partial(check, connection))
        yield guarded("log", lambda: _log(connection, last))
        yield from _each(erasures=running.check_erasures, blobs=running.check_blobs, jobs=running.check_jobs)
    yield guarded("redis", running.check_redis)
    if settings.OPENAI_API_KEY:
        key, base_url = settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL
        yield guarded("models", lambda: running.check_provider(key=key, base_url=base_url))
    else:
        yield guarded("local model", host.check_local_model)
    yield guarded("settings", running.check_settings)


def _log(connection: "psycopg.Connection", last: int) -> Finding:
    from cartrita.embedded.checks import running

    # Server-side cursors need a transaction, and all of them one snapshot.
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        return running.check_log(connection, last)


def _database_url(ending: contextlib.ExitStack) -> str | Finding:
    """Return where the database is; the embedded one runs until `ending`, or what is wrong with it."""
    home = environment.home()
    if not os.environ.get("DATABASE_URL") and not postgres.has_database(home):
        return warn("database", f"none yet in {home}", "`make up` makes it.")
    try:
        server = environment.provide_database()
    except CartritaError as error:
        return fail("database", error.message, "Mend what it says; its log is in the home under postgres/.")
    if server is not None:
        ending.callback(server.release)
        # As the embedded start has it, where nobody has set it.
        bind, port = os.environ.get("CARTRITA_BIND") or "127.0.0.1", os.environ.get("PORT") or "8000"
        os.environ.setdefault("CARTRITA_URL", f"http://{bind}:{port}")
    return os.environ["DATABASE_URL"]


def _each(**checks: Callable[[], Finding]) -> Iterator[Finding]:
    for name, check in checks.items():
        yield guarded(name, check)


def _print(finding: Finding) -> None:
    sys.stdout.write(f"{_MARKS[finding.status]} {finding.name}: {finding.found}\n")
    if finding.remedy:
        sys.stdout.write(f"     -> {finding.remedy}\n")
    sys.stdout.flush()
