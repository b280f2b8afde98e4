"""Whether the database has the schema of this code. Every process asks before it works."""

from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from cartrita.errors import CartritaError


class SchemaTooNew(CartritaError):
    """A newer version of Cartrita has migrated this database; this version would misread it."""

    code = "schema_too_new"
    status = 503


class SchemaTooOld(CartritaError):
    """Migrations are missing and this process may not apply them."""

    code = "schema_too_old"
    status = 503


def check_not_newer(executor: MigrationExecutor) -> None:
    """Raise SchemaTooNew when the database has a migration of an installed app that the code lacks."""
    known = set(executor.loader.disk_migrations)
    apps = executor.loader.migrated_apps
    # A squashed migration names what it replaces: those are not "newer".
    replaced = {key for migration in executor.loader.disk_migrations.values() for key in migration.replaces}
    unknown = sorted(
        f"{app}.{name}"
        for app, name in executor.loader.applied_migrations
        if app in apps and (app, name) not in known and (app, name) not in replaced
    )
    if unknown:
        raise SchemaTooNew(
            f"The database has migrations that this version does not know: {', '.join(unknown)}. Start the "
            "newer version of Cartrita, or restore a backup made by this one.",
            migrations=unknown,
        )


def check_up_to_date() -> None:
    """Raise SchemaTooOld or SchemaTooNew unless the database has exactly this code's schema."""
    executor = MigrationExecutor(connections["default"])
    check_not_newer(executor)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = [f"{migration.app_label}.{migration.name}" for migration, _ in missing]
        raise SchemaTooOld(
            f"The database lacks {len(names)} migrations, the first is {names[0]}: run `manage.py migrate`.",
            migrations=names,
        )
