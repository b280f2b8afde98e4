"""Rows of the event store. The tables are written by this package alone; other apps read `OrderedEvent`."""

from django.db import models
from django.db.models.functions import Now


class Event(models.Model):
    """One stored event. `data` holds the exact canonical bytes that the leaf hash covers."""

    pk = models.CompositePrimaryKey("stream_id", "version")
    stream_id = models.UUIDField()
    version = models.IntegerField()
    seq = models.BigIntegerField()
    event_id = models.UUIDField()
    type = models.TextField()
    schema_version = models.SmallIntegerField()
    recorded_at = models.DateTimeField()
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    causation_id = models.UUIDField(null=True)
    actor = models.TextField()
    trace_id = models.TextField()
    key_id = models.UUIDField(null=True)
    data = models.BinaryField()

    class Meta:
        managed = False
        db_table = "event"


class Log(models.Model):
    """The position that the sequencer gave to an event, with the event's leaf hash."""

    position = models.BigIntegerField(primary_key=True)
    stream_id = models.UUIDField()
    version = models.IntegerField()
    session_id = models.UUIDField(null=True)
    workspace_id = models.UUIDField()
    leaf = models.BinaryField()

    class Meta:
        managed = False
        db_table = "log"


class Tick(models.Model):
    """One step of the sequencer: the snapshot it took, the tree after it and its link to the step before."""

    number = models.BigIntegerField(primary_key=True)
    epoch = models.IntegerField()
    snapshot = models.TextField()
    size = models.BigIntegerField()
    root = models.BinaryField()
    chain = models.BinaryField()
    ticked_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "tick"


class TreeHead(models.Model):
    """A signed tree head in the text format of C2SP checkpoints."""

    size = models.BigIntegerField(primary_key=True)
    root = models.BinaryField()
    note = models.TextField()
    signed_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "tree_head"


class SigningKey(models.Model):
    """A public key that signs or signed tree heads, as C2SP signed-note writes verifier keys."""

    verifier_key = models.TextField(primary_key=True)
    adopted_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "signing_key"


class OrderedEvent(models.Model):
    """An event in log order with its JSON decoded (sealed fields stay tokens): for admin pages and SQL."""

    position = models.BigIntegerField(primary_key=True)
    stream_id = models.UUIDField()
    version = models.IntegerField()
    event_id = models.UUIDField()
    type = models.TextField()
    schema_version = models.SmallIntegerField()
    recorded_at = models.DateTimeField()
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    causation_id = models.UUIDField(null=True)
    actor = models.TextField()
    trace_id = models.TextField()
    key_id = models.UUIDField(null=True)
    data = models.JSONField()
    leaf = models.BinaryField()

    class Meta:
        managed = False
        db_table = "ordered_event"
        verbose_name = "event"
        verbose_name_plural = "events"


class SubjectKey(models.Model):
    """The key of one person (or workspace), wrapped by the master key; empty once the subject is erased."""

    subject_id = models.UUIDField(primary_key=True)
    wrapped = models.BinaryField(null=True)
    master_key_id = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    erased_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "subject_key"


class DataKey(models.Model):
    """The key of one session or document, wrapped by its subject's key; empty once it is erased."""

    key_id = models.UUIDField(primary_key=True)
    subject_id = models.UUIDField(db_index=True)
    scope = models.TextField()
    wrapped = models.BinaryField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    erased_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "data_key"


class Blob(models.Model):
    """A large body addressed by the SHA-256 of its stored bytes (of the ciphertext where `key_id` is set).

    `put_at` is when it was stored last, again and again; `before` the link before it in a chain.
    """

    sha256 = models.BinaryField(primary_key=True)
    content = models.BinaryField()
    key_id = models.UUIDField(null=True, db_index=True)
    created_at = models.DateTimeField(db_default=Now())
    put_at = models.DateTimeField(db_default=Now())
    before = models.BinaryField(null=True)

    class Meta:
        db_table = "blob"


class Checkpoint(models.Model):
    """The log position up to which a following projection's rows are."""

    name = models.TextField(primary_key=True)
    position = models.BigIntegerField(default=0)

    class Meta:
        db_table = "projection_checkpoint"


class AggregateSnapshot(models.Model):
    """What a long stream folded to at a version: a cache, sealed under the stream's key where it has one.

    `fold_version` says of which code it is, `event_id` of which event: what does not fit is not used.
    """

    pk = models.CompositePrimaryKey("stream_id", "aggregate")
    stream_id = models.UUIDField()
    aggregate = models.TextField()
    fold_version = models.TextField()
    version = models.IntegerField()
    event_id = models.UUIDField()
    key_id = models.UUIDField(null=True, db_index=True)
    state = models.BinaryField()
    taken_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "aggregate_snapshot"
