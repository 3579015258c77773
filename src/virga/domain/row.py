"""The base of everything stored: a plain msgspec Struct that names its table.

A Row is a value: reading gives a fresh one, changing it changes nothing until a transaction writes it. Timestamps (`*_at`) are seconds since the
Unix epoch; ids are UUID text unless a docstring says otherwise. Struct, table and migration must agree; tests/store compares them.
"""
from __future__ import annotations

from typing import ClassVar

import msgspec


class Row(msgspec.Struct):
    """Subclasses set `__table__` and, where the primary key is not `id`, `__key__`."""

    __table__: ClassVar[str] = ""
    __key__: ClassVar[tuple[str, ...]] = ("id",)
