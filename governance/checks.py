"""What must hold before anything starts: the rules that a workspace starts with compile."""

from typing import Any

from django.conf import settings
from django.core import checks

from cartrita.errors import CartritaError
from governance import rulebook
from governance.examples import run_examples
from governance.policy_store import policy_of_file


@checks.register()
def policy_compiles(**_options: Any) -> list[checks.CheckMessage]:
    """Report every problem of the policy file, with its place, and the examples that it does not fulfil."""
    try:
        policy = policy_of_file(settings.POLICY_FILE)
        rulebook.begin(policy)
    except CartritaError as error:
        return [checks.Error(error.message, id="governance.E001")]
    return [
        *(checks.Warning(str(warning), id="governance.W001") for warning in policy.warnings),
        *(checks.Warning(str(failure), id="governance.W002") for failure in run_examples(policy)),
    ]
