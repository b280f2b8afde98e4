"""Budgets of teams, and more periods."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0007_back_tests")]
    operations: ClassVar = []
