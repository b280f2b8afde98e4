"""Periods with longer names: quarter."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0007_back_tests")]
    operations: ClassVar = [
        migrations.AlterField(model_name="budget", name="period", field=models.CharField(max_length=7)),
    ]
