"""Bring the database to the schema of this code: one process at a time, and never backwards."""

import contextlib
from collections.abc import Iterator

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from cartrita.eventstore.schema import check_not_newer

# Any number will do, as long as every process of every version takes the same one.
MIGRATION_LOCK = 0x0CA7_71A


def bring_up_to_date(*, verbosity: int = 0) -> bool:
    """Apply missing migrations as the owner of the tables; returns whether there were any.

    Processes that start together wait for one another. Raises SchemaTooNew.
    """
    with as_owner():
        executor = MigrationExecutor(connections["default"])
        check_not_newer(executor)
        if not executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return False
        call_command("migrate", verbosity=verbosity, interactive=False)  # takes the lock
    return True


@contextlib.contextmanager
def migration_lock() -> Iterator[None]:
    """Hold the advisory lock of migrations on a connection of its own (a migration may close Django's)."""
    connection = connections["default"].copy()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        yield
    finally:
        connection.close()


@contextlib.contextmanager
def as_owner() -> Iterator[None]:
    """Let this thread's Django connection be the owner's, for the time of the block."""
    connection = connections["default"]
    served_as = connection.settings_dict
    owner = psycopg.conninfo.conninfo_to_dict(settings.DATABASE_OWNER_URL)
    connection.close()
    # The owner's connection is its own: a pool of requests' connections is the serving role's.
    options = {name: value for name, value in served_as["OPTIONS"].items() if name != "pool"}
    connection.settings_dict = {
        **served_as,
        "OPTIONS": options,
        "NAME": owner.get("dbname", ""),
        "USER": owner.get("user", ""),
        "PASSWORD": owner.get("password", ""),
        "HOST": owner.get("host", ""),
        "PORT": owner.get("port", ""),
    }
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict = served_as
