"""A person is erased: what they wrote and who they were is in no table, blob, export or backup."""

import asyncio
import base64
import json
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import run
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings as django_settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.utils import timezone

from cartrita.accounts import commands as accounts
from cartrita.accounts.models import User
from cartrita.accounts.sign_in import WrongCredentials
from cartrita.embedded.backup import back_up, program
from cartrita.eventstore import Sequencer, head, in_database_thread, run_following
from cartrita.eventstore.collection import collect_blobs
from cartrita.eventstore.nodes import StoredTree
from cartrita.eventstore.proofs import InclusionProof
from cartrita.eventstore.rows import COLUMNS, leaf_of
from cartrita.eventstore.store import execute
from governance.commands import approvals
from tasks_app.models import PlanRow, RunRow, TaskRow
from tests.databases import Database
from tests.flows.conftest import Person, ScriptedModel, reply_to, running
from tests.flows.governed import Reviewer, a_reviewer, escalating, requested, rules

# Each occurs nowhere else. Two have letters that JSON escapes.
ADDRESS, NAME = "quillfeather@vexillology.example", "Ottoline Quïllfeather"
WORDS = {
    "address": ADDRESS,
    "name": NAME,
    "asked": "zwiebelküchlein",
    "answered": "wolkenkuckucksheim",
    "file name": "brachiopods.md",
    "document": "quastenflosser",
    "its stem": "quastenfloss",
    "arguments": "marzipanschnecke",
    "large arguments": "sumpfdotterblume",
    "comment": "haselnusstorte",
    "question": "pfifferlinge",
    "token": "gewitterziege",
    "metadata": "donaudampfschiff",
    "posted": "fledermausohr",
    "failure": "kaffeekränzchen",
}


OPEN = ("proposed", "accepted", "pending", "blocked", "waiting", "running")
ROWS = f"select position, {COLUMNS} from log join event using (stream_id, version)"


def shapes(word: str) -> Iterator[bytes]:
    """Yield a word as it may stand in a dump: plain, escaped, in base64 at each offset; each in hex too."""
    plain = word.encode()
    once = json.dumps(word)[1:-1]
    twice = json.dumps(once)[1:-1]
    written = {plain, once.encode(), twice.encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # Without the characters that neighbours share.
            whole = encode(b"\0" * offset + plain).rstrip(b"=")
            end = len(whole) - 1 if (offset + len(plain)) % 3 else len(whole)
            written.add(whole[(offset * 8 + 5) // 6 : end])
    for shape in written:
        yield shape
        yield shape.hex().encode()
        # What COPY makes of a backslash.
        yield shape.replace(b"\\", b"\\\\")


def tables_holding(database: Database, words: dict[str, str]) -> list[tuple[str, str]]:
    """Return which table holds which word, in whatever shape."""
    found = []
    with psycopg.connect(database.superuser_url) as connection:
        names = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables "
            "where schemaname not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (name,) in names:
            with connection.cursor().copy(f"copy {name} to stdout".encode()) as rows:
                content = b"".join(bytes(row) for row in rows)
            found += [(name, what) for what, word in words.items() if holds(content, word)]
    return found


def holds(content: bytes, word: str) -> bool:
    lower = content.lower()
    return any(shape in content or shape.lower() in lower for shape in shapes(word))


class TestShapes:
    @pytest.mark.parametrize("word", WORDS.values())
    def test_find_a_word_however_it_is_written(self, word: str) -> None:
        text = f"It says {word}, doesn't it?"
        for offset in range(3):
            for written in (
                text,
                json.dumps(text),
                json.dumps({"in": json.dumps({"text": text})}),
                base64.b64encode((" " * offset + text).encode()).decode(),
                base64.urlsafe_b64encode((" " * offset + text).encode()).decode(),
            ):
                assert holds(written.encode(), word), written
                assert holds(written.replace("\\", "\\\\").encode(), word), written
                assert holds(written.encode().hex().encode(), word), written


@pytest.mark.usefixtures("consistent")
class TestErasedPerson:
    @pytest.mark.timeout(240)
    async def test_is_in_nothing_that_is_kept_or_made_afterwards(
        self, database: Database, model: ScriptedModel, tmp_path: Path, settings: Any
    ) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text(rules(escalating("ask-first", "tool_call", tools=["execute_python"])))
        settings.POLICY_FILE = str(policy)
        user = await in_database_thread(accounts.ensure_user, email=ADDRESS, display_name=NAME)
        workspace_id = await in_database_thread(
            accounts.create_workspace, name="Flows", owner_id=user.id, actor="system"
        )
        person = Person(user.id, workspace_id)
        reviewer = await in_database_thread(a_reviewer, person)
        model.answers({"text": f"That is {WORDS['answered']}."})
        async with running():
            session_id = await self.lives(person, reviewer)
            found = tables_holding(database, {"address": ADDRESS, "name": NAME})
            assert {table for table, _ in found} >= {"public.accounts_user"}, "the search finds nothing"
            proven = await in_database_thread(prove)
            await in_database_thread(accounts.erase_person, user_id=user.id, actor="system")
            await asyncio.sleep(1)
        await Sequencer().order()
        await in_database_thread(run_following)
        await in_database_thread(collect_blobs)

        assert tables_holding(database, WORDS) == []
        for table in ("retrieval_chunks", "retrieval_vectors", "retrieval_postings", "streaming_delta"):
            with psycopg.connect(database.superuser_url) as connection:
                assert connection.execute(f"select count(*) from {table}").fetchone() == (0,), table
        await in_database_thread(still_prove, proven)
        await in_database_thread(nothing_runs, session_id)
        for what, content in (await in_database_thread(exports, database, tmp_path, session_id)).items():
            assert [name for name, word in WORDS.items() if holds(content, word)] == [], what

    async def lives(self, person: Person, reviewer: Reviewer) -> UUID:
        """Do everything that leaves a trace."""
        session_id = await person.opens_session()
        text = f"# Fish\n\nThe {WORDS['document']} lives near the Comoros.\n"
        await person.attaches(session_id, WORDS["file name"], text.encode())
        await person.asks(session_id, f"What is a {WORDS['asked']}?")
        code = f"print('{WORDS['arguments']}')"
        for number, each in enumerate(
            (code, f"# {'x' * 6000}\nprint('{WORDS['large arguments']}' * 400)"), 1
        ):
            message_id = await person.says(session_id, "/execute_python " + json.dumps({"code": each}))
            approval_id = await requested(session_id, number=number)

            def talk(approval_id: UUID = approval_id) -> None:
                caller = reviewer.caller
                approvals.comment(approval_id=approval_id, caller=caller, text=WORDS["comment"])
                approvals.ask(approval_id=approval_id, caller=caller, text=WORDS["question"])

            await in_database_thread(talk)
            await reviewer.approves(approval_id)
            await reply_to(session_id, message_id)
        message_id = await person.says(session_id, python(f"raise ValueError('{WORDS['failure']}')"))
        await reviewer.approves(await requested(session_id, number=3))
        await reply_to(session_id, message_id)
        await in_database_thread(self.talks_as_a_program, person, session_id)
        # A turn that waits for a reviewer when the person goes.
        await person.says(
            session_id, "/execute_python " + json.dumps({"code": f"print('{WORDS['arguments']}')"})
        )
        await requested(session_id, number=4)
        return session_id

    def talks_as_a_program(self, person: Person, session_id: UUID) -> None:
        now = timezone.now()
        token = accounts.issue_token(
            user_id=person.user_id, workspace_id=person.workspace_id, name=WORDS["token"],
            scopes=["read", "write"], actor=person.actor, now=now,
        )  # fmt: skip
        client = Client()
        made = client.post(
            "/api/v2/sessions",
            {"metadata": {"note": WORDS["metadata"]}},
            content_type="application/json",
            headers={"Authorization": f"Bearer {token.secret}", "Idempotency-Key": "one"},
        )
        assert made.status_code == 201, made.content
        posted = client.post(
            made.headers["Location"] + "/messages",
            {"content": WORDS["posted"], "metadata": {"note": WORDS["metadata"]}},
            content_type="application/json",
            headers={"Authorization": f"Bearer {token.secret}", "Idempotency-Key": "two"},
        )
        assert posted.status_code in {201, 202}, posted.content

        with pytest.raises(WrongCredentials):
            accounts.check_credentials(email=ADDRESS, password="wrong", address="127.0.0.1", now=now)
        accounts.issue_sign_in_link(user_id=person.user_id, now=now, lifetime=timedelta(minutes=5))
        user = User.objects.get(id=person.user_id)
        LogEntry.objects.create(
            user_id=person.user_id,
            content_type=ContentType.objects.get_for_model(User),
            object_id=str(user.pk),
            object_repr=str(user),
            action_flag=CHANGE,
            change_message=json.dumps([{"changed": {"fields": ["Display name"]}}]),
        )


def python(code: str) -> str:
    return "/execute_python " + json.dumps({"code": code})


def prove() -> list[tuple[InclusionProof, bytes]]:
    """Return a proof of each event there is, with the root that it leads to."""
    asyncio.run(Sequencer().order())
    size, tree = head(), StoredTree()
    return [(tree.inclusion(position, size), tree.root(size)) for position in range(1, size + 1)]


def still_prove(proven: list[tuple[InclusionProof, bytes]]) -> None:
    """The proofs of before hold for the rows of now."""
    rows = {row[0]: row for row in execute(ROWS).fetchall()}
    for proof, root in proven:
        assert leaf_of(rows[proof.position][1:]) == proof.leaf
        assert proof.proves(root)


def nothing_runs(session_id: UUID) -> None:
    """No row says that somebody still works on what nobody can read."""
    for rows in (PlanRow, TaskRow, RunRow):
        left = rows.objects.filter(session_id=session_id, status__in=OPEN)
        assert list(left.values_list("status", flat=True)) == [], rows


def exports(database: Database, folder: Path, session_id: UUID) -> dict[str, bytes]:
    """Return what is made of the database afterwards, by the name of what it is."""
    archive = folder / "after.backup"
    keys = folder / "after.keys"
    back_up(
        archive, owner_url=django_settings.DATABASE_BACKUP_URL, home=Path(django_settings.HOME), keys=keys,
        passphrase=None, now=timezone.now(), tell=lambda _: None,
    )  # fmt: skip
    with zipfile.ZipFile(archive) as parts:
        (folder / "dump").write_bytes(parts.read("database.dump"))
    dumped = run(
        [program("pg_restore", 180000), "--file", "-", folder / "dump"], check=True, capture_output=True
    ).stdout
    return {"the backup": dumped, "its keys": keys.read_bytes()}
