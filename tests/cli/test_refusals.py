"""Where real guests cannot be had: one line that says what is missing and what to do about it, and nothing made or used up."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from virga.agent import needs

# Stands in for the machine: read by Python before the command's own first line.
SITE = """
import os, sys
from pathlib import Path
lacks = os.environ["LACKS"]
os.geteuid = lambda: 1000 if lacks == "root" else 0
from virga.agent import needs
if lacks == "tun":
    needs.DEVICES = Path("/nowhere")
else:
    needs.DEVICES = Path(os.environ["DEVICES"])
needs.present = lambda program: lacks != "programs"
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "libvirt" and lacks == "binding":
            raise ModuleNotFoundError("No module named 'libvirt'", name="libvirt")
        if name == "libvirt" and lacks == "library":
            raise ImportError("libvirt.so.0: cannot open shared object file")
sys.meta_path.insert(0, Hide())
if lacks not in ("binding", "library"):
    sys.modules["libvirt"] = type(sys)("libvirt")
"""
WORDS = {
    "root": "needs root; run as root, or use --hypervisor fake",
    "tun": "/dev/net/tun is missing (modprobe tun); without it use --hypervisor fake",
    "programs": "missing Debian packages; run: apt-get install -y ",
    "binding": "the libvirt binding for Python is missing; run `make real` (or pip install 'virga-cloud[libvirt]'), or use --hypervisor fake",
    "library": "the libvirt binding for Python is missing (libvirt.so.0: cannot open shared object file); run `make real`",
    "kvm": "/dev/kvm is missing; use --virt-type qemu (slow, works anywhere) or use --hypervisor fake",
}
COMMANDS = {
    "up": ["up", "--hypervisor", "libvirt", "--listen", "127.0.0.1:0", "--state"],
    "demo": ["demo", "--hypervisor", "libvirt", "--state"],
    "host": ["host", "--hypervisor", "libvirt", "--join", "x", "--state"],
}


@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize("lacks", list(WORDS))
def test_one_line_says_what_is_missing(tmp_path: Path, command: str, lacks: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    devices = tmp_path / "dev"
    (devices / "net").mkdir(parents=True)
    (devices / "net" / "tun").touch()
    env = {**os.environ, "LACKS": lacks, "DEVICES": str(devices), "PYTHONPATH": str(tmp_path / "site")}
    state = tmp_path / "state"
    done = subprocess.run([sys.executable, "-m", "virga.cli", *COMMANDS[command], str(state)], env=env, cwd=tmp_path, capture_output=True, text=True,
                          timeout=60, check=False)
    said = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 1 and len(said) == 1, said
    assert said[0].startswith("virga: ") and WORDS[lacks] in said[0], said
    if command == "host":
        assert not state.exists(), "a machine that cannot be a host is left as it was"


def test_all_missing_packages_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "present", lambda program: program in ("ip", "bridge", "virtqemud"))
    assert needs.missing_packages({**needs.NETWORK, **needs.GUESTS}, daemon=True) == [
        "conntrack", "dnsmasq-base", "nftables", "qemu-system-x86", "qemu-utils", "util-linux"]
    monkeypatch.setattr(needs, "present", lambda program: program != "libvirtd" and program != "virtqemud")
    assert needs.missing_packages(needs.GUESTS, daemon=True) == ["libvirt-daemon-system"]
    assert needs.missing_packages(needs.GUESTS, daemon=False) == []
