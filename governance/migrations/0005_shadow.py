"""What a set in shadow would have decided stands beside each decision."""

from typing import ClassVar

from django.db import migrations, models


def _text(model: str, name: str, length: int) -> migrations.AddField:
    field = models.CharField(blank=True, default="", max_length=length)
    return migrations.AddField(model_name=model, name=name, field=field, preserve_default=False)


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0004_decisions_under_way")]
    operations: ClassVar = [
        _text("policydecision", "shadow_hash", 64),
        _text("policydecision", "shadow_outcome", 10),
        _text("policydecision", "shadow_rule", 60),
        migrations.AddIndex(
            model_name="policydecision",
            index=models.Index(
                condition=models.Q(("shadow_hash__gt", "")),
                fields=["workspace_id", "-created_at"],
                name="decision_shadow",
            ),
        ),
        _text("policyversion", "approved_by", 80),
        _text("policyversion", "shadow_hash", 64),
        migrations.AddField(
            model_name="policyversion", name="retired_at", field=models.DateTimeField(null=True)
        ),
        # A set of before was retired when the next one took its place.
        migrations.RunSQL(
            """
            update governance_policy_version former set retired_at = (
                select min(later.activated_at) from governance_policy_version later
                where later.workspace_id = former.workspace_id
                    and later.stream_version > former.stream_version
            )
            where not active
            """,
            migrations.RunSQL.noop,
        ),
    ]
