"""Every command of the openstack client below the nouns in osc.GROUPS, against a running cloud, in the order a person would use them.

The scripts in commands/*.txt are the test: a plain line must work, a line that begins with `! ` must be refused with a sentence and change nothing.
Nothing may answer 5xx or make the client break. A client that learns a new command fails `test_no_command_is_left_out` until a script names it.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.clients.osc import Openstack, Said, offered_commands, script

SCRIPTS = Path(__file__).parent / "commands"
WAIT_S = 30.0


def names_of(line: str, known: set[str]) -> str:
    """The longest known command that the words of a line begin with."""
    words = line.split()
    return next((" ".join(words[:n]) for n in range(len(words), 0, -1) if " ".join(words[:n]) in known), "")


def test_no_command_is_left_out() -> None:
    known = offered_commands()
    written = {names_of(line.command, known) for path in SCRIPTS.glob("*.txt") for line in script(path)}
    assert known - written == set()


def wait_for(client: Openstack, words: list[str]) -> Said:
    """`wait SERVER STATUS`: the client has no such command for most actions."""
    end = time.monotonic() + WAIT_S
    while True:
        said = client.run(f"server show -f value -c status -c OS-EXT-STS:task_state {words[1]}")
        if words[2] in said.out and "None" in said.out:
            return said
        if time.monotonic() > end:
            said.code, said.err = 1, f"it is {said.out!r}, not {words[2]}"
            return said
        time.sleep(0.05)


def play(client: Openstack, path: Path, stop_after: int | None = None) -> list[str]:
    """Runs a script; what went wrong, a line each."""
    bad = []
    for line in script(path)[:stop_after]:
        words = line.command.split()
        said = wait_for(client, words) if words[0] == "wait" else client.run(line.command, line.version)
        told = (said.err or said.out).strip()[-300:]
        if said.broken:
            bad.append(f"{line.place} {line.command}: {said.broken}")
        elif line.refused and not said.refused:
            bad.append(f"{line.place} {line.command}: worked, and should be refused")
        elif line.refused and not said.works and len(said.err.strip()) < 10:
            bad.append(f"{line.place} {line.command}: refused without a sentence")
        elif not line.refused and not said.works:
            bad.append(f"{line.place} {line.command}: {told}")
        if line.keep:
            client.names[line.keep] = said.out.split()[0] if said.out.split() else "nothing"
    return bad


@pytest.fixture
def client(cloud: Path, tmp_path: Path) -> Openstack:
    client = Openstack()
    (tmp_path / "file").write_bytes(bytes(range(256)) * 400)
    client.names |= {"file": str(tmp_path / "file"), "back": str(tmp_path / "back")}
    client.names["image"] = client.run("image list -f value -c ID").out.split()[0]
    client.names["demo"] = client.run("project show demo -f value -c id").out.strip()
    return client


@pytest.mark.parametrize("room", ["identity", "image", "network"])
def test_commands(client: Openstack, room: str) -> None:
    assert play(client, SCRIPTS / f"{room}.txt") == []


@pytest.mark.slow
def test_commands_of_a_server(client: Openstack) -> None:
    """Slow for the client's own sake: it polls each --wait once in two or more seconds."""
    assert play(client, SCRIPTS / "compute.txt") == []
