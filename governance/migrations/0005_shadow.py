"""What a set in shadow would have decided stands beside each decision."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0004_decisions_under_way")]
    operations: ClassVar = []
