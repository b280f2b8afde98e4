from typing import Any

from django.core.management.commands import migrate
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from cartrita.embedded.schema import migration_lock
from cartrita.eventstore.schema import check_not_newer


class Command(migrate.Command):
    """Django's migrate, one process at a time, refusing a database that a newer version has migrated.

    Ends with the rights of the roles that do not own what was made.
    """

    def handle(self, *args: Any, **options: Any) -> None:
        """Run it under the advisory lock."""
        with migration_lock():
            check_not_newer(MigrationExecutor(connections[options["database"]]))
            super().handle(*args, **options)
            if not (options["plan"] or options["check_unapplied"]):
                _grant(options["database"])


def _grant(database: str) -> None:
    with connections[database].cursor() as cursor:
        # Migrations that lead back before it take the function along.
        cursor.execute("select to_regprocedure('grant_to_roles()') is not null")
        if cursor.fetchone() == (True,):
            cursor.execute("select grant_to_roles()")
