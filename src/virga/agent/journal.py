"""A host's own memory: named values that survive kill -9 of whatever wrote them.

An append-only file of MessagePack records, each with its length and CRC; the last record of a name counts; a torn tail is cut off at open. When the
file has grown to several times its content it is written anew beside and renamed. `durable` asks for an fsync per write (power loss); without it a
write survives the death of the process, which is what emulated hosts need. In memory (`path` None) it is the disk of a simulated host.
A full disk must not stop the agent, which is who frees it: a durable journal keeps some room in a file beside it and gives that up first. If even that
is used up it goes on in memory, and writes all of it down as soon as it can; what a death in between forgets, the controller sends and asks again.
"""
from __future__ import annotations

import binascii
import contextlib
import errno
import os
import struct
from pathlib import Path
from typing import Any

import msgspec

HEAD = struct.Struct(">II")
COMPACT_MIN_BYTES = 1 << 20
RESERVE_BYTES = 1 << 20
RESERVE_AGAIN_BYTES = 64 << 20  # free room from which the reserve is laid by again
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, Any]).decode


class Journal:
    """name -> value; values are what MessagePack can carry."""

    def __init__(self, path: Path | None = None, *, durable: bool = False) -> None:
        self.values: dict[str, Any] = {}
        self._path = path
        self._durable = durable
        self._live_bytes = 0
        self.behind = False  # values are in memory that could not be written
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._load(path)
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._size_bytes = whole
            self._cut()
            self._lay_by(path)

    def _cut(self) -> None:
        """End the file after its last whole record."""
        self._file.truncate(self._size_bytes)
        self._file.seek(self._size_bytes)

    def _lay_by(self, path: Path) -> None:
        reserve = path.with_suffix(".room")
        if not self._durable or reserve.exists():
            return
        with contextlib.suppress(OSError):
            stat = os.statvfs(path.parent)
            if stat.f_bavail * stat.f_frsize > RESERVE_AGAIN_BYTES:
                reserve.write_bytes(b"\0" * RESERVE_BYTES)

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
        data = HEAD.pack(len(record), binascii.crc32(record)) + record
        for reserve in (self._path.with_suffix(".room"), None):
            try:
                self._keep(self._path, data)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if reserve is not None:
                    reserve.unlink(missing_ok=True)
        self.behind = True

    def _keep(self, path: Path, data: bytes) -> None:
        """Append a record, or write all of them anew: to become shorter, or because some are missing."""
        if self.behind or (self._size_bytes > COMPACT_MIN_BYTES and self._size_bytes > 4 * self._live_bytes):
            self._compact(path)
            self.behind = False
            self._lay_by(path)
            return
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
            if self._durable:
                os.fsync(self._file.fileno())
        except OSError:
            self._cut()
            raise
        self._size_bytes += len(data)

    def _compact(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                for name, value in self.values.items():
                    record = _encode((name, value))
                    file.write(HEAD.pack(len(record), binascii.crc32(record)) + record)
                file.flush()
                os.fsync(file.fileno())
                size_bytes = file.tell()
            fresh.rename(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        self._size_bytes = self._live_bytes = size_bytes
        self._file.close()
        self._file = path.open("r+b", buffering=0)
        self._file.seek(0, os.SEEK_END)

    def find(self, prefix: str) -> dict[str, Any]:
        """The values whose names begin with `prefix`, by the rest of their names."""
        return {name[len(prefix):]: value for name, value in self.values.items() if name.startswith(prefix)}

    def close(self) -> None:
        if self._path is not None:
            self._file.close()
