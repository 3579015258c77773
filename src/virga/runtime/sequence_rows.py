"""Events -> the rows and spans of a sequence diagram: what every drawing of it has in common.

Owns: which event becomes which row, the numbering (1, 1.1, 1.1.1 along `parent`), the columns, the pairing of a wait
or a step with its end, and the shortening of ids.
Rules: a row is one line of the story, in the order of the events; nothing here knows about pixels or characters.
An event says more about itself in `data`, and everything there is optional:
  wait  begins a wait; a second wait event with parent = the first and data `ended` (what ended it: "fact",
        "deadline", ...), and maybe `by` (the number of the event that did), ends it. One event alone may tell both,
        with `ended` and `seconds`. A wait that never ends is drawn as a hang.
  step  data `step` (its name) and `state` (begun, done, failed, undone); without them the text is read as "name state".
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
_STATE = re.compile(r"^(?P<step>.*?)[\s:]+(?P<state>begun|started|done|failed|undone)\b", re.IGNORECASE)
_VARYING = re.compile(
    r"\b[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}\b"            # a MAC address
    r"|\b(?:tap|req-|req )?[0-9a-f]{8}(?:-[0-9a-f]{1,4})*\b"  # a shortened id, a tap name made from one
    r"|\b[0-9]+(?:\.[0-9]+)? ?(?:ms|s)\b"                  # a duration
)
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
    text: str


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

    def read(self) -> Story:
        before_s = self.began_s
        for event in self.events:
            if self.gaps and event.at - before_s >= GAP_S:
                self._add(Row("gap", "", event.at - self.began_s, -1, -1, f"{duration(event.at - before_s)} later"))
            before_s = max(before_s, event.at)
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

    # waits ------------------------------------------------------------------------------------------------
    def _wait(self, event: Event) -> None:
        begun = self.waits.pop(event.parent, None)
        if begun is not None and "ended" in event.data:
            self.numbers.pass_on(event)
            self._end_wait(begun, event, event.at - begun.at_s)
            return
        number = self.numbers.give(event)
        if begun is not None:
            self.waits[event.parent] = begun
        place = self._add(self._row(event, number, text=f"waits for {event.text}", dst=self.column.get(event.src, -1)))
        if self.story.rows[place].src < 0:
            return
        span = Span("wait", self.story.rows[place].src, place, place, self._level(self.story.rows[place].src))
        now = _Open(span, event.at, event.text)
        if "ended" in event.data:
            self._end_wait(now, event, float(event.data.get("seconds", 0.0)))
        else:
            self.waits[event.number] = now

    def _end_wait(self, begun: _Open, event: Event, seconds: float) -> None:
        ended = str(event.data["ended"])
        by = event.data.get("by")
        told = self.numbers.of(by) if isinstance(by, int) else str(by or "")
        text = f"after {duration(seconds)}: {ended}" + (f" ({told})" if told else "")
        bad = bool(event.data.get("bad", ended.lower() in BAD_ENDS))
        first = self.story.rows[begun.span.first_row]
        self.story.rows[begun.span.first_row] = replace(first, text=f"{first.text} ({duration(seconds)})")
        place = self._add(Row("ended", "", event.at - self.began_s, begun.span.column, begun.span.column, text, bad))
        self.story.spans.append(replace(begun.span, last_row=place, bad=bad))

    # steps ------------------------------------------------------------------------------------------------
    def _step(self, event: Event) -> None:
        read = _STATE.match(event.text)
        name = str(event.data.get("step") or (read["step"] if read else event.text))
        state = str(event.data.get("state") or (read["state"].lower() if read else ""))
        key = (event.operation, event.src, name)
        if state in ("begun", "started"):
            place = self._add(self._row(event, self.numbers.give(event), text=name, dst=self.column.get(event.src, -1)))
            column = self.story.rows[place].src
            if column >= 0:
                self.steps[key] = _Open(Span("step", column, place, place, self._level(column)), event.at, name)
            return
        begun = self.steps.pop(key, None)
        place = len(self.story.rows) - 1
        if begun is None or state != "done":
            bad = state == "failed" or bool(event.data.get("bad"))
            text = event.text if read or not state else f"{name} {state}: {event.text}"
            place = self._add(self._row(event, self.numbers.give(event), text=text, bad=bad,
                                        dst=self.column.get(event.src, -1)))
        else:
            self.numbers.pass_on(event)
        if begun is not None:
            bad = state == "failed"
            self.story.spans.append(replace(begun.span, last_row=max(place, begun.span.first_row), bad=bad))

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
            self.story.spans.append(replace(begun.span, last_row=len(self.story.rows) - 1))


def read(
    events: Iterable[Event], aliases: Mapping[str, str] | None = None, gaps: bool = True, beside: Iterable[Event] = (),
) -> Story:
    """The story told by `events`. `aliases` maps actor ids to labels; its order is the order of the columns.

    Actors without an alias follow in order of appearance. Events may come from a ring that lost its oldest: a cause
    that is not there any more counts as none. `gaps`: a silence of GAP_S seconds or more gets a row. The actors of
    `beside`, the events of a run to compare with, get columns too.
    """
    return _Reader(list(events), aliases or {}, gaps, beside).read()
