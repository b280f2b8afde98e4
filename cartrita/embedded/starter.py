"""Starter content: a workspace, an administrator, a reviewer, sample documents. Providing it twice adds
nothing."""

import logging
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.urls import reverse
from django.utils import timezone

from cartrita.accounts.commands import create_workspace, ensure_user, issue_sign_in_link, set_roles
from cartrita.accounts.models import User
from cartrita.eventstore import derived_id, load
from governance.refusals import DeniedByPolicy, Throttled
from retrieval.commands import receive_document

logger = logging.getLogger(__name__)

DOCUMENTS = Path(settings.BASE_DIR) / "docs" / "starter"
WORKSPACE_ID = derived_id(UUID(int=0), "cartrita/starter")
# who -> address, roles, whether they govern the installation
PEOPLE = {
    "administrator": ("admin@cartrita.localhost", ("member", "admin"), True),
    "reviewer": ("reviewer@cartrita.localhost", ("member", "reviewer"), False),
}


def provide() -> None:
    """Make the starter content where it never was; what people have changed or removed since stays so."""
    with transaction.atomic():
        _one_at_a_time()
        if not load(WORKSPACE_ID):
            _make_workspace()
        owner = User.objects.filter(email=PEOPLE["administrator"][0]).first()
        for file in sorted(DOCUMENTS.glob("*.md")) if owner else ():
            document_id = derived_id(WORKSPACE_ID, f"document/{file.name}")
            if owner and not load(document_id):
                content = file.read_bytes()
                try:
                    receive_document(
                        workspace_id=WORKSPACE_ID,
                        owner_id=owner.id,
                        title=_title(content, file),
                        media_type="text/markdown",
                        content=content,
                        document_id=document_id,
                        actor="system",
                    )
                except (DeniedByPolicy, Throttled) as error:
                    logger.warning("The sample document %s is left out: %s", file.name, error.message)


def sign_in_links() -> list[tuple[str, str]]:
    """Issue single-use links for the starter's people who still may sign in: pairs of who and address."""
    links = []
    for who, (email, _, _) in PEOPLE.items():
        user = User.objects.filter(email=email, is_active=True).first()
        if user is not None:
            secret = issue_sign_in_link(user_id=user.id, now=timezone.now())
            links.append((who, settings.PUBLIC_URL.rstrip("/") + reverse("sign-in-link", args=[secret])))
    return links


def _make_workspace() -> None:
    for email, roles, governs in PEOPLE.values():
        user = ensure_user(
            email=email, display_name=email.partition("@")[0].title(), is_staff=True, is_superuser=governs
        )
        if governs:
            create_workspace(name="Starter", owner_id=user.id, actor="system", workspace_id=WORKSPACE_ID)
        set_roles(workspace_id=WORKSPACE_ID, user_id=user.id, roles=roles, actor="system")


def _one_at_a_time() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('cartrita.starter'))")


def _title(content: bytes, file: Path) -> str:
    first, _, _ = content.decode().partition("\n")
    return first.removeprefix("# ").strip() or file.stem
