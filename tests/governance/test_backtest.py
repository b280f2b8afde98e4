"""Back-tests: what they count, how they run and end, and where they are asked for."""

import dataclasses
import io
import json
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any

import orjson
import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore import append, erase_key, load, new_id, put_blob
from cartrita.eventstore.collection import collect_blobs
from governance.backtest import history, runner, worker
from governance.backtest.back_test import (
    BackTestEnded,
    MayNotBackTest,
    NoHistory,
    NoReport,
    TooManyBackTests,
    UnknownBackTest,
)
from governance.backtest.engine import Redecider
from governance.commands import backtests as commands_of_back_tests
from governance.commands.backtests import cancel_back_test, request_back_test
from governance.decide import GrantFact
from governance.doors import make_decision
from governance.models import BackTest, BackTestProgress
from governance.policy import PolicyNotValid, PolicySet, policy_text
from governance.queries.backtests import latest, report
from governance.rulebook import UnknownPolicy
from governance.step import take_step
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.backtests import (
    as_counted,
    caller,
    carried_out,
    counted_plainly,
    order,
    reported,
    without_zeros,
)
from tests.governance.consoles import guardian
from tests.governance.policies import NOON, rule, yaml_policy
from tests.governance.steps import Place, settled

CHECKOUT = Path(__file__).resolve().parents[2]
RULES = [
    rule("ok", "allow", priority=900),
    rule("ask-for-python", "escalate", "tool.name == 'python'", parameters={"scopes": ["once", "session"]}),
    rule("no-secrets", "deny", "tool.name == 'send' && 'secret' in labels"),
    rule("slowly", "throttle", "tool.name == 'fetch'", parameters={"rate": "2/hour"}, priority=950),
    rule("in-all", "audit", "1 < 2", match={"kinds": ["model_call"]}),
    rule("look", "audit", "args.expression == '7'", priority=800),
    rule("may-err", "audit", "int(args.expression) > 100", priority=801),
]
TEXT = "{policy: x, rules: [{name: a, sentence: b, match: {kinds: [plan]}, outcome: allow}]}"
STRICTER = [
    *RULES[:2],
    rule("no-send", "deny", "tool.name == 'send'"),
    rule("ask-for-large", "escalate", "cost.tokens > 50"),
    rule("watch-fetch", "audit", "tool.name == 'fetch'"),
    RULES[3],
]
SLOWER = [
    *RULES[:3],
    rule("slowly", "throttle", "tool.name == 'fetch'", parameters={"rate": "1/minute"}, priority=950),
    rule("slow-person", "throttle", "true", parameters={"rate": "3/minute", "per": "user"}, priority=951),
]

ACTS = st.tuples(
    st.sampled_from(["tool_call", "model_call", "retrieval", "message_out", "plan"]),
    st.booleans(),
    st.fixed_dictionaries(
        {
            "tool": st.sampled_from(["send", "fetch", "python", "calculate", ""]),
            "tokens": st.integers(0, 100),
            "arguments": st.dictionaries(st.just("expression"), st.sampled_from(["7", "x", "400", 3])),
            "may_add": st.sampled_from([(), ("secret",)]),
        }
    ),
)

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.flow]


def act_and_settle(place: Place, at: Any, **act: Any) -> None:
    """Decide on one act, and settle it where it may happen."""
    (decided,) = take_step(context=place.context, acts=[place.act(**act)], now=at)
    if decided.permit is not None:
        spent = settled(
            decided.decision_id, tokens=act.get("tokens", 0) // 2, cost_micros=act.get("micros", 0)
        )
        take_step(context=place.context, settlements=[spent], now=at)


@pytest.fixture
def place() -> Place:
    made = Place()
    made.follows(*RULES)
    return made


@pytest.fixture
def ann(database: Database) -> Person:
    return someone(roles=("member", "admin"))


def some_history(place: Place) -> PolicySet:
    """Decide on some acts in three sessions and return the set that decided."""
    places = [place, place.another_session(), place.another_session()]
    tools = ["calculate", "send", "fetch", "fetch", "python", "send", "calculate", "fetch"]
    for number in range(40):
        act_and_settle(
            places[number % 3],
            NOON + timedelta(seconds=7 * number),
            tool=tools[number % len(tools)],
            tokens=number * 3,
            micros=number * 10,
            may_add=("secret",) if number == 9 else (),
            arguments={"expression": str(number) if number % 5 else "x"},
        )
    return yaml_policy(*RULES)


class TestBackTest:
    def test_of_the_set_in_force_changes_nothing(self, place: Place) -> None:
        original = some_history(place)
        found = reported(place, original)
        assert found["trustworthy"]
        assert (found["changed"], found["by_another_rule"], found["sessions"]["changed"]) == (0, 0, 0)
        assert found["decisions"]["decided_again"] == found["decisions"]["reached"] == 40

    @pytest.mark.parametrize("rules", [STRICTER, SLOWER, [rule("nothing", "deny")], [rule("all", "allow")]])
    def test_counts_what_is_counted_plainly(self, place: Place, rules: list[Any]) -> None:
        original, tested = some_history(place), yaml_policy(*rules)
        found = reported(place, tested)
        plainly = counted_plainly(place.workspace_id, tested, {original.content_hash: original})
        assert as_counted(found) == without_zeros(plainly)
        assert found["trustworthy"]
        assert found["changed"] > 0

    def test_takes_the_quick_way_for_ordinary_decisions(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        some_history(place)
        monkeypatch.setattr(Redecider, "_plainly", lambda *_: pytest.fail("decided in the plain way"))
        assert reported(place, yaml_policy(*STRICTER))["decisions"]["decided_again"] == 40

    def test_is_the_same_in_the_plain_way(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        some_history(place)
        tested = yaml_policy(*STRICTER, *SLOWER[4:])
        quickly = as_counted(reported(place, tested))
        monkeypatch.setattr(Redecider, "_read", _without_its_request)
        assert as_counted(reported(place, tested)) == quickly

    def test_is_the_same_in_many_processes(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        some_history(place)
        tested = yaml_policy(*STRICTER, *SLOWER[4:])
        here = reported(place, tested)
        monkeypatch.setattr(runner, "FEW", 0)
        monkeypatch.setattr(runner, "TASK_DECISIONS", 5)
        there = reported(place, tested, until=NOON + timedelta(days=9))
        same = here.keys() - {"back_test_id", "until", "milliseconds", "decisions_a_second", "processes"}
        same -= {"peak_memory_bytes", "up_to"}
        assert {name: there[name] for name in same} == {name: here[name] for name in same}
        assert there["processes"] == 2

    def test_counts_what_was_erased_as_not_re_decidable(self, place: Place) -> None:
        original = some_history(place)
        erase_key(place.key_id)
        found = reported(place, original)
        assert found["decisions"]["erased"] == found["decisions"]["not_redecidable"] == 14
        assert found["decisions"]["decided_again"] == 26
        assert found["trustworthy"]

    def test_says_so_where_all_is_erased(self, place: Place) -> None:
        act_and_settle(place, NOON)
        erase_key(place.key_id)
        found = reported(place, yaml_policy(*STRICTER))
        assert (found["decisions"]["erased"], found["decisions"]["decided_again"]) == (1, 0)
        assert (found["matrix"], found["approvals"]["more_a_day"], found["span_of_days"]) == ({}, 0.0, 0)

    def test_names_decisions_that_come_out_otherwise_under_their_own_set(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = some_history(place)
        other = yaml_policy(*RULES[:2], rule("no-secrets", "deny", "tool.name == 'send'"), *RULES[3:])
        monkeypatch.setattr(worker, "policy_set", lambda _: replace_hash(other, original))
        found = reported(place, original)
        assert not found["trustworthy"]
        assert found["self_check"]["differences"] > 0
        one = found["self_check"]["shown"][0]
        assert (one["recorded"], one["now"], one["now_rule"]) == ("allow", "deny", "no-secrets")
        assert {"outcome", "rule", "reason"} <= set(one["fields"])

    def test_takes_those_of_a_time_and_session_alone(self, place: Place) -> None:
        original = some_history(place)
        half = NOON + timedelta(seconds=7 * 20)
        assert reported(place, original, since=half)["decisions"]["looked_at"] == 20
        assert reported(place, original, until=half)["decisions"]["looked_at"] == 20
        assert reported(place, original, session_id=place.session_id)["decisions"]["looked_at"] == 14

    def test_covers_what_a_grant_for_the_same_rule_covered(self, place: Place) -> None:
        grant = GrantFact(
            approval_id=new_id(),
            rule="ask-for-python",
            rule_hash=yaml_policy(*RULES).rule_hashes["ask-for-python"],
            scope="session",
        )
        asked = place.act("python", arguments={"expression": "8"}).request.with_facts(grants=(grant,))
        policy = yaml_policy(*RULES)
        put_blob(policy.text.encode(), key_id=None)
        _, append_of, permit = make_decision(
            asked, decision_id=new_id(), context=place.context, policy=policy
        )
        assert permit is not None
        append(append_of)
        assert reported(place, policy)["changed"] == 0
        other = rule("ask-for-python", "escalate", "tool.name in ['python', 'shell']")
        found = reported(place, yaml_policy(RULES[0], other))
        assert found["matrix"] == {"allow": {"escalate": 1}}

    def test_reads_large_arguments_from_their_blobs(self, place: Place) -> None:
        place.follows(RULES[0])
        long = {"expression": "x" * 5000, "messages": [{"content": "y" * 500} for _ in range(30)], "n": 1e17}
        act_and_settle(place, NOON, arguments=long)
        reading = rule("long", "deny", "size(string(args.expression)) > 4000 && size(args.messages) == 30")
        found = reported(place, yaml_policy(RULES[0], reading))
        assert found["matrix"] == {"allow": {"deny": 1}}

    def test_works_the_buckets_out_as_steps_fill_them(self, place: Place) -> None:
        some_history(place)
        renamed = [*RULES[:3], {**RULES[3], "name": "slowly-too"}, *RULES[4:]]
        found = reported(place, yaml_policy(*renamed))
        assert found["throttles"]["worked_out"] == ["slowly-too"]
        assert (found["changed"], found["throttles"]["held_up"] > 0) == (0, True)

    @settings(
        max_examples=8,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.lists(ACTS, min_size=1, max_size=12), st.permutations(RULES), st.permutations(STRICTER))
    def test_of_any_history_differs_from_nothing_and_counts_right(
        self, database: Database, acts: list[Any], rules: list[Any], others: list[Any]
    ) -> None:
        place = Place()
        place.follows(*rules)
        for number, (kind, second, act) in enumerate(acts):
            whose = place if second else place.another_session()
            act_and_settle(whose, NOON + timedelta(minutes=number), subject_kind=kind, **act)
        original, tested = yaml_policy(*rules), yaml_policy(*others[:3])
        active = reported(place, original)
        assert (active["trustworthy"], active["changed"]) == (True, 0)
        plainly = counted_plainly(place.workspace_id, tested, {original.content_hash: original})
        assert as_counted(reported(place, tested)) == without_zeros(plainly)


class TestRequestedBackTest:
    def test_is_that_which_runs_already(self, place: Place) -> None:
        act_and_settle(place, NOON)
        asked: dict[str, Any] = {"workspace_id": place.workspace_id, "caller": caller(place)}
        first, new = request_back_test(**asked, text=yaml_policy(*STRICTER).text)
        assert new
        assert request_back_test(**asked, text=yaml_policy(*STRICTER).text) == (first, False)
        assert request_back_test(**asked, text=yaml_policy(*RULES).text)[1]
        assert request_back_test(**asked, text=yaml_policy(*STRICTER).text, since=NOON)[1]

    @pytest.mark.parametrize(
        ("asked", "error", "said"),
        [
            ({"policy_hash": "0" * 64}, UnknownPolicy, "No policy with the hash"),
            ({"text": "policy: x\nrules: [{name: a}]"}, PolicyNotValid, "2:9"),
            ({"since": NOON, "until": NOON}, BadInput, "until is not after since"),
            ({"since": NOON.replace(tzinfo=None)}, BadInput, "since has no time zone"),
            ({"text": TEXT, "since": NOON + timedelta(days=400)}, NoHistory, "No decision lies in that time"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, place: Place, asked: Any, error: Any, said: str) -> None:
        act_and_settle(place, NOON)
        with pytest.raises(error, match=said):
            request_back_test(workspace_id=place.workspace_id, caller=caller(place), **asked)

    def test_refuses_an_empty_history(self, place: Place) -> None:
        with pytest.raises(NoHistory, match="Nothing was decided"):
            request_back_test(workspace_id=place.workspace_id, caller=caller(place), text=TEXT)

    @pytest.mark.parametrize("role", ["member", "operator"])
    def test_needs_a_role(self, place: Place, role: str) -> None:
        with pytest.raises(MayNotBackTest):
            request_back_test(workspace_id=place.workspace_id, caller=caller(place, role))

    def test_keeps_its_report_when_blobs_are_collected(self, place: Place) -> None:
        original = some_history(place)
        row = carried_out(place, original)
        collect_blobs(grace=timedelta())
        assert report(row)["decisions"]["decided_again"] == 40
        assert latest(place.workspace_id, original.content_hash) == row


class TestCancelledBackTest:
    def test_has_no_report(self, place: Place) -> None:
        act_and_settle(place, NOON)
        order()
        asked: dict[str, Any] = {"workspace_id": place.workspace_id, "caller": caller(place)}
        back_test_id, _ = request_back_test(**asked, text=yaml_policy(*RULES).text)
        cancel_back_test(back_test_id=back_test_id, caller=caller(place))
        cancel_back_test(back_test_id=back_test_id, caller=caller(place))
        assert runner.run_next(threading.Event()) is None
        row = BackTest.objects.get(id=back_test_id)
        assert row.status == "cancelled"
        with pytest.raises(NoReport, match="was cancelled"):
            report(row)

    @pytest.mark.parametrize("few", [0, 2000])
    def test_ends_in_the_middle(self, place: Place, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
        some_history(place)
        order()
        monkeypatch.setattr(runner, "FEW", few)
        monkeypatch.setattr(runner, "TASK_DECISIONS", 5)
        back_test_id, _ = request_back_test(
            workspace_id=place.workspace_id, caller=caller(place), text=yaml_policy(*STRICTER).text
        )
        counted = history.counted

        def cancelled_meanwhile(*given: Any) -> Any:
            cancel_back_test(back_test_id=back_test_id, caller=caller(place))
            return counted(*given)

        monkeypatch.setattr(history, "counted", cancelled_meanwhile)
        slowly = runner._tasks_in_sessions

        def one_by_one(*given: Any) -> Any:
            for task in slowly(*given):
                time.sleep(2 * runner.BEAT_SECONDS)
                yield task

        monkeypatch.setattr(runner, "_tasks_in_sessions", one_by_one)
        assert runner.run_next(threading.Event()) == back_test_id
        assert BackTest.objects.get(id=back_test_id).status == "cancelled"
        assert [one.type_name for one in load(back_test_id)][1:] == ["governance.BackTestCancelled"]

    def test_is_over(self, place: Place) -> None:
        row = carried_out(place, some_history(place))
        with pytest.raises(BackTestEnded, match="completed already"):
            cancel_back_test(back_test_id=row.id, caller=caller(place))
        with pytest.raises(UnknownBackTest):
            cancel_back_test(back_test_id=row.id, caller=caller(Place()))


class TestCarriedOut:
    def test_begins_anew_after_a_crash_and_reports_once(
        self, place: Place, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that carries one out is killed; the next one takes over at once."""
        some_history(place)
        order()
        text = yaml_policy(*STRICTER).text
        back_test_id, _ = request_back_test(workspace_id=place.workspace_id, caller=caller(place), text=text)
        program = (
            "import django, threading, time; django.setup()\n"
            "from governance.backtest import runner\n"
            "runner.report_of = lambda *_, **__: time.sleep(60)\n"
            "runner.FEW = 0\n"
            "runner.run_next(threading.Event())\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT) as first:
            try:
                until(lambda: BackTestProgress.objects.filter(decisions=40).exists())
                assert runner.run_next(threading.Event()) is None
            finally:
                first.kill()
        until(lambda: runner.run_next(threading.Event()) == back_test_id)
        kinds = [one.type_name for one in load(back_test_id)]
        assert kinds == ["governance.BackTestRequested", "governance.BackTestCompleted"]
        assert not BackTestProgress.objects.exists()

    def test_fails_where_its_process_ends_again_and_again(self, place: Place) -> None:
        some_history(place)
        asked: dict[str, Any] = {"workspace_id": place.workspace_id, "caller": caller(place)}
        back_test_id, _ = request_back_test(**asked, text=yaml_policy(*RULES).text)
        for _ in range(runner.MOST_STARTS):
            runner._begin(back_test_id)
        runner.run_next(threading.Event())
        row = BackTest.objects.get(id=back_test_id)
        assert (row.status, row.code) == ("failed", "back_test_broken")

    def test_says_what_failed_and_where_but_none_of_its_words(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        some_history(place)
        monkeypatch.setattr(runner, "FEW", 0)
        original = Popen.__init__

        def started(self: Any, command: list[str], **more: Any) -> None:
            program = (
                "import django, sys; django.setup()\n"
                "from governance.backtest import engine, worker\n"
                "def again(*_): raise LookupError('words of a request')\n"
                "worker.Redecider.again = again\n"
                "worker.main()\n"
            )
            original(self, [command[0], "-c", program, command[-1]], **more)

        monkeypatch.setattr(Popen, "__init__", started)
        row = carried_out(place, yaml_policy(*STRICTER))
        assert (row.status, row.code) == ("failed", "back_test_broken")
        assert "LookupError in <string>, line 3, in again" in row.message
        told = row.message + "".join(capfd.readouterr())
        assert "words of a request" not in told

    def test_leaves_it_to_the_next_process_when_it_is_to_stop(self, place: Place) -> None:
        some_history(place)
        order()
        asked: dict[str, Any] = {"workspace_id": place.workspace_id, "caller": caller(place)}
        back_test_id, _ = request_back_test(**asked, text=yaml_policy(*RULES).text)
        stopping = threading.Event()
        stopping.set()
        runner.run_next(stopping)
        assert BackTest.objects.get(id=back_test_id).status == "requested"
        assert BackTestProgress.objects.get(back_test_id=back_test_id).starts == 0


class TestCommand:
    def test_carries_one_out_and_shows_it(self, ann: Person, tmp_path: Path) -> None:
        place = Place(workspace_id=ann.workspace_id, user_id=ann.id)
        place.follows(*RULES)
        original = some_history(place)
        assert "0 differences" in backtest("run", "--hash", original.content_hash)
        file = tmp_path / "stricter.yaml"
        file.write_text(policy_text(yaml_policy(*STRICTER).rules, "stricter"))
        said = backtest("run", "--file", str(file))
        assert "verdicts change" in said
        assert "allow     -> deny" in said
        listed = backtest("list").splitlines()
        assert len(listed) == 2
        assert "sessions" in listed[0]
        assert json.loads(backtest("show", listed[0].split()[0], "--json"))["trustworthy"]
        queued = backtest("run", "--hash", original.content_hash, "--no-wait").strip()
        assert "cancelled" in backtest("cancel", queued)
        with pytest.raises(CommandError, match="was cancelled"):
            backtest("show", queued)

    def test_says_what_is_wrong(self, ann: Person, tmp_path: Path) -> None:
        (tmp_path / "right.yaml").write_text(TEXT)
        file = tmp_path / "wrong.yaml"
        file.write_text(
            "policy: x\nrules:\n  - {name: a, sentence: b, match: {kinds: [plan]}, outcome: no}\n"
        )
        with pytest.raises(CommandError, match=r"wrong.yaml:3:\d+: outcome") as raised:
            backtest("run", "--file", str(file))
        assert raised.value.returncode == 2
        with pytest.raises(CommandError, match="Nothing was decided"):
            backtest("run", "--file", str(tmp_path / "right.yaml"))


class TestManyBackTests:
    def test_are_refused_while_so_many_of_the_workspace_wait(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commands_of_back_tests, "MOST_OPEN", 2)
        act_and_settle(place, NOON)
        order()
        asked: dict[str, Any] = {
            "workspace_id": place.workspace_id,
            "caller": caller(place),
            "text": yaml_policy(*RULES).text,
        }
        ids = [
            request_back_test(**asked, until=NOON + timedelta(days=400 + day), since=None)[0]
            for day in range(2)
        ]
        with pytest.raises(TooManyBackTests, match="2 back-tests of this workspace"):
            request_back_test(**asked)
        # One that was asked for before is no new one.
        assert request_back_test(**asked, until=NOON + timedelta(days=400)) == (ids[0], False)
        cancel_back_test(back_test_id=ids[0], caller=caller(place))
        assert request_back_test(**asked)[1]


class TestRest:
    def test_goes_from_asking_to_the_report(self, ann: Person) -> None:
        place = Place(workspace_id=ann.workspace_id, user_id=ann.id)
        place.follows(*RULES)
        some_history(place)
        order()
        client = ann.program("read", "write")
        body = {"text": policy_text(yaml_policy(*STRICTER).rules, "stricter")}
        answer = client.post("/api/v2/backtests", body, content_type="application/json")
        assert (answer.status_code, answer.json()["phase"]) == (201, "queued")
        address = answer["Location"]
        again = client.post("/api/v2/backtests", body, content_type="application/json")
        assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
        assert client.get(f"{address}/report").json()["code"] == "no_report"
        runner.run_next(threading.Event())
        found = client.get(address).json()
        assert (found["status"], found["percent"], found["differences"]) == ("completed", 100, 0)
        told = client.get(f"{address}/report").json()
        assert told["changed"] == found["changed"] > 0
        assert [one["id"] for one in client.get("/api/v2/backtests").json()["items"]] == [found["id"]]
        assert client.post(f"{address}/cancel").status_code == 409
        assert client.get("/api/v2/backtests?status=odd").status_code == 400

    def test_shows_the_place_of_a_mistake(self, ann: Person) -> None:
        answer = ann.program("read", "write").post(
            "/api/v2/backtests", {"text": "policy: x\nrules: [{name: a}]"}, content_type="application/json"
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "policy_not_valid")

    def test_shows_nothing_to_other_workspaces(self, ann: Person, place: Place) -> None:
        row = carried_out(place, some_history(place))
        client = ann.program("read", "write")
        assert client.get(f"/api/v2/backtests/{row.id}").status_code == 404
        assert client.get(f"/api/v2/backtests/{row.id}/report").status_code == 404
        assert client.post(f"/api/v2/backtests/{row.id}/cancel").status_code == 404


class TestConsole:
    def test_shows_progress_and_report(self, ann: Person) -> None:
        place = Place(workspace_id=ann.workspace_id, user_id=ann.id)
        place.follows(*RULES)
        some_history(place)
        order()
        client = guardian(place.workspace_id, "policy_author").client
        begin = "/admin/governance/backtest/new/"
        assert b"Test a set" in client.get(begin).content
        text = policy_text(yaml_policy(*STRICTER).rules, "<b>stricter</b>")
        answer = client.post(begin, {"begin-text": text})
        assert answer.status_code == 302, answer.content
        address = answer["Location"]
        page = client.get(address).content.decode()
        assert "data-follow=" in page
        assert "Stop the back-test" in page
        assert b'data-progress="open"' in client.get(f"{address.removesuffix('change/')}progress/").content
        runner.run_next(threading.Event())
        page = client.get(address).content.decode()
        assert "What would have followed" in page
        assert "<b>stricter" not in page
        assert "/admin/governance/policydecision/" in page
        assert b"ended" in client.get(f"{address.removesuffix('change/')}progress/").content
        assert "stricter" in client.get("/admin/governance/backtest/").content.decode()

    def test_says_what_is_wrong_at_its_field(self, ann: Person) -> None:
        place = Place(workspace_id=ann.workspace_id, user_id=ann.id)
        place.follows(*RULES)
        client = guardian(place.workspace_id, "policy_author").client
        answer = client.post("/admin/governance/backtest/new/", {"begin-policy_hash": "0" * 64})
        assert (answer.status_code, b"No policy with the hash" in answer.content) == (404, True)


def backtest(*arguments: str) -> str:
    out = io.StringIO()
    call_command("backtest", *arguments, "--user", "ann@example.org", stdout=out, stderr=io.StringIO())
    return out.getvalue()


def until(holds: Any) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def replace_hash(policy: PolicySet, like: PolicySet) -> PolicySet:
    """Return a set that passes for another one."""
    return dataclasses.replace(policy, content_hash=like.content_hash)


def _without_its_request(self: Redecider, stored: Any, cipher: Any) -> Any:
    made = orjson.loads(stored.data)
    return made, self._policy(made["policy_hash"]), None
