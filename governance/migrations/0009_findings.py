"""What detectors found."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0008_budget_levels")]
    operations: ClassVar = []
