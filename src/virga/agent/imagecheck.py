"""Is a stranger's image what it says, and does it keep to itself? Asked before any program that would follow it is let near.

Rules: the header is read here first, as bytes, because opening is already reading: a program told to look at a VMDK descriptor or at a qcow2 file with
an external data file opens the files they name, and those are this host's. So whatever names another file (qcow2 backing file or data file, VMDK
extents or parent) is refused unopened. An image declared raw that begins like another format is refused too: its guest would not start, and
the next program that guesses formats would believe the bytes. Only then qemu-img looks, with the format given, bounded memory and time.
Sources: qcow2 (interop/qcow2.txt of QEMU), VMDK (VMware, "Virtual Disk Format 5.0"), ISO 9660 (ECMA-119, 9.4), VHDX (MS-VHDX 2.2.1).
"""
from __future__ import annotations

import json
import re
import struct
from pathlib import Path

from virga.agent.command import attempt
from virga.agent.hypervisor import DriverError

INSPECT_MEMORY_BYTES, INSPECT_CPU_S = 1 << 30, 30
QEMU_NAMES = {"vhd": "vpc", "iso": "raw", "ami": "raw", "ploop": "parallels"}
QCOW2, VMDK = b"QFI\xfb", b"KDMV"
# (offset, bytes, format): what a raw disk never begins with
SIGNS = [(0, QCOW2, "qcow2"), (0, VMDK, "vmdk"), (0, b"COWD", "vmdk"), (0, b"# Disk Desc", "vmdk"), (0, b"vhdxfile", "vhdx"), (0, b"conectix", "vhd"),
         (0, b"QED\0", "qed"), (0x40, b"\x7f\x10\xda\xbe", "vdi"), (0, b"WithoutFreeSpace", "ploop"), (0, b"WithouFreSpacExt", "ploop"),
         (0, b"LUKS\xba\xbe", "luks")]
HEAD_BYTES = 0x8006
ISO_SIGNS = (b"CD001", b"BEA01")  # the latter begins a UDF volume
QCOW2_DATA_FILE, QCOW2_KNOWN = 1 << 2, 0b11111  # incompatible features: dirty, corrupt, data file, compression type, extended L2
QCOW2_BACKING_FORMAT, BACKING_NAME_MAX_BYTES = 0xE2792ACA, 1023
VMDK_HEADER = struct.Struct("<4sIIQQQQ")
VMDK_TYPES = ("monolithicSparse", "streamOptimized")
VMDK_DESCRIPTOR_MAX_BYTES = 1 << 20


def why_not(path: Path, image_format: str) -> str:
    """Why these bytes are not an image of that format that stands alone; '' if nothing speaks against it. Blocking; reads the head of the file only."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if image_format == "qcow2":
            return _qcow2(head)
        if image_format == "vmdk":
            if head[:4] != VMDK:
                return "is not a VMDK that keeps its data in itself"
            _, _, _, capacity, _, offset, size = VMDK_HEADER.unpack_from(head.ljust(VMDK_HEADER.size, b"\0"))
            file.seek(offset * 512)
            return _vmdk(capacity, file.read(min(size * 512, VMDK_DESCRIPTOR_MAX_BYTES)))
        if image_format == "iso":
            return "" if head[0x8001:0x8006] in ISO_SIGNS else "is no ISO image: it has no volume descriptor"
        if image_format in ("raw", "ami"):
            found = next((name for offset, sign, name in SIGNS if head[offset:offset + len(sign)] == sign), "")
            return f"is declared as {image_format}, but its bytes are {found}" if found else ""
    return ""


def _qcow2(head: bytes) -> str:
    if head[:4] != QCOW2 or len(head) < 72:
        return "is no qcow2 image"
    version, backing = struct.unpack_from(">IQ", head, 4)
    if version not in (2, 3):
        return f"is a qcow2 image of version {version}, which is not known"
    if backing:
        return "refers to a backing file, which is not allowed"
    features = struct.unpack_from(">Q", head.ljust(80, b"\0"), 72)[0] if version >= 3 else 0
    if features & QCOW2_DATA_FILE:
        return "refers to a data file, which is not allowed"
    return "asks for features of qcow2 that are not known" if features & ~QCOW2_KNOWN else ""


def backing_of(path: Path) -> tuple[str, str]:
    """(name, format) of the backing file in a qcow2 overlay's header, ('', '') without one. Raises DriverError for a file that is no qcow2 image or keeps
    its data in another file.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
        why = _qcow2(head[:8] + bytes(8) + head[16:])
        if why:
            raise DriverError(f"{path.parent.name}/{path.name} {why}", "bad-image")
        version, offset, length = struct.unpack_from(">IQI", head, 4)
        if not offset:
            return "", ""
        file.seek(offset)
        name = file.read(min(length, BACKING_NAME_MAX_BYTES)).decode("utf-8", "replace")
    at = struct.unpack_from(">I", head, 100)[0] if version >= 3 else 72
    while at + 8 <= len(head):  # header extensions
        kind, size = struct.unpack_from(">II", head, at)
        if kind == QCOW2_BACKING_FORMAT:
            return name, head[at + 8:at + 8 + size].decode("latin-1")
        if not kind:
            break
        at += 8 + (size + 7) // 8 * 8
    return name, ""


def _vmdk(capacity: int, descriptor: bytes) -> str:
    text = descriptor.split(b"\0")[0].decode("latin-1")
    kind = re.search(r'^\s*createType\s*=\s*"([^"]*)"', text, re.MULTILINE)
    if not capacity or kind is None or kind.group(1) not in VMDK_TYPES:
        said = f" (it is {kind.group(1)})" if kind else ""
        return f"may refer to other files{said}; a VMDK has to be {' or '.join(VMDK_TYPES)}"
    return "refers to a parent disk, which is not allowed" if "parentFileNameHint" in text else ""


async def inspect(path: Path, image_format: str, image_id: str) -> int:
    """Virtual size in bytes of a stranger's image. Raises DriverError 'bad-image' when it is not what it says or would reach outside itself."""
    why = why_not(path, image_format)
    if why:
        raise DriverError(f"image {image_id} {why}", "bad-image")
    kind = QEMU_NAMES.get(image_format, image_format)
    bounds = ["prlimit", f"--as={INSPECT_MEMORY_BYTES}", f"--cpu={INSPECT_CPU_S}"]
    status, out, err = await attempt([*bounds, "qemu-img", "info", "-f", kind, "--output=json", str(path)])
    if status != 0:
        raise DriverError(f"image {image_id} is not a valid {image_format} image: {err.strip()[-300:]}", "bad-image")
    info = json.loads(out)
    if info.get("backing-filename") or info.get("full-backing-filename"):
        raise DriverError(f"image {image_id} refers to a backing file, which is not allowed", "bad-image")
    if kind == "qcow2":
        status, _, err = await attempt([*bounds, "qemu-img", "check", "-f", kind, "-q", str(path)])
        if status not in (0, 3):  # 3: leaked clusters, harmless
            raise DriverError(f"image {image_id} is damaged: {(err.strip() or 'qemu-img check failed').splitlines()[0][:300]}", "bad-image")
    return int(info["virtual-size"])
