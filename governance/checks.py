"""What must hold before anything starts: the rules of the installation compile."""

from typing import Any

from django.conf import settings
from django.core import checks

from cartrita.errors import CartritaError
from governance.queries.policies import policy_of_file


@checks.register()
def policy_compiles(**_options: Any) -> list[checks.CheckMessage]:
    """Report every problem of the policy file, with its place."""
    try:
        policy = policy_of_file(settings.POLICY_FILE)
    except CartritaError as error:
        return [checks.Error(error.message, id="governance.E001")]
    return [checks.Warning(str(warning), id="governance.W001") for warning in policy.warnings]
