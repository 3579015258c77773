"""The real drivers of one host in a process of their own, told what to do by JSON lines: {"call": "wiring.wire", "args": [...], "kwargs": {...}}.

Tests run one in each emulated host's network namespace (`nsenter`), which is how the agent runs. Structs travel as their builtin form and are
converted by the called method's own annotations.
"""
from __future__ import annotations

import asyncio
import inspect
import json
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec

from virga.agent import libvirt as libvirt_driver
from virga.agent.disk import FolderImages, QcowDisks
from virga.agent.hypervisor import DriverError
from virga.agent.libvirt import LibvirtHypervisor, LibvirtOptions
from virga.agent.linuxbridge import WiringOptions
from virga.agent.polling import wiring_for
from virga.agent.transfer import TransferClient, TransferServer
from virga.runtime.env import real_env


class Setup(msgspec.Struct):
    folder: str
    wiring: WiringOptions
    libvirt: LibvirtOptions
    images: str
    address: str


def _convert(method: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    hints = typing.get_type_hints(method)
    names = list(inspect.signature(method).parameters)
    return ([msgspec.convert(value, hints[name]) for name, value in zip(names, args, strict=False)],
            {name: msgspec.convert(value, hints[name]) for name, value in kwargs.items()})


async def main() -> None:
    setup = msgspec.json.decode(sys.argv[1], type=Setup)
    env = real_env("driver")
    disks = QcowDisks(env, Path(setup.folder), FolderImages(Path(setup.images)), TransferClient(env, None))
    wiring = wiring_for(env, setup.wiring)
    hypervisor = LibvirtHypervisor(env, setup.libvirt, disks)
    server = TransferServer(disks)
    events: list[tuple[float, str, str]] = []
    rooms = {"disks": disks, "wiring": wiring, "hypervisor": hypervisor}
    await disks.open()
    await wiring.open(lambda port_id: events.append((env.monotonic(), "port", port_id)))
    if setup.libvirt.uri:
        await hypervisor.open(lambda server_id: events.append((env.monotonic(), "guest", server_id)))
    await server.open(setup.address, 8790, None)
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"ok": "ready"}), flush=True)

    async def serve(order: dict[str, Any]) -> None:
        start = env.monotonic()
        answer: dict[str, Any] = {"id": order["id"]}
        try:
            if order["call"] == "events":
                answer["ok"] = list(events)
                events.clear()
            else:
                room, _, name = order["call"].partition(".")
                method = getattr(rooms[room], name)
                args, kwargs = _convert(method, order.get("args", []), order.get("kwargs", {}))
                result = method(*args, **kwargs)
                answer["ok"] = msgspec.to_builtins(await result if inspect.isawaitable(result) else result)
        except DriverError as error:
            answer["error"], answer["code"] = str(error), error.code
        except Exception as error:
            answer["error"], answer["code"] = f"{type(error).__name__}: {error}", "bug"
        answer["took_s"] = env.monotonic() - start
        print(json.dumps(answer), flush=True)

    while line := await reader.readline():
        env.spawn(serve(json.loads(line)), "order")
    await wiring.close()


if __name__ == "__main__":
    _ = libvirt_driver
    asyncio.run(main())
