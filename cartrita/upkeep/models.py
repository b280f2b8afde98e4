"""How each job ran last: operational rows, no read model."""

from django.db import models


class Job(models.Model):
    """A job of the schedule and its newest runs.

    One that began and has not ended runs still, or its process was killed. `counted` is how many rows,
    sessions or the like the last run that went well dealt with.
    """

    name = models.CharField(max_length=200, primary_key=True)
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    went_well_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    failure = models.CharField(max_length=200, blank=True, default="")
    counted = models.BigIntegerField(null=True)
    milliseconds = models.BigIntegerField(null=True)
    runs = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)

    class Meta:
        """Found by name."""

        db_table = "upkeep_job"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
