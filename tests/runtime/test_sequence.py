"""Events become rows: numbers along `parent`, waits and steps with their ends, ids shortened; and Mermaid."""
from __future__ import annotations

import pytest
from tests.runtime import golden
from tests.runtime import sequence_samples as samples

from virga.runtime.sequence import Diagram
from virga.runtime.sequence_rows import Row, Span, duration, read, same_story, shorten_ids
from virga.runtime.trace import Event


def numbered(events: list[Event]) -> dict[str, str]:
    return {row.number: row.text for row in read(events).rows if row.number}


# numbers ----------------------------------------------------------------------------------------------------
def test_the_success_has_the_numbers_of_the_report() -> None:
    told = numbered(samples.success())
    assert told["1"] == "finish_revert_resize"
    assert told["1.1.1"].endswith("vif.active is true")
    assert told["1.2"] == "setup_networks_on_host"
    assert told["1.2.1"] == "does nothing"
    assert told["1.3"] == "finish_revert_migration"
    assert told["1.3.1.1"] == "no event to wait for"
    assert told["1.3.2.1"].startswith("nothing to wait for")
    assert told["1.4"] == "migrate_instance_finish"
    assert told["1.4.1.1"].startswith("ml2_port_bindings")


def test_the_failure_has_the_numbers_of_the_report() -> None:
    told = numbered(samples.failure())
    assert told["1.1.1"].endswith("vif.active is false")
    assert told["1.3.1.1"] == "network-vif-plugged-6f1c2a34 is registered"
    assert told["1.3.2.1"] == "waits for network-vif-plugged-6f1c2a34 (300 s)"
    assert told["2.1.1"] == "update_device_up(host_A)"
    assert "binding still says host_B" in told["2.1.1.1.1"]


@pytest.mark.parametrize("agent_first", [True, False])
def test_the_vif_status_has_the_numbers_of_the_report_whoever_comes_first(agent_first: bool) -> None:
    told = numbered(samples.vif_status(agent_first))
    assert told["1.2.1"].startswith("_build_network_info_model")
    assert told["1.2.1.1"] == ("port is DOWN" if agent_first else "port is ACTIVE")
    assert told["2.1.1"].startswith("update_device_down")
    assert told["2.1.1.1"] == "port 6f1c2a34: ACTIVE → DOWN"


def chain(length: int) -> list[Event]:
    return [Event(i, 0.0, "message", "a", "b", f"call {i}", parent=i - 1) for i in range(1, length + 1)]


def test_a_long_chain_of_causes_is_counted_on_at_depth_six_without_a_number_twice() -> None:
    numbers = [row.number for row in read(chain(9)).rows]
    assert numbers[:6] == ["1", "1.1", "1.1.1", "1.1.1.1", "1.1.1.1.1", "1.1.1.1.1.1"]
    assert numbers[6:] == ["1.1.1.1.1.2", "1.1.1.1.1.3", "1.1.1.1.1.4"]


def test_a_cause_that_left_the_ring_counts_as_none() -> None:
    assert [row.number for row in read(chain(4)[2:]).rows] == ["1", "1.1"]


def test_a_note_without_a_cause_has_no_number() -> None:
    assert [row.number for row in read([Event(1, 0, "note", "a", "", "hello")]).rows] == [""]


# columns ----------------------------------------------------------------------------------------------------
def test_columns_follow_the_aliases_then_the_order_of_appearance() -> None:
    events = [Event(1, 0, "message", "x", "y", ""), Event(2, 0, "message", "z", "w", "")]
    story = read(events, {"w": "W!", "absent": "never", "y": "Y!"})
    assert story.actors == ["w", "y", "x", "z"]
    assert story.labels == ["W!", "Y!", "x", "z"]


def test_an_event_without_any_actor_goes_across() -> None:
    row = read([Event(1, 0, "note", "", "", "midnight"), Event(2, 0, "message", "a", "b", "")]).rows[0]
    assert (row.src, row.dst, row.is_arrow) == (-1, -1, False)


# ids --------------------------------------------------------------------------------------------------------
def test_ids_are_shortened_everywhere() -> None:
    assert shorten_ids(f"port {samples.PORT}, token {'0123456789abcdef' * 2}") == "port 6f1c2a34, token 01234567"
    for drawn in (Diagram.from_events(samples.failure(), samples.PORT, {"agent-a": samples.SERVER}),):
        for text in (drawn.text(), drawn.svg(), drawn.mermaid()):
            assert samples.PORT not in text
            assert samples.SERVER not in text
            assert "6f1c2a34" in text


@pytest.mark.parametrize(("seconds", "text"), [
    (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.84, "840 ms"), (0.9996, "1.0 s"), (2.5, "2.5 s"), (300.01, "300 s"),
])
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# waits ------------------------------------------------------------------------------------------------------
def test_a_wait_is_a_bracket_with_duration_and_cause() -> None:
    story = read(samples.revert(), samples.VIRGA)
    end = next(row for row in story.rows if row.kind == "ended")
    assert end.text == "after 205 ms: both are rows (1.3.1.1)"
    assert not end.bad
    wait = next(span for span in story.spans if span.kind == "wait")
    assert story.rows[wait.first_row].kind == "wait"
    assert story.rows[wait.last_row] is end
    assert wait.column == story.actors.index("ops")


def test_a_wait_ended_by_its_deadline_is_bad() -> None:
    story = read(samples.failure(), samples.KILO)
    assert [(row.text, row.bad) for row in story.rows if row.kind == "ended"] == [("after 300 s: deadline", True)]
    assert [span.bad for span in story.spans] == [True]


def test_a_wait_told_by_one_event() -> None:
    story = read([Event(1, 5.0, "wait", "a", "", "a row", data={"ended": "fact", "seconds": 0.8})])
    assert [row.text for row in story.rows] == ["waits for a row (800 ms)", "after 800 ms: fact"]
    assert story.spans == [Span("wait", 0, 0, 1)]


def test_a_wait_that_never_ends_is_a_hang() -> None:
    story = read([Event(1, 0.0, "wait", "a", "", "a row"), Event(2, 7.5, "note", "a", "", "still here")])
    assert [row.text for row in story.rows][-1] == "still waiting after 7.5 s, when the record ends"
    assert story.rows[-1].bad
    assert story.spans == [Span("wait", 0, 0, 3, bad=True)]


def test_what_a_wait_s_end_causes_is_numbered_under_the_wait() -> None:
    assert numbered(samples.revert())["1.5.1"] == "guest.resume"


# steps and faults ---------------------------------------------------------------------------------------------
def test_steps_become_bands_side_by_side_where_they_overlap() -> None:
    story = read(samples.revert(), samples.VIRGA)
    steps = {story.rows[span.first_row].text: span for span in story.spans if span.kind == "step"}
    assert {name: span.level for name, span in steps.items()} == {"retire": 0, "restore": 1}
    assert next(span.level for span in story.spans if span.kind == "wait") == 2


def test_a_step_is_read_from_its_text_when_the_data_is_silent() -> None:
    events = [Event(1, 0, "step", "ops", "", "move disk begun"),
              Event(2, 1, "step", "ops", "", "move disk failed: full", 1)]
    story = read(events)
    assert [row.text for row in story.rows if row.kind == "step"] == ["move disk", "move disk failed: full"]
    assert [(span.bad, span.first_row) for span in story.spans] == [(True, 0)]


def test_an_operation_of_the_engine_has_bands_without_being_told_the_ends() -> None:
    story = read(samples.sequence(), samples.VIRGA)
    ops = story.actors.index("ops")
    bands = [(span.kind, span.level, story.rows[span.first_row].text, story.rows[span.last_row].text)
             for span in sorted(story.spans, key=lambda span: span.first_row)]
    assert bands == [
        ("step", 0, "revert", "revert done"),
        ("step", 1, "swap", "after 206 ms: host-2 reports guest kept (epoch 4)"),
        ("wait", 2, "waits for host-2 to report the guest shut down (206 ms)",
         "after 206 ms: host-2 reports guest kept (epoch 4)"),
        ("step", 1, "resume", "after 14 ms: host-1 reports guest running (epoch 4)"),
        ("wait", 2, "waits for host-1 to report the guest running (14 ms)",
         "after 14 ms: host-1 reports guest running (epoch 4)"),
        ("step", 1, "pivot", "guest.purge"),
    ]
    assert {span.column for span in story.spans} == {ops}
    assert story.rows[0].is_arrow
    assert not any(row.kind == "note" for row in story.rows)


def test_an_operation_that_turns_back_is_bad_and_so_is_the_wait_it_broke() -> None:
    story = read(samples.sequence(fails=True), samples.VIRGA)
    bad = [(span.kind, story.rows[span.first_row].text) for span in story.spans if span.bad]
    assert bad == [("wait", "waits for host-2 to report the guest shut down (311 ms)"), ("step", "revert")]
    assert story.rows[-1].text == "revert undone: host-1: no space on device"
    assert story.rows[-1].bad


def test_an_operation_still_under_way_hangs_where_it_waits() -> None:
    story = read(samples.sequence()[:7], samples.VIRGA)
    assert story.rows[-1].text == "still waiting after 205 ms, when the record ends"
    assert {(span.kind, span.last_row) for span in story.spans} == {("wait", 7), ("step", 7)}


def test_a_fault_is_bad_and_a_silence_gets_a_row() -> None:
    rows = read([Event(1, 0, "message", "a", "b", "x"), Event(2, 9.5, "fault", "b", "a", "gone", 1)]).rows
    assert rows[1:] == [Row("gap", "", 9.5, -1, -1, "9.5 s later"), Row("fault", "1.1", 9.5, 1, 0, "gone", True)]


def test_no_events_at_all() -> None:
    empty = Diagram.from_events([], "nothing")
    assert empty.text().startswith("nothing\n")
    assert "<svg" in empty.svg()
    assert "sequenceDiagram" in empty.mermaid()


def test_sameness_ignores_ids_and_times() -> None:
    def key(text: str) -> tuple[str, ...]:
        story = read([Event(1, 0, "fact", "a", "b", text)])
        return same_story(story, story.rows[0])

    one = key(f"port {samples.PORT} fa:16:3e:00:11:22 on tap6f1c2a34-8d after 12 ms")
    other = key(f"port {samples.SERVER} fa:16:3e:99:88:77 on tapb5a0c9d2-1e after 2.5 s")
    assert one == other
    assert key("port is DOWN") != key("port is ACTIVE")
    assert key("wired g3") != key("wired g4")


# Mermaid ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["success", "failure", "revert"])
def test_mermaid_golden(name: str) -> None:
    aliases = samples.VIRGA if name == "revert" else samples.KILO
    drawn = Diagram.from_events(getattr(samples, name)(), f"{name}: a sample", aliases)
    golden.check(f"{name}.mmd", drawn.mermaid())


def test_mermaid_escapes_what_would_end_a_statement() -> None:
    text = Diagram.from_events([Event(1, 0, "message", "a", "b", "x; y #1 <b>\nz")], 'a "title"').mermaid()
    assert 'title: "a \\"title\\""' in text
    assert "a0->>a1: 1 x#59; y #35;1 #60;b#62; z" in text
