"""`virga draw` and `virga explain` against a real cloud: a server after a revert, and what they say when asked for nonsense."""
from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.cli.conftest import Running
from tests.live.cloud import LiveCloud


@pytest.fixture(scope="session")
def reverted(running: Running) -> str:
    """The id of a server called `there-and-back` after resize and revert."""

    async def story(cloud: LiveCloud) -> str:
        server_id = await cloud.create("there-and-back")
        await cloud.wait(server_id, "ACTIVE")
        await cloud.action(server_id, resize={"flavorRef": "4"})
        await cloud.wait(server_id, "VERIFY_RESIZE")
        await cloud.action(server_id, revertResize=None)
        await cloud.wait(server_id, "ACTIVE")
        await cloud.quiet()
        return server_id

    return running.do(story)


def test_the_revert_shows_hosts_bindings_and_what_ended_each_wait(running: Running, reverted: str) -> None:
    result = running.virga("draw", "there-and-back", "--operation", "revert", "--width", "200")
    assert result.exit_code == 0, result.output
    text = result.output
    heads = next(line for line in text.splitlines() if "engine" in line)
    assert heads.index("API") < heads.index("engine") < heads.index("store") < heads.index("host-")
    assert "host-1" in heads
    assert "host-2" in heads
    text = running.virga("draw", "there-and-back", "--operation", "revert", "--format", "mermaid").output  # one line a row
    assert re.search(r"binding generation \d+ opening", text)
    assert re.search(r"the binding on host-\d is the active one", text)
    assert re.search(r"a1->>a[34]: [\d.]+ restore", text)
    assert re.search(r"a[34]-->>a2: [\d.]+ port \w+ wired \(generation \d+\)", text)
    assert re.search(r"after [\d.]+ (ms|s): host-\d reports guest held \(epoch \d+\)", text)
    assert re.search(r"after [\d.]+ (ms|s): host-\d reports guest running", text)
    assert "revert done" in text
    assert re.search(r"[\d.]+ purge", text)
    # the host's answer hangs below the command it answers: 1.1.2.1 below 1.1.2
    numbers = re.findall(r"(\d+(?:\.\d+)+) guest kept", text)
    assert numbers
    assert f"{numbers[0].rpartition('.')[0]} retire" in text


def test_svg_and_mermaid(running: Running, reverted: str, tmp_path: Path) -> None:
    path = tmp_path / "one.svg"
    result = running.virga("draw", reverted, "--operation", "revert", "--format", "svg", "--output", str(path))
    assert result.exit_code == 0
    assert str(path) in result.output
    assert ET.fromstring(path.read_text()).tag.endswith("svg")
    result = running.virga("draw", reverted, "--format", "mermaid")
    assert "sequenceDiagram" in result.output


def test_the_explanation_of_what_is_over(running: Running, reverted: str) -> None:
    result = running.virga("explain", "there-and-back")
    assert result.exit_code == 0
    assert "ACTIVE on host-" in result.output
    assert re.search(r"last operation: revert, done .* after", result.output)
    assert "reports guest held" in result.output
    assert "migration" in result.output
    assert "reverted" in result.output
    assert "guest running; disk here" in result.output


@pytest.mark.parametrize(("arguments", "told"), [
    (("draw", "nobody"), "there is no server 'nobody'"),
    (("explain", "nobody"), "there is no server 'nobody'"),
    (("draw", "there-and-back", "--operation", "frobnicate"), "no operation 'frobnicate' on this server; there are: revert"),
    (("draw", "there-and-back", "--output", "/nonexistent/x.svg"), "cannot write /nonexistent/x.svg"),
])
def test_nonsense_is_answered_in_one_line(running: Running, reverted: str, arguments: tuple[str, ...], told: str) -> None:
    result = running.virga(*arguments)
    assert result.exit_code == 1
    assert told in result.output
    assert result.output.count("\n") == 1


def test_another_projects_server_is_unknown(running: Running, reverted: str) -> None:
    result = running.virga("explain", reverted, "--os-cloud", "virga-demo")
    assert result.exit_code == 1
    assert "there is no server" in result.output
