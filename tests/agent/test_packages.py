"""Whatever program the agent or the emulated hosts run, `make real` installs the package that has it: a fresh machine has none of them."""
from __future__ import annotations

import re
from pathlib import Path

from virga.agent.command import PACKAGES
from virga.lab.hosts import LIBVIRT_USER, NEEDED, NEEDED_LIBVIRT

SETUP = Path(__file__).resolve().parents[2] / "tools" / "setup.sh"
BROUGHT_BY = {"bridge": "ip", "prlimit": "nsenter"}  # programs of one package


def test_every_program_of_a_host_is_installed() -> None:
    text = SETUP.read_text()
    table = text[text.index("<<'LIST'"):text.index("\nLIST\n")]
    installed = {match[1] for match in re.finditer(r"^(\S+) \S+$", table, re.MULTILINE)}
    wanted = {BROUGHT_BY.get(program, program) for program in {**PACKAGES, **NEEDED, **NEEDED_LIBVIRT}}
    assert wanted <= installed, f"tools/setup.sh does not install what has {sorted(wanted - installed)}"
    assert f"getent passwd {LIBVIRT_USER}" in text
