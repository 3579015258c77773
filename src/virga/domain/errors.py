"""The one exception for "the user cannot have this": status, sentence, and the service's own name for it.

Raised by ops transactions and by API handlers alike; the front door turns it into the service's error body. It is never used for bugs.
"""
from __future__ import annotations


class Problem(Exception):
    """An answer other than success. `status` is an HTTP code; `kind` is the service's own error name (Neutron type, Nova fault key), '' means by status."""

    def __init__(self, status: int, message: str, kind: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.headers = headers or {}
