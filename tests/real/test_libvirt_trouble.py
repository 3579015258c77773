"""libvirt in trouble: guests without a system (firmware alone: up at once, deaf to ACPI), daemons killed in the middle, a qemu that cannot start."""
from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.real.conftest import Driver, Refused, shell, until
from tests.real.test_drivers import SERVERS

from virga.agent.hypervisor import GuestSpec, ImageRef, Nic
from virga.lab.hosts import Lab, processes_in

pytestmark = [pytest.mark.real, pytest.mark.slow]
SERVER = SERVERS[0]
BARE = GuestSpec(SERVER, "bare", 1, 32, 1)


def qemus(driver: Driver) -> list[int]:
    found = []
    for pid in processes_in([driver.host.namespace]):
        try:
            if "qemu" in Path(f"/proc/{pid}/comm").read_text() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def bare(drivers: list[Driver]) -> Iterator[Driver]:
    one = drivers[0]
    one.call("disks.create", SERVER, None, 1)
    yield one
    one.call("hypervisor.stop", SERVER, graceful_s=0.0)
    one.call("hypervisor.undefine", SERVER)
    one.call("disks.discard", SERVER)
    until(lambda: not qemus(one), 10, "no qemu left")


def test_a_guest_that_ignores_the_power_button(bare: Driver) -> None:
    bare.call("hypervisor.launch", BARE, held=False)
    assert bare.call("hypervisor.guests") == {SERVER: "running"}
    bare.call("hypervisor.stop", SERVER, graceful_s=1.5)
    assert bare.took_s >= 1.5, "it was given its time"
    assert bare.call("hypervisor.guests") == {SERVER: "stopped"} and not qemus(bare)
    bare.call("hypervisor.stop", SERVER, graceful_s=30.0)
    bare.call("hypervisor.launch", BARE, held=False)
    bare.call("hypervisor.reset", SERVER)
    assert bare.call("hypervisor.guests") == {SERVER: "running"}


def test_every_state_there_and_back(bare: Driver) -> None:
    """Each call twice: what is so already stays so."""
    def twice(call: str, state: str, **more: float) -> None:
        for _ in range(2):
            bare.call(f"hypervisor.{call}", SERVER, **more)
            assert bare.call("hypervisor.guests") == {SERVER: state}, call

    for _ in range(2):
        bare.call("hypervisor.launch", BARE, held=True)
        assert bare.call("hypervisor.guests") == {SERVER: "held"}
    twice("resume", "running")
    twice("pause", "paused")
    twice("resume", "running")
    twice("suspend", "suspended")
    assert not qemus(bare), "a suspended guest takes no memory"
    twice("wake", "running")
    twice("suspend", "suspended")
    bare.call("hypervisor.stop", SERVER, graceful_s=0.0)
    assert bare.call("hypervisor.guests") == {SERVER: "stopped"}, "what was saved is dropped with a stop"
    with pytest.raises(Refused) as caught:
        bare.call("hypervisor.resume", SERVER)
    assert caught.value.code == "conflict" and "not running" in str(caught.value)
    bare.call("hypervisor.define", BARE)
    assert bare.call("hypervisor.guests") == {SERVER: "stopped"}
    with pytest.raises(Refused) as caught:
        bare.call("hypervisor.pause", SERVERS[1])
    assert caught.value.code == "no-guest"


def test_a_rebuilt_disk_is_a_fresh_one(bare: Driver) -> None:
    disk = Path(bare.host.folder) / "instances" / SERVER / "disk"
    before = bare.call("disks.checksum", SERVER)
    bare.call("disks.rebuild", SERVER, ImageRef("guest", disk_format="qcow2"), 1)
    assert bare.call("disks.checksum", SERVER) != before
    bare.call("hypervisor.launch", msgspec.structs.replace(BARE, ram_mb=96), held=False)
    until(lambda: "virga-guest" in bare.call("hypervisor.console_log", SERVER, None), 60, "the image's own system on the console")
    assert len(bare.call("hypervisor.console_log", SERVER, 1).splitlines()) == 1
    bare.call("hypervisor.stop", SERVER, graceful_s=20.0)
    assert disk.exists()


@pytest.mark.parametrize("what", ["no base", "no disk", "no tap"])
def test_a_qemu_that_cannot_start_says_why(bare: Driver, what: str) -> None:
    spec, said = BARE, ""
    disk = Path(bare.host.folder) / "instances" / SERVER / "disk"
    if what == "no base":
        bare.call("disks.rebuild", SERVER, ImageRef("guest", disk_format="qcow2"), 1)
        base = next((Path(bare.host.folder) / "images").glob("*.raw"))
        base.rename(base.with_suffix(".away"))
        said = base.name
    elif what == "no disk":
        disk.unlink()
        said = "has no disk on this host"
    else:  # the tap is there, but is none: qemu itself finds out
        spec = msgspec.structs.replace(BARE, nics=[Nic("99999999-1000-4000-8000-000000000009", 1, "fa:16:3e:00:00:09", "n")])
        shell(f"ip link add {spec.nics[0].tap} type veth peer name other9", bare.host.namespace)
        said = spec.nics[0].tap
    try:
        with pytest.raises(Refused) as caught:
            bare.call("hypervisor.launch", spec, held=False)
        assert said in str(caught.value) or "Invalid argument" in str(caught.value), caught.value
        assert SERVER in str(caught.value) and "\n\n" not in str(caught.value)
        assert not qemus(bare)
    finally:
        if what == "no base":
            base.with_suffix(".away").rename(base)
        if what == "no tap":
            shell("ip link del other9", bare.host.namespace)


def test_a_qemu_that_dies_on_its_way_up_is_told_with_its_last_words(bare: Driver) -> None:
    """A disk that is no qcow2 file: libvirt takes it, qemu does not."""
    disk = Path(bare.host.folder) / "instances" / SERVER / "disk"
    disk.write_bytes(b"\x01" * 65536)
    with pytest.raises(Refused) as caught:
        bare.call("hypervisor.launch", BARE, held=False)
    assert "qcow2" in str(caught.value), caught.value
    assert bare.call("hypervisor.guests").get(SERVER) in (None, "stopped", "crashed")


def test_libvirtd_killed_in_the_middle_of_everything(bare: Driver, lab: Lab) -> None:
    """kill -9 at random moments under start, stop, define, undefine: each call ends, and ends right."""
    chance = random.Random(7)
    ended, kills = threading.Event(), [0]

    def killer() -> None:
        while not ended.is_set():
            time.sleep(chance.uniform(0.05, 0.6))
            pid = lab.libvirt_pid(bare.host)
            if pid:
                os.kill(pid, signal.SIGKILL)
                kills[0] += 1
                until(lambda pid=pid: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text(), 5, "its death")  # type: ignore[misc]
            lab.start_libvirt(bare.host)
            lab._wait_libvirt(bare.host)
            time.sleep(chance.uniform(0.5, 1.5))

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        for _ in range(8):
            bare.call("hypervisor.launch", BARE, held=False)
            assert bare.call("hypervisor.guests") == {SERVER: "running"}
            assert len(qemus(bare)) == 1, "one guest, one process"
            bare.call("hypervisor.stop", SERVER, graceful_s=0.0)
            assert bare.call("hypervisor.guests")[SERVER] in ("stopped", "crashed")
            until(lambda: not qemus(bare), 5, "no process of a stopped guest")
            bare.call("hypervisor.define", BARE)
            bare.call("hypervisor.undefine", SERVER)
            assert bare.call("hypervisor.guests") == {}
    finally:
        ended.set()
        thread.join(30)
    print(f"{kills[0]} kills")
    assert kills[0] >= 3
