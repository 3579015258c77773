"""Who may do what in the compute API: three small questions every handler asks, and the Ask that ops wants.

Rules: reading is for every role of the project; writing wants admin, manager or member (a reader gets 403);
operator calls want admin. What belongs to another project is 404 to everyone but admins, so that its existence is
not told. The rule names are Nova's, so that operators recognise them.
"""

from __future__ import annotations

from virga.api.http import Call
from virga.domain.ask import Ask
from virga.domain.errors import Problem


def must_write(call: Call, rule: str) -> None:
    """Raises Problem 403 unless the caller may change things in its project."""
    if not call.caller.may_write():
        raise Problem(403, f"Policy doesn't allow {rule} to be performed: it needs the role member or admin.")


def must_admin(call: Call, rule: str) -> None:
    """Raises Problem 403 unless the caller is an administrator."""
    if not call.caller.is_admin:
        raise Problem(403, f"Policy doesn't allow {rule} to be performed: it needs the role admin.")


def project_of(call: Call) -> str:
    """The project the token is scoped to. Raises Problem 403 for a token without one."""
    if call.caller.project_id is None:
        raise Problem(403, "This token is not scoped to a project; ask for a project-scoped token.")
    return call.caller.project_id


def ask_of(call: Call) -> Ask:
    """The caller in the words of ops."""
    caller = call.caller
    return Ask(call.cloud.config, caller.project_id or "", caller.user_id, call.request_id, caller.is_admin)
