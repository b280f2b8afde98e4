"""The fixtures that every other test stands on."""

import threading

import psycopg
import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction

from tests.databases import Database


class TestDatabaseFixture:
    @pytest.mark.parametrize("round_", [1, 2])
    def test_starts_from_the_template_each_time(self, database: Database, round_: int) -> None:
        assert not ContentType.objects.filter(app_label="left").exists()
        ContentType.objects.create(app_label="left", model="behind")

    def test_commits_for_others_to_see(self, database: Database) -> None:
        with transaction.atomic():
            ContentType.objects.create(app_label="seen", model="elsewhere")
        with psycopg.connect(database.url) as other:
            found = other.execute("SELECT 1 FROM django_content_type WHERE app_label = 'seen'").fetchone()
        assert found

    def test_serves_as_a_role_that_owns_nothing(self, database: Database) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, current_database()")
            assert cursor.fetchone() == ("cartrita_app", database.name)
            with pytest.raises(Exception, match="permission denied for schema"):
                cursor.execute("CREATE TABLE t (a int)")

    def test_lets_django_connect_as_owner(self, database: Database) -> None:
        with database.as_owner(), connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == ("cartrita_owner",)
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == ("cartrita_app",)

    def test_reaches_the_connections_of_other_threads(self, database: Database) -> None:
        names: list[str] = []

        def look() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                names.append(cursor.fetchone()[0])

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert names == [database.name]

    async def test_works_in_asynchronous_tests(self, database: Database) -> None:
        await ContentType.objects.acreate(app_label="from", model="asyncio")
        assert await ContentType.objects.filter(app_label="from").aexists()
