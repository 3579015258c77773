"""What the real-host tests share: skipping with a reason, two emulated hosts, the guest image, driver processes, and proof that nothing is left.

The hosts are network namespaces with a libvirtd each, the guests run under TCG; the drivers are the ones an operator runs.
"""
from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.real.driver_process import Setup

from virga.agent.libvirt import LibvirtOptions
from virga.agent.libvirt_xml import Machine
from virga.agent.linuxbridge import WiringOptions
from virga.lab.hosts import CannotEmulate, Lab, LabHost, check, processes_in

ROOT = Path(__file__).resolve().parents[2]
NEVER_S = 1e6
GUEST_IMAGE = ROOT / "build" / "guest" / "virga-guest.qcow2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of this folder where the machine cannot do it; under CI that is a failure, so that it is noticed."""
    mine = [item for item in items if Path(str(item.fspath)).parent == Path(__file__).parent]
    if not mine:
        return
    try:
        check()
        import libvirt  # noqa: F401
    except (CannotEmulate, ImportError) as error:
        if not os.environ.get("CI"):
            for item in mine:
                item.add_marker(pytest.mark.skip(reason=f"real hosts: {error}"))


class Refused(Exception):
    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """One host's drivers, in their process. Calls are synchronous; `took_s` is the last one's time inside the driver.

    `polling`: the wiring that is told by looking, and looks only when `wiring._look` is called.
    """

    def __init__(self, lab: Lab, host: LabHost, images: Path, polling: bool = False) -> None:
        self.lab, self.host = lab, host
        self.setup = Setup(
            host.folder,
            WiringOptions(host.folder + "/net", host.runtime, host.address, {"public": host.public}, host.prefix, not polling, NEVER_S,
                          view_wait_s=0.5 if polling else 5.0),
            LibvirtOptions(host.folder, host.libvirt_uri, "qemu+tcp://{address}/system", False,
                           str(lab.folder / "{host}"), Machine("qemu")),
            str(images), host.address)
        self.took_s = 0.0
        self._numbers = itertools.count()
        self._answers: dict[int, dict[str, Any]] = {}
        self.start()

    def start(self) -> None:
        argv = ["nsenter", f"--net=/run/netns/{self.host.namespace}", "--", sys.executable, str(Path(__file__).with_name("driver_process.py")),
                msgspec.json.encode(self.setup).decode()]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, start_new_session=True)
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the driver process of {self.host.name} ended")
        return dict(json.loads(line))

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.ask(name, *args, **kwargs)()

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """A call under way; what is returned waits for its answer."""
        assert self.process.stdin is not None
        order = {"id": next(self._numbers), "call": name, "args": msgspec.to_builtins(args), "kwargs": msgspec.to_builtins(kwargs)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return lambda: self._answer(int(order["id"]))

    def _answer(self, number: int) -> Any:
        while number not in self._answers:
            read = self._read()
            self._answers[read["id"]] = read
        answer = self._answers.pop(number)
        self.took_s = answer["took_s"]
        if "error" in answer:
            raise Refused(answer["error"], answer["code"])
        return answer["ok"]

    def kill(self) -> None:
        """kill -9 of the agent's process."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def shell(command: str, namespace: str = "", timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    argv = ["ip", "netns", "exec", namespace, "sh", "-c", command] if namespace else ["sh", "-c", command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)


def until(look: Any, timeout_s: float, what: str) -> float:
    """Wait until `look()` is true; returns how long it took."""
    start = time.monotonic()
    while not look():
        if time.monotonic() - start > timeout_s:
            raise AssertionError(f"{what} did not come about in {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """One run of these tests a machine: two cores carry the guests of one, and the lab of the driver tests has one name."""
    with open("/run/lock/virga-real-tests", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def guest_image() -> Path:
    done = subprocess.run([str(ROOT / "tools" / "guest" / "build")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return GUEST_IMAGE


@pytest.fixture(scope="module")
def lab(alone: None) -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="virga-lab-"))
    lab = Lab(folder, 2, "pt", 91, public_gateway="172.24.94.1/24")
    start = time.monotonic()
    lab.up()
    print(f"2 emulated hosts up in {time.monotonic() - start:.2f} s")
    namespaces = [lab.underlay, *(host.namespace for host in lab.hosts)]
    try:
        yield lab
    finally:
        lab.down()
        left = [name for name in os.listdir("/run/netns") if name.startswith("vgpt-")]
        assert not left and not processes_in(namespaces), "the lab left something behind"
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def drivers(lab: Lab, tmp_path_factory: pytest.TempPathFactory, guest_image: Path) -> Iterator[list[Driver]]:
    images = tmp_path_factory.mktemp("images")
    shutil.copyfile(guest_image, images / "guest")
    made: list[Driver] = []
    try:
        for host in lab.hosts:
            made.append(Driver(lab, host, images))
        yield made
    finally:
        for driver in made:
            driver.stop()
