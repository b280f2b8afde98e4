"""What the report of a set in shadow says of answers whose text it never saw."""

from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from governance.queries import policies
from tests.accounts.people import someone
from tests.databases import Database
from tests.governance.consoles import guardian
from tests.governance.policies import rule
from tests.governance.test_shadow import ALLOW, in_shadow, written

pytestmark = pytest.mark.flow

READING = (
    rule("no-keys", "deny", "'secret' in findings", match={"kinds": ["message_out"]}),
    rule("no-names", "deny", "args.text.contains('Ann')", match={"kinds": ["message_out", "plan"]}),
)
BLIND = (
    rule("no-mail", "deny", "args.to == 'x'", match={"kinds": ["tool_call"]}),
    rule("in-the-open", "audit", "'pii' in labels", match={"kinds": ["message_out"]}),
)


class TestRulesThatReadAnswers:
    def test_are_named_in_the_report(self, database: Database, tmp_path: Path, settings: Any) -> None:
        path = tmp_path / "team.yaml"
        path.write_text(written(ALLOW))
        settings.POLICY_FILE = str(path)
        ann = someone(roles=("member", "policy_author"))
        policy_hash = in_shadow(ann, *READING, *BLIND, ALLOW)
        report = policies.shadow_report(ann.workspace_id, timezone.now() - timedelta(days=1))
        assert report is not None
        assert (report.policy_hash, report.unread) == (policy_hash, ("no-keys", "no-names"))
        said = StringIO()
        call_command("policy", "shadow-report", "--user", ann.user.email, stdout=said)
        assert "no text yet: no-keys, no-names said nothing of it" in said.getvalue()
        console = guardian(ann.workspace_id, "auditor").client
        shown = console.get(reverse("admin:governance_policyrule_shadow")).content.decode()
        assert "<code>no-keys</code>, <code>no-names</code>" in shown
