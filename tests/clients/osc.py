"""The `openstack` command in this process: the client's own shell, unchanged, one logged-in session for many commands.

A process of its own costs 1.5 s a command, most of it imports. This is what the client's interactive mode does too: the shell is set up once and takes
command after command. Every HTTP exchange is noted, so that a test can tell a refusal of the cloud from a mistake of the client.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shlex
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import requests.adapters
from openstackclient.common.clientmanager import ClientManager
from openstackclient.shell import OpenStackShell
from osc_lib.clientmanager import ClientCache

GROUPS = (
    "server",
    "flavor",
    "image",
    "network",
    "subnet",
    "port",
    "router",
    "floating ip",
    "security group",
    "keypair",
    "hypervisor",
    "compute service",
    "availability zone",
    "aggregate",
    "server group",
    "project",
    "user",
    "role",
    "domain",
    "application credential",
    "quota",
    "limits",
)
ENTRY_POINTS = ("openstack.compute.v2", "openstack.identity.v3", "openstack.image.v2", "openstack.network.v2", "openstack.common")
NEWEST = "2.96"


def offered_commands() -> set[str]:
    """Every command of the installed client below the nouns a cloud of this kind is asked for."""
    names = {point.name.replace("_", " ") for group in ENTRY_POINTS for point in entry_points(group=group)}
    return {name for name in names for group in GROUPS if name == group or name.startswith(group + " ")}


@dataclass
class Said:
    """What became of one command. `exchanges` are its (method, path, status)."""

    line: str
    code: int = 0
    out: str = ""
    err: str = ""
    exchanges: list[tuple[str, str, int]] = field(default_factory=list)
    raised: str = ""

    @property
    def works(self) -> bool:
        return self.code == 0 and not self.raised

    @property
    def refused(self) -> bool:
        """The client said so, or (some commands of it swallow the answer) the cloud did."""
        return not self.works or bool(self.exchanges and self.exchanges[-1][2] >= 400)

    @property
    def broken(self) -> str:
        """Why it is neither a success nor a plain refusal; "" when it is one of them."""
        for method, path, status in self.exchanges:
            if status >= 500 and status != 501:
                return f"{method} {path} answered {status}"
        if self.raised or "Traceback" in self.err:
            return f"the client broke: {self.raised or self.err}"
        return ""


class Terminal(io.StringIO):
    """An empty standard input at which somebody could sit."""

    def isatty(self) -> bool:
        return True


class Openstack:
    """`run("server list")`; words in `names` stand in for `$name`."""

    _last: Any = None  # the shell of this process that ran last

    def __init__(self, cloud: str = "virga") -> None:
        self.cloud = cloud
        self.names: dict[str, str] = {}
        self._shells: dict[str, Any] = {}

    def _shell(self, version: str) -> Any:
        if version not in self._shells:
            shell = OpenStackShell()
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = shell.run(["--os-cloud", self.cloud, "--os-compute-api-version", version, "token", "issue"])
            assert code == 0, said.getvalue()
            self._shells[version] = shell
        return self._shells[version]

    def run(self, line: str, version: str = NEWEST) -> Said:
        shell = self._shell(version)
        if shell is not Openstack._last:
            # The client keeps its handles on a class, for a process has one cloud; here each shell has its own, and with it its cloud and version.
            for kept in vars(ClientManager).values():
                if isinstance(kept, ClientCache):
                    kept._handle = None
            Openstack._last = shell
        said = Said(line)
        words = [re.sub(r"\$(\w+)", lambda found: self.names[found[1]], word) for word in shlex.split(line)]
        send = requests.adapters.HTTPAdapter.send

        def noted(adapter: Any, request: Any, **how: Any) -> Any:
            answer = send(adapter, request, **how)
            said.exchanges.append((request.method, re.sub(r"^https?://[^/]+", "", request.url), answer.status_code))
            return answer

        out, err = io.StringIO(), io.StringIO()
        errors = logging.StreamHandler(err)
        errors.setLevel(logging.ERROR)
        logging.getLogger().addHandler(errors)
        requests.adapters.HTTPAdapter.send = noted
        shell.stdout = out
        stdin, sys.stdin = sys.stdin, Terminal()  # else `image create` takes what stands there for the image
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                said.code = int(shell.run_subcommand(words) or 0)
        except SystemExit as error:
            said.code, said.raised = 2, f"the line is no command line: {err.getvalue()[-300:]}" if error.code else ""
        except Exception as error:
            said.raised = repr(error)
        finally:
            sys.stdin = stdin
            requests.adapters.HTTPAdapter.send = send
            logging.getLogger().removeHandler(errors)
        said.out, said.err = out.getvalue(), err.getvalue()
        return said


@dataclass
class Line:
    """One line of a script: the command, whether a plain refusal is what is wanted, and the name its output is kept under."""

    command: str
    refused: bool
    keep: str
    version: str
    place: str


def script(path: Path) -> list[Line]:
    """A file of commands. `! ` before one: not offered, and said so. `name = `: its output is kept as $name. `@2.95 `: at that microversion."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        found = re.match(r"(?P<refused>! )?(?:@(?P<version>[\d.]+) )?(?:(?P<keep>\w+) = )?(?P<command>.*)", text)
        assert found is not None
        lines.append(
            Line(found["command"], bool(found["refused"]), found["keep"] or "", found["version"] or NEWEST, f"{path.name}:{number}")
        )
    return lines
