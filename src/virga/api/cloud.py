"""What every handler may touch: the database, the Env, the configuration, the trace, the engine's front and the image store.

`Cloud` is made once by serve.py (or by the simulator's world) and passed to every room of api/. Nothing here is global.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from virga.domain.config import Config
from virga.fabric.hub import Hub
from virga.ops.engine import Engine
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.blobs import Blobs
from virga.store.db import Db


@dataclass
class Cloud:
    """One running cloud as the API sees it."""

    env: Env
    db: Db
    trace: Trace
    config: Config
    engine: Engine
    blobs: Blobs
    hub: Hub | None = None  # for questions to hosts (console log); None in tests without hosts
    extra: dict[str, Any] = field(default_factory=dict)  # caches a room of api/ keeps between requests
