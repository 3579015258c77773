"""A host's own memory: named values that survive kill -9 of whatever wrote them.

An append-only file of MessagePack records, each with its length and CRC; the last record of a name counts; a torn tail is cut off at open. When the
file has grown to several times its content it is written anew beside and renamed. `durable` asks for an fsync per write (power loss); without it a
write survives the death of the process, which is what emulated hosts need. In memory (`path` None) it is the disk of a simulated host.
"""
from __future__ import annotations

import binascii
import os
import struct
from pathlib import Path
from typing import Any

import msgspec

HEAD = struct.Struct(">II")
COMPACT_MIN_BYTES = 1 << 20
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, Any]).decode


class Journal:
    """name -> value; values are what MessagePack can carry."""

    def __init__(self, path: Path | None = None, *, durable: bool = False) -> None:
        self.values: dict[str, Any] = {}
        self._path = path
        self._durable = durable
        self._live_bytes = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._load(path)
            self._file = path.open("r+b" if path.exists() else "w+b")
            self._file.truncate(whole)
            self._file.seek(whole)
            self._size_bytes = whole

    def _load(self, path: Path) -> int:
        """Read every whole record; returns where the last one ends."""
        if not path.exists():
            return 0
        data = path.read_bytes()
        at = 0
        while at + HEAD.size <= len(data):
            length, check = HEAD.unpack_from(data, at)
            record = data[at + HEAD.size: at + HEAD.size + length]
            if len(record) < length or binascii.crc32(record) != check:
                break
            name, value = _decode(record)
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value
            at += HEAD.size + length
        return at

    def put(self, name: str, value: Any) -> None:
        """Remember; None forgets."""
        if value is None:
            if self.values.pop(name, None) is None:
                return
        else:
            self.values[name] = value
        if self._path is None:
            return
        record = _encode((name, value))
        self._file.write(HEAD.pack(len(record), binascii.crc32(record)) + record)
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._size_bytes += HEAD.size + len(record)
        if self._size_bytes > COMPACT_MIN_BYTES and self._size_bytes > 4 * self._live_bytes:
            self._compact(self._path)

    def _compact(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            for name, value in self.values.items():
                record = _encode((name, value))
                file.write(HEAD.pack(len(record), binascii.crc32(record)) + record)
            file.flush()
            os.fsync(file.fileno())
            self._size_bytes = self._live_bytes = file.tell()
        fresh.rename(path)
        self._file.close()
        self._file = path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def find(self, prefix: str) -> dict[str, Any]:
        """The values whose names begin with `prefix`, by the rest of their names."""
        return {name[len(prefix):]: value for name, value in self.values.items() if name.startswith(prefix)}

    def close(self) -> None:
        if self._path is not None:
            self._file.close()
