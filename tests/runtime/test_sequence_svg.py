"""The SVG drawing: well-formed, stands alone, says everything, and no text lies on another or on a lifeline."""
from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime import golden
from tests.runtime import sequence_samples as samples

from virga.runtime import sequence_svg
from virga.runtime.sequence import Diagram
from virga.runtime.sequence_rows import Story
from virga.runtime.sequence_svg import MARGIN, Board, Picture, TextBox, text_width, wrap
from virga.runtime.trace import Event

NS = "{http://www.w3.org/2000/svg}"
CASES = {
    "success": Diagram.from_events(samples.success(), "Revert on Kilo: success", samples.KILO),
    "failure": Diagram.from_events(samples.failure(), "Revert on Kilo: failure", samples.KILO),
    "vif_status": Diagram.from_events(samples.vif_status(), "VIF status during a revert", samples.KILO),
    "revert": Diagram.from_events(samples.revert(), "Revert in Virga", samples.VIRGA),
    "sequence": Diagram.from_events(samples.sequence(), "An operation of the engine", samples.VIRGA),
    "sequence-fails": Diagram.from_events(samples.sequence(fails=True), "One that turns back", samples.VIRGA),
}


def overlapping(picture: Picture) -> list[tuple[TextBox, TextBox]]:
    return [(one, two) for one, two in itertools.combinations(picture.texts, 2) if one.overlaps(two)]


def squeezed(texts: list[str]) -> str:
    return "".join("".join(texts).split())


def check(story: Story, title: str) -> None:
    picture, width, height = sequence_svg.draw(story, title)
    assert overlapping(picture) == []
    board = Board(story, title)
    for box in picture.texts:
        assert box.x >= 0 and box.x + box.width <= width, box
        assert box.y >= 0 and box.y + box.height <= height, box
    # between head and foot no text lies across a lifeline
    top = MARGIN + 24 + 6 + board.head_height()
    for box, column in itertools.product(picture.texts, range(len(story.actors))):
        if box.y > top and "later" not in box.text and box.text not in itertools.chain(*board.heads):
            assert not box.x < board.column_x(column) < box.x + box.width or box.y > height - 60, (box, column)
    said = squeezed([box.text for box in picture.texts])
    for row in story.rows:
        assert squeezed([row.number, row.text]) in said, row
    for label in story.labels:
        assert squeezed([label]) in said


@pytest.mark.parametrize("name", CASES)
def test_nothing_overlaps_and_everything_is_said(name: str) -> None:
    check(CASES[name].story(), CASES[name].title)


@pytest.mark.parametrize("name", CASES)
def test_it_is_well_formed_and_stands_alone(name: str) -> None:
    text = CASES[name].svg()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{NS}svg"
    assert root.find(f"{NS}title") is not None
    tags = {element.tag.removeprefix(NS) for element in root.iter()}
    assert tags <= {"svg", "title", "defs", "marker", "pattern", "path", "rect", "line", "text", "tspan"}
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    # every reference leads to something in the file
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    for element in root.iter():
        for value in element.attrib.values():
            if value.startswith("url(#"):
                assert value[5:-1] in ids


@pytest.mark.parametrize("name", ["failure", "revert"])
def test_golden(name: str) -> None:
    golden.check(f"{name}.svg", CASES[name].svg())


def test_kinds_are_told_apart_without_colour() -> None:
    root = ElementTree.fromstring(CASES["revert"].svg())
    arrows = [line for line in root.iter(f"{NS}line") if line.get("marker-end")]
    dashed = {line.get("marker-end") for line in arrows if line.get("stroke-dasharray")}
    solid = {line.get("marker-end") for line in arrows if not line.get("stroke-dasharray")}
    assert dashed == {"url(#to-fact)"}
    assert solid == {"url(#to-message)"}


def test_a_wait_is_shaded_from_its_begin_to_its_end() -> None:
    root = ElementTree.fromstring(CASES["failure"].svg())
    bands = [rect for rect in root.iter(f"{NS}rect") if rect.get("fill") == "url(#hanging)"]
    assert len(bands) == 1
    texts = {"".join(text.itertext()): float(text.get("y", 0)) for text in root.iter(f"{NS}text")}
    top = float(bands[0].get("y", 0))
    bottom = top + float(bands[0].get("height", 0))
    assert top < texts["1.3.2.1 waits for"] < bottom
    assert abs(texts["after 300 s: deadline"] - bottom) < 12


def test_a_drawing_is_the_same_every_time() -> None:
    assert CASES["revert"].svg() == Diagram.from_events(samples.revert(), "Revert in Virga", samples.VIRGA).svg()


# properties ---------------------------------------------------------------------------------------------------
NAMES = st.sampled_from(["a", "host-2 agent", "nova-compute on a host with a name", "b", "c", "", samples.PORT])
TEXTS = st.one_of(st.text(max_size=60), st.sampled_from([
    "x" * 120, "network-vif-plugged-" * 5, "<a href='x'>&amp;</a> ]]>", "short", f"port {samples.PORT} is DOWN",
    "日本語" * 20,
]))
KINDS = st.sampled_from(["message", "fact", "transition", "step", "wait", "fault", "note", "something new"])
ENDS = st.sampled_from([{}, {"ended": "deadline"}, {"ended": "fact", "by": 1}, {"step": "s", "state": "begun"},
                        {"step": "s", "state": "done"}, {"step": "s", "state": "failed"}])


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    at, events = 0.0, []
    for number in range(1, draw(st.integers(0, 25)) + 1):
        at += draw(st.sampled_from([0.0, 0.001, 0.25, 7.0]))
        events.append(Event(number, at, draw(KINDS), draw(NAMES), draw(NAMES), draw(TEXTS),
                            parent=draw(st.integers(0, number - 1)), data=draw(ENDS)))
    return events


@settings(max_examples=60, deadline=None)
@given(event_lists(), st.sampled_from(["", "a title", "t" * 300]))
def test_any_events_at_all_can_be_drawn(events: list[Event], title: str) -> None:
    drawn = Diagram.from_events(events, title)
    picture, _, _ = sequence_svg.draw(drawn.story(), drawn.title)
    assert overlapping(picture) == []
    said = squeezed([box.text for box in picture.texts])
    for row in drawn.story().rows:
        assert squeezed([row.number, row.text]) in said
    ElementTree.fromstring(drawn.svg())
    assert drawn.mermaid().count("\n    activate ") == drawn.mermaid().count("\n    deactivate ")
    for line in drawn.text(100).splitlines():
        assert line == line.rstrip()


@given(st.text(max_size=200), st.floats(20, 400), st.floats(0, 100))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: float, indent: float) -> None:
    lines = wrap(text, width, indent)
    assert squeezed(lines) == squeezed([text])
    for line in lines:
        assert text_width(line) <= width or len(line) == 1
