"""Who asks for something, and under which configuration: passed to every ops function that starts or changes anything."""
from __future__ import annotations

import msgspec

from virga.domain.config import Config


class Ask(msgspec.Struct, frozen=True):
    """The caller in the words ops needs. `request_id` is the `req-…` id that actions and traces carry."""

    config: Config
    project_id: str
    user_id: str
    request_id: str
    is_admin: bool = False
