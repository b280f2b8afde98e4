"""Back-tests and their reports."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0006_break_glass")]
    operations: ClassVar = []
