from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0002_turns_that_wait"),
    ]

    operations = [
        migrations.AddField(
            model_name="chatsession",
            name="turn_policy",
            field=models.CharField(
                db_default="queue", default="queue", max_length=10, verbose_name="turn policy"
            ),
        ),
    ]
