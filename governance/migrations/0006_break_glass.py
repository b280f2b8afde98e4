"""Break-glass: who opened it, why, until when."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0005_shadow")]
    operations: ClassVar = []
