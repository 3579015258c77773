"""The terminal drawing: goldens, width, and that nothing said is lost."""
from __future__ import annotations

import re

import pytest
from tests.runtime import golden
from tests.runtime import sequence_samples as samples

from virga.runtime.sequence import Diagram
from virga.runtime.sequence_text import cells
from virga.runtime.trace import Event

CASES = {
    "success": Diagram.from_events(samples.success(), "Revert on Kilo: success", samples.KILO),
    "failure": Diagram.from_events(samples.failure(), "Revert on Kilo: failure", samples.KILO),
    "vif_status": Diagram.from_events(samples.vif_status(), "VIF status during a revert", samples.KILO),
    "revert": Diagram.from_events(samples.revert(), "Revert in Virga", samples.VIRGA),
    "sequence": Diagram.from_events(samples.sequence(), "An operation of the engine", samples.VIRGA),
    "sequence-fails": Diagram.from_events(samples.sequence(fails=True), "One that turns back", samples.VIRGA),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    golden.check(f"{name}.txt", CASES[name].text(120))


def test_golden_in_ascii() -> None:
    drawn = CASES["failure"].text(110, ascii_only=True)
    assert drawn.isascii()
    golden.check("failure-ascii.txt", drawn)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("name", CASES)
def test_no_line_is_wider_than_asked_for_and_none_ends_in_spaces(name: str, width: int) -> None:
    for line in CASES[name].text(width).splitlines():
        assert len(cells(line)) <= width, line
        assert line == line.rstrip()


@pytest.mark.parametrize("name", CASES)
def test_every_word_is_there(name: str) -> None:
    words = set(re.findall(r"[\w.:]+", CASES[name].text(160)))
    for row in CASES[name].story().rows:
        # a word broken at a hyphen stands on two lines
        for word in re.findall(r"[\w.:]+", f"{row.number} {row.text}"):
            assert word in words, (word, row)


def test_a_wait_is_a_bracket() -> None:
    lines = CASES["failure"].text(120).splitlines()
    begin = next(i for i, line in enumerate(lines) if "┏ 1.3.2.1 waits for" in line)
    end = next(i for i, line in enumerate(lines) if "┗ ✗ after 300 s: deadline" in line)
    column = lines[begin].index("┏")
    assert lines[end].index("┗") == column
    assert all(line[column] == "┃" for line in lines[begin + 1:end])


def test_wide_characters_keep_the_lifelines_straight() -> None:
    events = [Event(1, 0, "message", "a", "b", "日本語のテキスト"), Event(2, 0, "note", "b", "", "ok")]
    lines = Diagram.from_events(events).text(80).splitlines()
    first = {next(i for i, cell in enumerate(cells(line)) if cell in ("│", "├")) for line in lines[1:]}
    assert len(first) == 1
    assert "日本語" in lines[1]


def test_many_actors_in_a_narrow_terminal_widen_it_rather_than_collide() -> None:
    events = [Event(i, 0, "message", f"actor-{i}", f"actor-{i + 1}", f"message {i}") for i in range(1, 12)]
    drawn = Diagram.from_events(events).text(80)
    for i in range(1, 12):
        assert f"message {i}" in drawn
