"""manage.py: every command finds its secrets and database, in the environment or by the embedded start."""

import os
import sys

from cartrita.errors import CartritaError

# These make or judge a home: no key may be made in it before, and no database started. They are the modules
# of that name here.
WITHOUT_HOME = {"doctor", "restore"}
# These need no database; the rest do, or may.
WITHOUT_DATABASE = {
    "", "help", "version", "--help", "-h", "--version", "check", "collectstatic", "compilemessages",
    "diffsettings", "events_docs", "makemessages", "spectacular", "startapp", "up",
}  # fmt: skip
# Nor do these parts of `policy`, which look at files alone.
POLICY_FILES = {"", "check", "names", "test", "--help", "-h"}
# These change tables, or rows that the serving role may not change.
AS_OWNER = {"makemigrations", "migrate", "rebuild_projections", "showmigrations", "sqlmigrate"}
# These act in somebody's name, also in a home that was never started.
NEEDS_PEOPLE = {"ask"}
# These look at the schema as it is.
ON_ANY_SCHEMA = {
    "backup", "dbshell", "makemigrations", "migrate", "showmigrations", "sqlmigrate", "inspectdb",
}  # fmt: skip


def run_command_line(argv: list[str]) -> None:
    """Run a management command, with the embedded PostgreSQL where no DATABASE_URL is set.

    Uses the server that runs under this home, else starts one and stops it afterwards. Exits with 1 and one
    clear line on a foreseen failure.
    """
    from cartrita.embedded import environment

    command = argv[1] if len(argv) > 1 else ""
    server = None
    try:
        if command == "up":
            if len(argv) > 2:
                sys.stderr.write("usage: manage.py up\nStart everything; PORT and CARTRITA_HOME say where.\n")
                sys.exit(0 if argv[2] in ("-h", "--help") else 2)
            from cartrita.embedded import supervisor

            sys.exit(supervisor.run())
        # A command says what it has to say itself; its log is for what goes wrong.
        os.environ.setdefault("CARTRITA_LOG_LEVEL", "WARNING")
        if command in WITHOUT_HOME:
            sys.exit(_run_without_home(command, argv[2:]))
        environment.provide_secrets()
        if _needs_database(command, argv[2] if len(argv) > 2 else ""):
            server = environment.provide_database()
            embedded = server is not None
            owner_url = os.environ["DATABASE_OWNER_URL"]
            if command in AS_OWNER:
                os.environ["DATABASE_URL"] = owner_url
            if embedded and command not in ON_ANY_SCHEMA:
                _bring_up_to_date(with_people=command in NEEDS_PEOPLE)
        _execute(argv)
    except CartritaError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(1)
    finally:
        if server is not None:
            from django.db import connections

            connections.close_all()
            server.release()


def _run_without_home(command: str, arguments: list[str]) -> int:
    from importlib import import_module

    code: int = import_module(f"cartrita.embedded.{command}").run(arguments)
    return code


def _needs_database(command: str, part: str) -> bool:
    return command not in WITHOUT_DATABASE and not (command == "policy" and part in POLICY_FILES)


def _bring_up_to_date(*, with_people: bool) -> None:
    import django

    from cartrita.embedded.schema import bring_up_to_date

    django.setup()
    bring_up_to_date()
    if with_people:
        from cartrita.embedded import starter

        starter.provide()


def _execute(argv: list[str]) -> None:
    from django.core.management import execute_from_command_line

    from cartrita import telemetry

    telemetry.set_up("orchestrator" if argv[1:2] == ["run_orchestrator"] else "command")
    execute_from_command_line(argv)
