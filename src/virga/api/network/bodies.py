"""The envelope of a request: the resource inside its body, and the condition in its header.

A body holds one resource under its name or, for several at once, a list under the plural. `If-Match: revision_number=N`
makes a change conditional. Whatever else comes is refused with a sentence.
"""
from __future__ import annotations

from typing import Any

from virga.api.http import Call
from virga.api.network.fields import quoted
from virga.domain.errors import Problem

BULK_MAX = 256


def bodies_of(body: Any, one: str, many: str, bulk: bool) -> list[Any]:
    """The resource (or resources) inside a body. Raises Problem 400."""
    if not isinstance(body, dict):
        raise Problem(400, "Body contains invalid data: a JSON object is expected", "HTTPBadRequest")
    if bulk:
        items = body[many]
        if not isinstance(items, list) or not items:
            raise Problem(400, f"Invalid input for {many}. Reason: a list with at least one item is expected.", "HTTPBadRequest")
        if len(items) > BULK_MAX:
            raise Problem(400, f"Invalid input for {many}. Reason: more than {BULK_MAX} items at once.", "HTTPBadRequest")
        return items
    if one not in body:
        raise Problem(400, f"Unable to find '{one}' in request body", "HTTPBadRequest")
    return [body[one]]


def match_revision(call: Call, row: Any) -> None:
    """Raises Problem 412 when If-Match names another revision, 400 when it names none."""
    condition = call.header("if-match")
    if not condition:
        return
    name, _, number = condition.strip().strip('"').partition("=")
    if name.strip() != "revision_number" or not number.strip().isdigit() or len(number) > 18:
        raise Problem(400, f"The If-Match header {quoted(condition)} must read revision_number=<number>.", "HTTPBadRequest")
    if int(number) != row.revision_number:
        raise Problem(412, f"Constrained to {number.strip()}, but current revision is {row.revision_number}",
                      "RevisionNumberConstraintFailed")
