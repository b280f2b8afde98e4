"""The database as it is set up: version, extension, rights, durability, room for connections, clock."""

import time
from collections.abc import Callable
from typing import Any

import psycopg

from cartrita.embedded.checks.finding import Finding, fail, ok, warn

Connection = psycopg.Connection[Any]

OLDEST_SERVER = 150_000
OLDEST_VECTOR = (0, 8)
APPEND_ONLY = ("event", "log", "tick", "tree_head", "merkle_node", "installation", "signing_key")
# What one web process opens at most: threads of Django, the pool, and one each for sequencer, listener, hub,
# claims and the requests under way.
CONNECTIONS_OF_A_PROCESS = 20
CLOCK_WARN_SECONDS, CLOCK_FAIL_SECONDS = 1.0, 30.0


def check_version(connection: Connection) -> Finding:
    """Look at the server's version."""
    found = connection.info.server_version
    text = f"PostgreSQL {found // 10_000}.{found % 10_000}"
    if found < OLDEST_SERVER:
        return fail("database", text, "Upgrade to PostgreSQL 15 or newer (dump and restore, or pg_upgrade).")
    return ok("database", text)


def check_vector(connection: Connection) -> Finding:
    """Look at the extension for vectors."""
    row = connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
    if row is None:
        return fail("pgvector", "missing", "As the superuser, in this database: `CREATE EXTENSION vector`.")
    if tuple(int(part) for part in row[0].split(".")[:2]) < OLDEST_VECTOR:
        return fail(
            "pgvector", row[0], "Install pgvector 0.8 or newer, then `ALTER EXTENSION vector UPDATE`."
        )
    return ok("pgvector", row[0])


def check_rights(connection: Connection) -> Finding:
    """Look whether the role that serves can change what has happened."""
    (role, superuser) = _one(
        connection, "select rolname, rolsuper or rolbypassrls from pg_roles where rolname = current_user"
    )
    remedy = (
        "Let DATABASE_URL name a role that owns no table, and DATABASE_OWNER_URL the owner; then, as the "
        f"owner: `SELECT grant_to_application('{role}')`."
    )
    if superuser:
        return fail("rights", f"{role} is a superuser", remedy)
    owned = connection.execute(
        "select tablename from pg_tables where schemaname = 'public' and tablename = any(%s) "
        "and pg_has_role(current_user, tableowner, 'usage')",
        [list(APPEND_ONLY)],
    ).fetchall()
    if owned:
        return fail("rights", f"{role} owns {', '.join(sorted(row[0] for row in owned))}", remedy)
    may = connection.execute(
        "select t, p from unnest(%s::text[]) t, unnest(array['update', 'delete', 'truncate']) p "
        "where has_table_privilege(current_user, t, p)",
        [list(APPEND_ONLY)],
    ).fetchall()
    if may:
        return fail("rights", f"{role} may " + ", ".join(f"{p} {t}" for t, p in sorted(may)), remedy)
    lacks = connection.execute(
        "select tablename from pg_tables where schemaname = 'public' and not "
        "has_table_privilege(current_user, format('%I.%I', schemaname, tablename), 'select')"
    ).fetchall()
    if lacks:
        return fail("rights", f"{role} may not read {lacks[0][0]}", remedy)
    return ok("rights", f"{role} can add events and change none")


def check_triggers(connection: Connection) -> Finding:
    """Look whether the tables of facts refuse changes by anybody, the owner too."""
    rows = connection.execute(
        "select tgrelid::regclass::text from pg_trigger where tgname = 'append_only' and tgenabled = 'A'"
    ).fetchall()
    lacking = sorted(set(APPEND_ONLY) - {row[0] for row in rows})
    if lacking:
        return fail(
            "append-only", f"no trigger refuses changes of {', '.join(lacking)}",
            "As the owner: "
            + "; ".join(f"`ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only`" for table in lacking)
            + ". Then `manage.py verify_log`: somebody may have altered them.",
        )  # fmt: skip
    return ok("append-only", "changes are refused")


def check_durability(connection: Connection) -> Finding:
    """Look whether what is committed survives a power cut."""
    off = [
        name
        for name, unsafe in (("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off"))
        if _one(connection, f"show {name}")[0] == unsafe
    ]
    if off:
        return fail(
            "durability", f"{', '.join(off)} off",
            "Set in postgresql.conf: " + ", ".join(f"`{name} = on`" for name in off) + "; then restart it.",
        )  # fmt: skip
    return ok("durability", "fsync, full_page_writes, synchronous_commit on")


def check_connections(connection: Connection) -> Finding:
    """Look whether a further process finds room for its connections."""
    most, used, processes = _one(
        connection,
        "select current_setting('max_connections')::int "
        "- current_setting('superuser_reserved_connections')::int, "
        "(select count(*) from pg_stat_activity where backend_type = 'client backend'), "
        "(select count(*) from pg_stat_activity where application_name = 'cartrita listener')",
    )
    return judge_connections(used=used, most=most, processes=processes)


def judge_connections(*, used: int, most: int, processes: int) -> Finding:
    """Add up what the processes that run may still open."""
    need = max(processes, 1) * CONNECTIONS_OF_A_PROCESS
    found = f"{used} of {most} in use, processes that run may take {need}"
    remedy = "Raise max_connections, run fewer processes, or put a pooler (transaction mode off) before it."
    if used >= most * 0.9:
        return fail("connections", found, remedy)
    return warn("connections", found, remedy) if need > most else ok("connections", found)


def check_clock(connection: Connection, now: Callable[[], float] = time.time) -> Finding:
    """Compare this machine's clock with the database's."""
    before = now()
    (there,) = _one(connection, "select extract(epoch from clock_timestamp())::float8")
    difference = abs(there - (before + now()) / 2)
    found = f"{difference:.3f} s from the database's"
    remedy = "Let both machines keep time by NTP (chrony, systemd-timesyncd)."
    if difference > CLOCK_FAIL_SECONDS:
        return fail("clock", found, remedy)
    return warn("clock", found, remedy) if difference > CLOCK_WARN_SECONDS else ok("clock", found)


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query.encode()).fetchone()
    if row is None:
        raise LookupError(f"no row for {query}")
    return row
