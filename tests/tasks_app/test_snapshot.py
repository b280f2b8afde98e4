"""A plan's state as JSON."""

import json

from tasks_app.plan import Plan, extend
from tasks_app.snapshot import snapshot
from tests.tasks_app.trees import NOON, done, failed, following, parts, started, task_id


class TestSnapshot:
    def test_is_json(self) -> None:
        plan = started(done(parts(3, (1, "depends_on", 2), (2, "refines", 3)), 1), 2)
        plan = extend(plan, following(plan, failed(plan, 2, code="timed_out")))
        for taken in (snapshot(plan), snapshot(Plan())):
            assert json.loads(json.dumps(taken)) == taken

    def test_tells_where_the_plan_stands(self) -> None:
        plan = started(done(parts(2, (1, "depends_on", 2)), 1), 2)
        taken = snapshot(plan)
        assert taken["version"] == plan.version
        assert [task["status"] for task in taken["tasks"]] == ["blocked", "complete", "running"]
        assert taken["tasks"][0]["blocked_by"] == [str(task_id(2))]
        assert taken["edges"] == [
            {
                "from_task": str(task_id(1)),
                "to_task": str(task_id(2)),
                "relation": "depends_on",
                "weight": 100,
            }
        ]
        assert taken["agent_state"] == {"assistant": {"blocked": 1, "complete": 1, "running": 1}}
        assert taken["cost_summary"]["actual_tokens"] == 7
        assert taken["progress"] == {
            "tasks": 3,
            "ended": 1,
            "by_status": {"blocked": 1, "complete": 1, "running": 1},
        }

    def test_tells_when_a_task_is_tried_again(self) -> None:
        plan = started(parts(1), 1)
        plan = extend(plan, following(plan, failed(plan, 1, code="timed_out")))
        told = snapshot(plan)["tasks"][1]
        assert told["not_before"].startswith(NOON.strftime("%Y-%m-%dT12:00:00.25"))
        assert (told["code"], told["attempts"]) == ("timed_out", 1)
