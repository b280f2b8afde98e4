"""Seal text under way: a deleted row stays readable in the table's file until its page is written anew."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("streaming", "0002_no_statistics_of_text")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE streaming_message ADD COLUMN key_id uuid",
            "ALTER TABLE streaming_message DROP COLUMN key_id",
        ),
    ]
