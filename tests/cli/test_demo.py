"""`virga demo` as a user runs it: what it prints, what it leaves, and that it can fail."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from virga.cli_founding import Outcome, count

DEMO = [sys.executable, "-m", "virga.cli", "demo"]


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *options], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_small_demo(tmp_path: Path) -> None:
    done = demo(tmp_path, "--servers", "2", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "reverts 2 active 2 error 0 disks-lost 0"
    assert "round 1: revert all: 2 of 2" in done.stdout
    assert "revert done" in done.stdout
    assert "<svg" in (tmp_path / "virga-demo" / "revert.svg").read_text()
    assert done.stderr == ""


def test_json_is_one_document_and_a_failing_cloud_fails_the_demo(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("argon2_memory_kib = 8\n[fake]\nfail = {fetch = 1000}\n")
    done = demo(tmp_path, "--servers", "2", "--rounds", "1", "--json", "--config", str(config))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["summary"] == "reverts 0 active 0 error 2 disks-lost 0"
    assert not told["passed"]
    assert all("fetch failed as scripted" in outcome["why"] for outcome in told["outcomes"])


def test_a_cloud_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("frobnicate = 1\n")
    done = demo(tmp_path, "--config", str(config))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("virga: the cloud ended with code 1: ")
    assert "frobnicate" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_used_state_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "virga.db").touch()
    done = demo(tmp_path, "--state", "s")
    assert done.returncode == 1
    assert "holds a cloud already" in done.stderr


def test_keep_leaves_the_cloud_running(tmp_path: Path) -> None:
    done = demo(tmp_path, "--servers", "1", "--rounds", "1", "--json", "--keep", "--state", str(tmp_path / "s"))
    told = json.loads(done.stdout)
    try:
        shown = subprocess.run([sys.executable, "-m", "virga.cli", "explain", "demo-1", "--state", str(tmp_path / "s")],
                               capture_output=True, text=True, timeout=30, check=False)
        assert "last operation: revert, done" in shown.stdout, shown.stderr
        assert f"kill {told['pid']}" in done.stderr
    finally:
        os.kill(told["pid"], signal.SIGTERM)


def outcome(**changes: object) -> Outcome:
    made = Outcome("s", "id", 1, status="ACTIVE", host="host-1", reverted=True, disk="kept")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("changes", "line"), [
    ({}, "reverts 1 active 1 error 0 disks-lost 0"),
    ({"disk": "lost"}, "reverts 1 active 1 error 0 disks-lost 1"),
    ({"status": "ERROR", "why": "x"}, "reverts 1 active 0 error 1 disks-lost 0"),
    ({"why": "it is ACTIVE on host-2 instead of host-1"}, "reverts 1 active 0 error 1 disks-lost 0"),
    ({"reverted": False, "status": "ERROR", "why": "the resize failed"}, "reverts 0 active 0 error 1 disks-lost 0"),
])
def test_what_counts(changes: dict[str, object], line: str) -> None:
    assert count([outcome(**changes)]).line == line
