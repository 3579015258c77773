"""Events -> the rows and spans of a sequence diagram: what every drawing of it has in common.

Owns: which event becomes which row, the numbering (1, 1.1, 1.1.1 along `parent`), the columns, the pairing of a wait
or a step with its end, and the shortening of ids.
Rules: a row is one line of the story, in the order of the events; nothing here knows about pixels or characters.
An event says more about itself in `data`, and everything there is optional:
  wait  begins a wait; a second wait event with parent = the first and data `ended` (what ended it: "fact",
        "deadline", ...), and maybe `by` (the number of the event that did), ends it. One event alone may tell both,
        with `ended` and `seconds`. A wait nobody ends lasts until the next step, wait, note or fault of its operation
        at the same actor (a note with the same parent then tells what ended it); without one it is drawn as a hang.
  step  data `step` (its name) and `state` (begun, done, failed, undone); without them the text is read as "name state".
        One with neither is a step of a sequence and lasts until the next one or the end of its operation; one from
        another actor (src is not dst) opens an operation, which "name done" ends.
  any   `bad` true draws it in red.
Why numbers from `parent` and not from time: two hosts at work at once then read as 1.1 and 2.1, as in the diagrams
operators draw by hand, and the same cause has the same number in two runs.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from virga.runtime.trace import Event

# Deeper chains of cause would give numbers longer than their texts: from here on they are counted as siblings.
DEPTH_MAX = 6
# A silence at least this long gets a row of its own.
GAP_S = 1.0

_UUID = re.compile(r"\b([0-9a-fA-F]{8})-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b")
_HEX = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24}\b")
_STATE = re.compile(r"^(?P<step>.*?)[\s:]+(?P<state>begun|started|done|failed|undone|superseded)\b", re.IGNORECASE)
_VARYING = re.compile(
    r"\b[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}\b"            # a MAC address
    r"|\b(?:tap|req-|req )?[0-9a-f]{8}(?:-[0-9a-f]{1,4})*\b"  # a shortened id, a tap name made from one
    r"|\b[0-9]+(?:\.[0-9]+)? ?(?:ms|s)\b"                  # a duration
)
_WAITING = re.compile(r"^wait(?:ing|s)? (?:for )?", re.IGNORECASE)
BEGINS = ("begun", "started")
BAD_ENDS = frozenset({"deadline", "timeout", "timed out", "cancelled", "failed", "fault", "error", "killed"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the diagram. `src` and `dst` are columns, equal for what happens on one lifeline, -1 for all.

    kind: message, fact, transition, step, note, fault; wait and ended (the two ends of a bracket); gap (a silence).
    """

    kind: str
    number: str
    at_s: float
    src: int
    dst: int
    text: str
    bad: bool = False

    @property
    def is_arrow(self) -> bool:
        return self.src != self.dst and self.kind not in ("gap", "wait", "ended")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one lifeline: a wait (until what it waits for) or a step (while it is at work)."""

    kind: str
    column: int
    first_row: int
    last_row: int
    level: int = 0
    bad: bool = False


@dataclass(slots=True)
class Story:
    """The model of one diagram."""

    actors: list[str]
    labels: list[str]
    rows: list[Row] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


def shorten_ids(text: str) -> str:
    """Every UUID in `text` cut to its first 8 characters, which is what people compare."""
    return _HEX.sub(r"\1", _UUID.sub(r"\1", text))


def clean(text: str) -> str:
    """Fit to be drawn: ids shortened, white space and what cannot be printed (nor stand in XML) made single spaces."""
    return " ".join(shorten_ids("".join(char if char.isprintable() else " " for char in text)).split())


def duration(seconds: float) -> str:
    """A duration as people say it: 840 ms below one second, 2.5 s below 100, 300 s above."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else f"{seconds * 1000:.2g} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def same_story(story: Story, row: Row) -> tuple[str, str, str, str]:
    """What makes two rows of two runs the same: kind, actors and text, without ids and times."""
    src, dst = (story.labels[column] if column >= 0 else "" for column in (row.src, row.dst))
    return row.kind, _VARYING.sub("*", src), _VARYING.sub("*", dst), _VARYING.sub("*", row.text)


# numbering -------------------------------------------------------------------------------------------------
class _Numbers:
    """Hands out 1, 2, 2.1, 2.2, 2.2.1 ... by the number of the causing event."""

    def __init__(self) -> None:
        self._given: dict[int, tuple[int, ...]] = {}
        self._last: Counter[tuple[int, ...]] = Counter()

    def give(self, event: Event) -> str:
        above = self._given.get(event.parent, ())[: DEPTH_MAX - 1]
        self._last[above] += 1
        mine = (*above, self._last[above])
        self._given[event.number] = mine
        return self.of(event.number)

    def pass_on(self, event: Event) -> None:
        """`event` is not numbered: what it causes counts as caused by its own cause."""
        if event.parent in self._given:
            self._given[event.number] = self._given[event.parent]

    def of(self, number: int) -> str:
        return ".".join(map(str, self._given.get(number, ())))


@dataclass(slots=True)
class _Open:
    """A wait or a step whose end has not been seen yet."""

    span: Span
    at_s: float
    event: Event


def _name_and_state(event: Event) -> tuple[str, str]:
    """Of a step event; the state is "" where nothing tells it."""
    read = _STATE.match(event.text)
    name = str(event.data.get("step") or (read["step"] if read else event.text))
    return name, str(event.data.get("state") or (read["state"].lower() if read else ""))


class _Reader:
    def __init__(
        self, events: list[Event], aliases: Mapping[str, str], gaps: bool, beside: Iterable[Event],
    ) -> None:
        self.events = events
        self.gaps = gaps
        seen = dict.fromkeys(actor for event in (*events, *beside) for actor in (event.src, event.dst) if actor)
        actors = [actor for actor in aliases if actor in seen] + [actor for actor in seen if actor not in aliases]
        self.column = {actor: place for place, actor in enumerate(actors)}
        self.story = Story(actors, [clean(aliases.get(actor, actor)) for actor in actors])
        self.began_s = events[0].at if events else 0.0
        self.numbers = _Numbers()
        self.waits: dict[int, _Open] = {}
        self.steps: dict[tuple[str, str, str], _Open] = {}
        # what ends by an event of its own; everything else ends by what comes next in its operation
        self.ended_waits = {event.parent for event in events if event.kind == "wait" and "ended" in event.data}
        self.ended_steps = {(event.operation, event.src, name) for event in events if event.kind == "step"
                            for name, state in (_name_and_state(event),) if state not in ("", *BEGINS)}

    def read(self) -> Story:
        before_s = self.began_s
        for event in self.events:
            if self.gaps and event.at - before_s >= GAP_S:
                self._add(Row("gap", "", event.at - self.began_s, -1, -1, f"{duration(event.at - before_s)} later"))
            before_s = max(before_s, event.at)
            if event.operation and event.kind in ("step", "wait", "note", "fault") and self._goes_on(event):
                continue
            if event.kind == "wait":
                self._wait(event)
            elif event.kind == "step":
                self._step(event)
            else:
                self._plain(event)
        self._close(before_s)
        return self.story

    def _add(self, row: Row) -> int:
        self.story.rows.append(replace(row, text=clean(row.text)))
        return len(self.story.rows) - 1

    def _row(self, event: Event, number: str, **changes: object) -> Row:
        src, dst = self.column.get(event.src, -1), self.column.get(event.dst, -1)
        row = Row(event.kind, number, event.at - self.began_s, src, dst if dst >= 0 else src, event.text,
                  bool(event.data.get("bad")))
        return replace(row, **changes)  # type: ignore[arg-type]  # field names, checked by dataclass

    def _plain(self, event: Event) -> None:
        if event.kind == "note" and event.parent == 0:
            number = ""
        else:
            number = self.numbers.give(event)
        row = self._row(event, number, bad=event.kind == "fault" or bool(event.data.get("bad")))
        if event.kind in ("note", "transition") and row.src >= 0:
            row = replace(row, dst=row.src)
        elif row.src < 0 <= row.dst:
            row = replace(row, src=row.dst)
        self._add(row)

    def _goes_on(self, event: Event) -> bool:
        """`event` may end a wait nobody else ends. True when it only tells what did, and needs no row of its own."""
        column = self.column.get(event.src, -1)
        for number, begun in list(self.waits.items()):
            if number in self.ended_waits or begun.event.operation != event.operation or begun.span.column != column:
                continue
            del self.waits[number]
            tells = event.kind == "note" and event.parent == begun.event.parent != 0
            if tells:
                self.numbers.pass_on(event)
            bad = event.kind == "fault" or bool(event.data.get("bad"))
            self._end_wait(begun, event.at, event.text.partition(": ")[2] or event.text if tells else "", bad)
            return tells
        return False

    # waits ------------------------------------------------------------------------------------------------
    def _wait(self, event: Event) -> None:
        begun = self.waits.get(event.parent)
        if begun is not None and "ended" in event.data:
            del self.waits[event.parent]
            self.numbers.pass_on(event)
            self._end_wait(begun, event.at, self._cause(event), self._is_bad_end(event))
            return
        column = self.column.get(event.src, -1)
        text = _WAITING.sub("waits for ", event.text) if _WAITING.match(event.text) else f"waits for {event.text}"
        place = self._add(self._row(event, self.numbers.give(event), text=text, dst=column))
        if column < 0:
            return
        now = _Open(Span("wait", column, place, place, self._level(column)), event.at, event)
        if "ended" in event.data:
            now.at_s -= float(event.data.get("seconds", 0.0))
            self._end_wait(now, event.at, self._cause(event), self._is_bad_end(event))
        else:
            self.waits[event.number] = now

    def _cause(self, event: Event) -> str:
        by = event.data.get("by")
        told = self.numbers.of(by) if isinstance(by, int) else str(by or "")
        return str(event.data["ended"]) + (f" ({told})" if told else "")

    @staticmethod
    def _is_bad_end(event: Event) -> bool:
        return bool(event.data.get("bad", str(event.data["ended"]).lower() in BAD_ENDS))

    def _end_wait(self, begun: _Open, at_s: float, cause: str, bad: bool) -> None:
        took = duration(at_s - begun.at_s)
        first, column = self.story.rows[begun.span.first_row], begun.span.column
        self.story.rows[begun.span.first_row] = replace(first, text=f"{first.text} ({took})")
        place = len(self.story.rows) - 1
        if cause:
            place = self._add(Row("ended", "", at_s - self.began_s, column, column, f"after {took}: {cause}", bad))
        self.story.spans.append(replace(begun.span, last_row=place, bad=bad))

    # steps ------------------------------------------------------------------------------------------------
    def _step(self, event: Event) -> None:
        name, state = _name_and_state(event)
        here = self.column.get(event.src, -1)
        if state not in ("", *BEGINS):
            self._end_step(event, name, state, here)
            return
        asked = bool(event.dst) and event.dst != event.src
        actor = event.dst if asked else event.src
        if not asked:
            self._end_sequence(event)
        row = self._row(event, self.numbers.give(event), text=name)
        place = self._add(replace(row, kind="message") if asked else replace(row, dst=here))
        column = self.column.get(actor, -1)
        if column >= 0:
            span = Span("step", column, place, place, self._level(column))
            self.steps[event.operation, actor, name] = _Open(span, event.at, event)

    def _end_sequence(self, event: Event) -> None:
        """The step of this operation and actor that is at work and that no event of its own ends, ends now."""
        for key, begun in list(self.steps.items()):
            if key[:2] == (event.operation, event.src) and event.operation and key not in self.ended_steps and (
                    begun.event.src == event.src):
                del self.steps[key]
                self._close_step(begun, len(self.story.rows) - 1, False)

    def _end_step(self, event: Event, name: str, state: str, here: int) -> None:
        begun = self.steps.pop((event.operation, event.src, name), None)
        opened_from_outside = begun is not None and begun.event.src != event.src
        if opened_from_outside or begun is None:
            self._end_sequence(event)
        bad = state == "failed" or (state == "undone" and opened_from_outside) or bool(event.data.get("bad"))
        place = len(self.story.rows) - 1
        if begun is not None and state == "done" and not opened_from_outside:
            self.numbers.pass_on(event)
        else:
            text = event.text if _STATE.match(event.text) else f"{name} {state}: {event.text}"
            place = self._add(self._row(event, self.numbers.give(event), text=text, bad=bad, dst=here))
        if begun is not None:
            self._close_step(begun, place, bad)

    def _close_step(self, begun: _Open, last_row: int, bad: bool) -> None:
        self.story.spans.append(replace(begun.span, last_row=max(last_row, begun.span.first_row), bad=bad))

    def _level(self, column: int) -> int:
        """The lowest level that no open span of this lifeline uses: bands that overlap are drawn side by side."""
        used = {each.span.level for each in (*self.waits.values(), *self.steps.values()) if each.span.column == column}
        return next(level for level in range(len(used) + 1) if level not in used)

    def _close(self, last_s: float) -> None:
        """The record ends: what is still open is drawn to the last row, a wait as a hang."""
        for begun in self.waits.values():
            text = f"still waiting after {duration(last_s - begun.at_s)}, when the record ends"
            column = begun.span.column
            place = self._add(Row("ended", "", last_s - self.began_s, column, column, text, bad=True))
            self.story.spans.append(replace(begun.span, last_row=place, bad=True))
        for begun in self.steps.values():
            self._close_step(begun, len(self.story.rows) - 1, False)


def read(
    events: Iterable[Event], aliases: Mapping[str, str] | None = None, gaps: bool = True, beside: Iterable[Event] = (),
) -> Story:
    """The story told by `events`. `aliases` maps actor ids to labels; its order is the order of the columns.

    Actors without an alias follow in order of appearance. Events may come from a ring that lost its oldest: a cause
    that is not there any more counts as none. `gaps`: a silence of GAP_S seconds or more gets a row. The actors of
    `beside`, the events of a run to compare with, get columns too.
    """
    return _Reader(list(events), aliases or {}, gaps, beside).read()
