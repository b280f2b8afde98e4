"""What detectors found."""

from typing import ClassVar

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0008_budget_levels")]
    operations: ClassVar = [
        migrations.AddField(
            model_name="policydecision",
            name="findings",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=200), default=list, size=None
            ),
        ),
    ]
