"""Readers see teams, break-glass and back-tests, which hold neither keys nor text in clear."""

from django.db import migrations

NEW = (
    "'accounts_team', 'accounts_team_member', 'governance_break_glass', 'governance_glass_review', "
    "'governance_back_test', "
)
# The rest of the function stays as 0003 wrote it: the list is all that grows.
CHANGE = """
do $change$
begin
    execute replace(pg_get_functiondef('grant_to_reader(name)'::regprocedure), $old${old}$old$, $new${new}$new$);
    perform grant_to_roles();
end
$change$;
"""
OLD = "'governance_rulebook'"


class Migration(migrations.Migration):
    dependencies = [("eventstore", "0005_event_id_index")]
    operations = [
        migrations.RunSQL(CHANGE.format(old=OLD, new=NEW + OLD), CHANGE.format(old=NEW + OLD, new=OLD))
    ]
