from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orchestrator", "0001_claims")]

    operations = [
        migrations.CreateModel(
            name="MetricCount",
            fields=[
                ("key", models.TextField(primary_key=True, serialize=False)),
                ("value", models.BigIntegerField()),
            ],
            options={"db_table": "orchestrator_metric_count"},
        ),
    ]
