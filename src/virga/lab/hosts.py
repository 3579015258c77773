"""Emulated hosts: network namespaces that stand for machines, with real bridges between them and one libvirtd in each.

Owns: the namespaces `vg<tag>-*`, the underlay (in a namespace of its own, so that nothing can leak to the real network), two legs from the caller's
namespace into it (control, public), the libvirtd of each host with its private folders, and the removal of all of it.
Rules: everything is found again by name, and every process by the namespace it is in; so removal needs no list that a crash could have lost. A keeper
process holds a pipe from its maker: when the maker is gone, by whatever death, the keeper removes every trace. It is also the reaper of daemons that
lose their parent (qemu, dnsmasq): without one libvirt sees a dead qemu only seconds later. A keeper that is killed itself leaves its work to the next
`sweep`. What an operator runs on real machines is untouched by all this: the agent only sees a host's network.
"""
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from virga.agent import needs

NETNS_FOLDER = Path("/run/netns")
CACHE = Path("/var/cache/virga/libvirt-capabilities")
PR_SET_CHILD_SUBREAPER = 36
KILL_POLLS, KILL_POLL_S = 100, 0.03
LIBVIRT_WAIT_S = 30.0
FOLDER_TRIES = 20
LOCKS, NUMBERS = Path("/run/lock"), 90
NEEDED = {**needs.NETWORK, "nsenter": "util-linux"}
NEEDED_LIBVIRT = {**needs.GUESTS, "libvirtd": needs.LIBVIRT_PACKAGE, "tini": "tini"}
LIBVIRT_USER = "libvirt-qemu"  # libvirt's QEMU driver looks it up before it reads which user it is to take

LIBVIRTD_CONF = """\
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
listen_addr = "{address}"
host_uuid = "{uuid}"
"""
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
dynamic_ownership = 0
remember_owner = 0
namespaces = []
stdio_handler = "file"
migration_address = "{address}"
migration_host = "{address}"
"""


class CannotEmulate(Exception):
    """One clear line on why this machine cannot have emulated hosts."""


def take_number() -> tuple[int, IO[str]]:
    """A number no other lab on this machine has, for its tag and its addresses; it is ours until the file is closed. Raises CannotEmulate."""
    for number in range(NUMBERS):
        file = (LOCKS / f"virga-lab-{number}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return number, file
    raise CannotEmulate(f"{NUMBERS} clouds of emulated hosts run on this machine already")


class LabHost(msgspec.Struct, frozen=True):
    """One emulated host. `public` is the interface for the physical network of that name; `libvirt_uri` '' without libvirt."""

    name: str
    namespace: str
    address: str
    public: str
    folder: str
    libvirt_uri: str
    prefix: str
    runtime: str


def check(libvirt: bool = True) -> None:
    """Raises CannotEmulate with what to do about it."""
    programs = {**NEEDED, **(NEEDED_LIBVIRT if libvirt else {})}
    missing = set(needs.missing_packages(programs, daemon=False))
    if libvirt and not needs.user_exists(LIBVIRT_USER):
        missing.add(needs.LIBVIRT_PACKAGE)
    why = needs.privilege("an emulated host of real guests") or needs.packages(sorted(missing))
    if why:
        raise CannotEmulate(why)


def _ip(lines: Iterable[str], namespace: str = "", force: bool = False) -> None:
    argv = ["ip", *(["-n", namespace] if namespace else []), *(["-force"] if force else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", text=True, capture_output=True, check=False)
    if done.returncode != 0 and not force:
        raise CannotEmulate(f"cannot set up the emulated network: {done.stderr.strip()[:300]}")


def _namespaces(prefix: str) -> list[str]:
    if not NETNS_FOLDER.exists():
        return []
    return sorted(entry.name for entry in NETNS_FOLDER.iterdir() if entry.name.startswith(prefix))


def processes_in(names: Iterable[str]) -> list[int]:
    """Every process that is in one of these network namespaces."""
    inodes = set()
    for name in names:
        with contextlib.suppress(OSError):
            inodes.add((NETNS_FOLDER / name).stat().st_ino)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns" / "net").stat().st_ino in inodes:
                    found.append(int(entry.name))
    return found


def remove_traces(tag: str) -> int:
    """Processes, namespaces, links and runtime folder of one lab, however far it got; returns how many processes had to be killed."""
    prefix = f"vg{tag}-"
    names = _namespaces(prefix)
    killed = 0
    for _ in range(KILL_POLLS):
        pids = [pid for pid in processes_in(names) if pid != os.getpid() and not _zombie(pid)]
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(KILL_POLL_S)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        (NETNS_FOLDER / name).unlink(missing_ok=True)
    _ip([f"link del vg{tag}c", f"link del vg{tag}x"], force=True)
    shutil.rmtree(f"/run/vg{tag}", ignore_errors=True)
    return killed


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def start_keeper(tag: str, folder: str = "") -> subprocess.Popen[bytes]:
    """A process that outlives us and then removes the lab `tag` and, if it is given, `folder`. Raises CannotEmulate."""
    keeper = subprocess.Popen([sys.executable, "-m", "virga.lab.hosts", "keep", tag, *([folder] if folder else [])],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert keeper.stdout is not None
    if keeper.stdout.readline() != b"keeping\n":
        raise CannotEmulate("the keeper of the emulated hosts did not start")
    return keeper


def end_keeper(keeper: subprocess.Popen[bytes]) -> None:
    """Let it do its work now, and wait until it has."""
    assert keeper.stdin is not None
    keeper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(timeout=20 + FOLDER_TRIES)


class Lab:
    """`up()` makes `count` hosts, `down()` removes every trace. `tag`: two to four characters, one lab a tag; `net`: third octet of the underlay.

    `restart`: a libvirtd that dies is started again, as a service manager does on a real machine. `temporary`: the folder goes too, whatever ends us.
    """

    def __init__(self, folder: Path, count: int, tag: str, net: int = 0, libvirt: bool = True, public_gateway: str = "", restart: bool = False,
                 temporary: bool = False) -> None:
        if not tag.isalnum() or len(tag) > 4:
            raise ValueError("a lab's tag is one to four letters or digits")
        self.folder, self.count, self.tag, self.net, self.libvirt = folder.absolute(), count, tag, net, libvirt
        self.public_gateway, self.restart, self.temporary = public_gateway, restart, temporary
        self.underlay = f"vg{tag}-ul"
        self.control_address = f"10.98.{net}.254"
        self.hosts = [self._host(number) for number in range(1, count + 1)]
        self._keeper: subprocess.Popen[bytes] | None = None

    def _host(self, number: int) -> LabHost:
        name = f"host-{number}"
        runtime = f"/run/vg{self.tag}/{name}"
        uri = f"qemu+unix:///system?socket={runtime}/libvirt-sock" if self.libvirt else ""
        space = f"vg{self.tag}-{name}"
        return LabHost(name, space, f"10.98.{self.net}.{number}", "eth1", str(self.folder / name), uri, space + "-", f"{runtime}/net")

    def up(self) -> None:
        """Raises CannotEmulate. Leaves nothing behind when it fails."""
        check(self.libvirt)
        remove_traces(self.tag)
        try:
            self._start_keeper()
            self._network()
            if self.libvirt:
                self._libvirts()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Idempotent."""
        if self.libvirt:
            self._save_cache()
        if self._keeper is not None:
            end_keeper(self._keeper)  # it does the removal, as it would after our death
            self._keeper = None
        remove_traces(self.tag)

    # pieces ---------------------------------------------------------------------------------------------------------
    def _start_keeper(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keeper = start_keeper(self.tag, str(self.folder) if self.temporary else "")

    def _network(self) -> None:
        names = [self.underlay, *(host.namespace for host in self.hosts)]
        _ip([f"netns add {name}" for name in names])
        _ip(["link set lo up", "link add ul0 type bridge forward_delay 0", "link set ul0 up",
             "link add ext0 type bridge forward_delay 0", "link set ext0 up"], self.underlay)
        lines = []
        for number, host in enumerate(self.hosts, 1):
            lines += [f"link add u{number} netns {self.underlay} type veth peer name eth0 netns {host.namespace}",
                      f"link add x{number} netns {self.underlay} type veth peer name eth1 netns {host.namespace}"]
        lines += [f"link add vg{self.tag}c type veth peer name uc netns {self.underlay}",
                  f"address add {self.control_address}/24 dev vg{self.tag}c", f"link set vg{self.tag}c up",
                  f"link add vg{self.tag}x type veth peer name xc netns {self.underlay}", f"link set vg{self.tag}x up"]
        if self.public_gateway:
            lines.append(f"address add {self.public_gateway} dev vg{self.tag}x")
        _ip(lines)
        inner = []
        for number in range(1, self.count + 1):
            inner += [f"link set u{number} master ul0 up", f"link set x{number} master ext0 up"]
        _ip([*inner, "link set uc master ul0 up", "link set xc master ext0 up"], self.underlay)
        for host in self.hosts:
            _ip(["link set lo up", f"address add {host.address}/24 dev eth0", "link set eth0 up", "link set eth1 up"], host.namespace)

    def _libvirts(self) -> None:
        for host in self.hosts:
            self.start_libvirt(host)
        for host in self.hosts:
            self._wait_libvirt(host)

    def _save_cache(self) -> None:
        """Keep what libvirt found out about qemu: it saves each new host seconds of probing."""
        warm = Path(self.hosts[0].folder) / "libvirt" / "cache" / "qemu" / "capabilities"
        with contextlib.suppress(OSError):
            if any(warm.glob("*.xml")) and not CACHE.is_dir():
                CACHE.parent.mkdir(parents=True, exist_ok=True)
                partial = CACHE.with_suffix(f".{os.getpid()}")
                shutil.copytree(warm, partial)
                partial.rename(CACHE)

    def start_libvirt(self, host: LabHost) -> None:
        """One privileged libvirtd in the host's namespace, with folders of its own mounted over the usual ones. Also used after killing one."""
        base, runtime = Path(host.folder) / "libvirt", Path(f"/run/vg{self.tag}/{host.name}")
        for path in (*(base / name for name in ("etc", "lib", "cache", "log")), runtime):
            path.mkdir(parents=True, exist_ok=True)
        if CACHE.is_dir() and not (base / "cache" / "qemu" / "capabilities").exists():
            shutil.copytree(CACHE, base / "cache" / "qemu" / "capabilities")
        number = self.hosts.index(host) + 1
        uuid = f"00000000-0000-4000-8000-{self.net:06d}{number:06d}"
        (base / "etc" / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(address=host.address, uuid=uuid))
        (base / "etc" / "qemu.conf").write_text(QEMU_CONF.format(address=host.address))
        (runtime / "libvirt-sock").unlink(missing_ok=True)
        (runtime / "libvirtd.pid").unlink(missing_ok=True)
        mounts = {base / "etc": "/etc/libvirt", base / "lib": "/var/lib/libvirt", base / "cache": "/var/cache/libvirt",
                  base / "log": "/var/log/libvirt", runtime: "/run/libvirt"}
        script = "mkdir -p " + " ".join(mounts.values()) + " && " + " && ".join(
            f"mount --bind '{source}' {target}" for source, target in mounts.items())
        daemon = f"libvirtd --listen --pid-file '{runtime}/libvirtd.pid'"
        if self.restart:
            script += f" && exec tini -s -- sh -c \"while :; do rm -f '{runtime}/libvirtd.pid' '{runtime}/libvirt-sock'; {daemon}; sleep 0.5; done\""
        else:
            script += f" && exec tini -s -- {daemon}"
        self._ask_keeper(["ip", "netns", "exec", host.namespace, "sh", "-c", script], str(base / "log" / "libvirtd.out"))

    def _wait_libvirt(self, host: LabHost) -> None:
        """Until it answers, not only until its socket is there: the first answer comes after it has probed qemu."""
        end = time.monotonic() + LIBVIRT_WAIT_S
        sock = Path(f"/run/vg{self.tag}/{host.name}/libvirt-sock")
        while not sock.exists():
            if time.monotonic() > end:
                log = Path(host.folder) / "libvirt" / "log" / "libvirtd.out"
                raise CannotEmulate(f"libvirtd of {host.name} did not come up in {LIBVIRT_WAIT_S:g} s; see {log}")
            time.sleep(0.01)

    def libvirt_pid(self, host: LabHost) -> int:
        """The pid of the host's libvirtd (not of its tini); 0 when it does not run."""
        for pid in processes_in([host.namespace]):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd":
                    return pid
        return 0

    def _ask_keeper(self, argv: Sequence[str], log: str) -> None:
        """Let the keeper start a process, so that it is the keeper's child and not ours."""
        assert self._keeper is not None and self._keeper.stdin is not None and self._keeper.stdout is not None
        self._keeper.stdin.write(json.dumps({"argv": list(argv), "log": log}).encode() + b"\n")
        self._keeper.stdin.flush()
        if self._keeper.stdout.readline() != b"started\n":
            raise CannotEmulate(f"cannot start {argv[0]}; see {log}")

    def spawn(self, host: LabHost, argv: Sequence[str], log: str) -> None:
        """Run a program on an emulated host: in its network, under the keeper."""
        self._ask_keeper(["nsenter", f"--net={NETNS_FOLDER / host.namespace}", "--", *argv], log)


def sweep() -> list[str]:
    """Remove what labs whose keeper is gone have left; returns their tags."""
    tags = {name[2:].split("-")[0] for name in _namespaces("vg") if "-" in name}
    kept = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"virga.lab.hosts" in words and b"keep" in words:
                    kept.add(words[words.index(b"keep") + 1].decode())
    gone = sorted(tags - kept)
    for tag in gone:
        remove_traces(tag)
    return gone


def keep(tag: str, folder: str = "") -> None:
    """The keeper: start what is asked for on standard input, reap, and clean up when standard input ends; a `folder`, if given, goes last."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _reap)
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    sys.stdout.write("keeping\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            with open(order["log"], "ab") as log:
                # The child is not waited for by its Popen: _reap takes every child.
                subprocess.Popen(order["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            answer = "started\n"
        except OSError as error:
            answer = f"failed {error}\n".replace("\n", " ") + "\n"
        with contextlib.suppress(OSError):
            sys.stdout.write(answer)
            sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    remove_traces(tag)
    for _ in range(FOLDER_TRIES if folder else 0):  # others that die with our maker may still be writing there
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            return
        time.sleep(1.0)


def _reap(_number: int, _frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    if sys.argv[1:2] == ["keep"]:
        keep(*sys.argv[2:4])
    elif sys.argv[1:] == ["sweep"]:
        print(" ".join(sweep()))
