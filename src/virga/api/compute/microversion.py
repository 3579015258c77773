"""Microversions of the compute API: which are spoken, how one is asked for, and how handlers depend on it.

Owns: `MINIMUM`, `MAXIMUM`, `negotiate` (headers in), `stamp` (headers out), `between` (a handler that exists only
at some versions).
Rules: a version is a pair of ints; a request without a header is 2.1; `latest` is MAXIMUM; out of range is 406,
unreadable is 400. A resource or action that does not exist at the version asked for is 404, as if it were never
there. MAXIMUM may rise only when every change below it is done.
Why a module apart from service.py: every resource module needs it, and service.py imports every resource module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps

from starlette.responses import Response

from virga.api.http import Call, Handler
from virga.domain.errors import Problem

Version = tuple[int, int]
MINIMUM: Version = (2, 1)
MAXIMUM: Version = (2, 96)
HEADER, LEGACY_HEADER = "OpenStack-API-Version", "X-OpenStack-Nova-API-Version"
_FORM = re.compile(r"([1-9]\d{0,3})\.(0|[1-9]\d{0,3})")


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _asked(call: Call) -> str | None:
    """What the headers ask of compute, or None. The newer header names its service and rules."""
    new = call.header(HEADER)
    if new is not None:
        for part in new.split(","):
            service, _, version = part.strip().partition(" ")
            if service.lower() in ("compute", "nova"):
                return version.strip()
    return call.header(LEGACY_HEADER)


def negotiate(call: Call) -> None:
    """Set `call.version` from the headers. Raises Problem 400 (unreadable) or 406 (not spoken here)."""
    if call.path.startswith("/compute/v2/") or call.path == "/compute/v2":
        return  # the older endpoint knows no microversions
    asked = _asked(call)
    if asked is None:
        return
    if asked.strip().lower() == "latest":
        call.version = MAXIMUM
        return
    form = _FORM.fullmatch(asked.strip())
    if form is None:
        raise Problem(
            400,
            f"API version '{asked}' is not understood: give it as MAJOR.MINOR, "
            f"for example {text(MAXIMUM)}, or as 'latest'.",
        )
    version = (int(form[1]), int(form[2]))
    if not MINIMUM <= version <= MAXIMUM:
        raise Problem(
            406, f"Version {asked} is not spoken here: the lowest is {text(MINIMUM)}, the highest {text(MAXIMUM)}."
        )
    call.version = version


def stamp(call: Call, response: Response) -> None:
    """Say in every answer which version it is in and that it depends on the headers."""
    response.headers["x-compute-request-id"] = call.request_id
    if call.path.startswith("/compute/v2.1"):
        response.headers[HEADER] = f"compute {text(call.version)}"
        response.headers[LEGACY_HEADER] = text(call.version)
        response.headers["Vary"] = f"{HEADER}, {LEGACY_HEADER}"


def between(first: Version, last: Version = MAXIMUM) -> Callable[[Handler], Handler]:
    """A decorator: the handler exists from `first` to `last` (both included), elsewhere it answers 404."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def at_version(call: Call) -> Response:
            need(call, first, last)
            return await handler(call)

        return at_version

    return decorate


def need(call: Call, first: Version, last: Version = MAXIMUM) -> None:
    """Raises Problem 404 unless the version asked for is from `first` to `last`."""
    if call.version < first:
        raise Problem(
            404,
            f"{call.method} {call.path} came with microversion {text(first)}; "
            f"this request is at {text(call.version)}.",
        )
    if call.version > last:
        raise Problem(
            404,
            f"{call.method} {call.path} ended with microversion {text(last)}; "
            f"this request is at {text(call.version)}.",
        )
