"""The judge's own tools: the lists are what they say, and a verdict is never kinder than what happened.

They run in .venv-tempest, as in real use, because subunit and tempest live there.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
TOOLS = TOP / "tools" / "conformance"
PYTHON = TOP / ".venv-tempest" / "bin" / "python"

needs_tempest = pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-tempest (make tempest)")


def listed(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (TOOLS / "lists" / f"{name}.txt").read_text().splitlines())
    return [line for line in lines if line]


def test_the_fixed_list_is_complete_and_unchanged() -> None:
    lines = listed("interop")
    assert len(lines) == len(set(lines)) == 227
    by_service = [len([x for x in lines if f"api\\.{s}\\." in x]) for s in ("identity", "image", "network", "compute")]
    assert by_service == [8, 20, 64, 81]
    text = (TOOLS / "lists" / "interop.txt").read_text()
    assert len(re.findall(r"# V ", text)) == 56


def test_the_long_list_leaves_out_only_volumes_and_log_ins() -> None:
    text = (TOOLS / "lists" / "api.txt").read_text()
    left_out = [line for line in text.split("# ---- left out")[1].splitlines() if line]
    assert all(": block storage: " in line or ": guest log-in: " in line for line in left_out)
    assert f"# {len(listed('api'))} tests; {len(left_out)} left out." in text
    names = " ".join(listed("api"))
    for word in ("revert", "resize", "external_events", "test_routers", "test_floating_ips", "migrat"):
        assert word in names, word


FOLD = r"""
import io, json, sys, pathlib, datetime
sys.path.insert(0, {tools!r})
import subunit, fold
out = io.BytesIO()
stream = subunit.StreamResultToBytes(out)
class_of = "tempest.api.compute.x."
def event(test, status, text=""):
    if text:
        plain = "text/plain;charset=utf8"
        stream.status(test_id=test, file_name="traceback", file_bytes=text.encode(), mime_type=plain)
    now = datetime.datetime.now(datetime.timezone.utc)
    stream.status(test_id=test, test_status=status, timestamp=now)
names = "A.ok[id-1] A.bad[id-2] B.one[id-3] B.two[id-4] C.one[id-5] D.lost[id-6]"
selected = [class_of + n for n in names.split()]
for test in selected:
    event(test, "exists")
event(selected[0], "success")
event(selected[1], "fail", "Traceback\nValueError: told so\nDetails: the port")
event("setUpClass (tempest.api.compute.x.B)", "fail", "Boom: no network")
event("setUpClass (tempest.api.compute.x.C)", "skip", "")
path = pathlib.Path({stream!r})
path.write_bytes(out.getvalue())
verdicts, teardowns = fold.fold(selected, path)
print(json.dumps([[v.status, v.why] for v in verdicts]))
"""


@needs_tempest
def test_a_failed_set_up_counts_for_each_test_of_its_class(tmp_path: Path) -> None:
    code = FOLD.format(tools=str(TOOLS), stream=str(tmp_path / "stream"))
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    verdicts = json.loads(run.stdout)
    assert [v[0] for v in verdicts] == ["passed", "failed", "failed", "failed", "skipped", "notrun"]
    assert "told so" in verdicts[1][1] and "the port" in verdicts[1][1]
    assert "Boom: no network" in verdicts[2][1]


PROGRESS = FOLD + r"""
import subprocess, runner
runner.PROGRESS_S = 0.05
path.write_bytes(out.getvalue()[:-7])  # caught while a packet is being written
run = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(runner.ended(run, selected, path, 0.3))
run.communicate(b"\n")
print(runner.ended(run, selected, path, 100.0))
"""


@needs_tempest
def test_a_run_says_how_far_it_is_and_when_its_time_is_over(tmp_path: Path) -> None:
    code = PROGRESS.format(tools=str(TOOLS), stream=str(tmp_path / "stream"))
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-2:] == ["False", "True"]
    (line,) = run.stderr.splitlines()  # no news, no second line
    assert line.endswith("4 of 6 done, 1 passed, 3 failed, 0 skipped"), line


@needs_tempest
@pytest.mark.parametrize(
    ("change", "ok"),
    [({}, True), ({"status": 202}, False), ({"body": {"flavors": [], "extra": 1}}, False), ({"body": {}}, False)],
)
def test_the_schema_filter_refuses_what_tempest_refuses(change: dict[str, object], ok: bool) -> None:
    sample = {"client": "flavors", "method": "list_flavors", "version": "2.1", "status": 200, "body": {"flavors": []}}
    command = [PYTHON, TOOLS / "check_schema.py"]
    run = subprocess.run(command, input=json.dumps(sample | change), capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["ok"] is ok
