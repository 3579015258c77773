"""A sequence diagram as one standalone SVG file: no scripts, no outside fonts, readable at full size.

Owns: where everything is drawn. `Picture` collects shapes and remembers the box of every text, so that a test can prove
that no two texts overlap; `Board` draws one story into it.
Rules: every text lies between two lifelines, never across one: an arrow's beside its source, everything else to the
right of its lifeline. Rows never share a height. Widths of texts are estimated for the widest of the common sans-serif
fonts, so that the same file fits with any of them.
Colours: blue message, green fact, amber wait, red fault; a kind is never told by colour alone (dash, hatch, shape).
"""
from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from html import escape

from virga.runtime.sequence_rows import Row, Story

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
SIZE, LINE, SMALL = 13.0, 17.0, 11.0
GUTTER = 74.0
MARGIN = 24.0
GAP_MIN, HEAD_MAX, WORD_MAX = 120.0, 160.0, 300.0
STRIP = 10.0
HEADS_BELOW_FROM_ROWS = 12

INK, PALE, LIFELINE = "#1d2530", "#667085", "#aeb7c3"
BLUE, GREEN, AMBER, RED = "#1d4f91", "#1e7145", "#9a6700", "#b42318"
COLOURS = {"message": BLUE, "fact": GREEN, "transition": GREEN, "step": BLUE, "wait": AMBER, "ended": AMBER,
           "note": PALE, "fault": RED, "gap": PALE}
# kind: (fill, corner radius) of what stands in a box
BOXES = {"note": ("#fffbe6", 0.0), "transition": ("#e9f6ee", 9.0), "fault": ("#fdecea", 3.0)}
LEGEND = (("message", "message, call"), ("fact", "fact, report"), ("transition", "state change"),
          ("step", "step at work"), ("wait", "waits"), ("note", "note"), ("fault", "fault"))

# Widths in em of Verdana, the widest of the common faces; what is not listed is 0.64, East Asian wide is 1.05.
_WIDTHS = {char: em for chars, em in (
    ("il'", 0.29), ("jft.,", 0.40), ("r|!()[]{}:;-/\\I`", 0.46), ("J", 0.46), ("acksvxyz", 0.61), ("EFLPTY", 0.64),
    ("ABCKRSVXZ", 0.71), ("DGHNOQU", 0.79), ("w+<>=~^#→←≠", 0.85), ("mMW@", 0.99), ("%", 1.08), (" ", 0.36),
) for char in chars}


# Where a word too long for its line may be broken: after punctuation, and in camelCase.
_BREAKS = re.compile(r"(?<=[-_./:,(])|(?<=[a-z])(?=[A-Z])")


def text_width(text: str, size: float = SIZE, bold: bool = False) -> float:
    """An upper estimate, in pixels."""
    ems = sum(1.05 if unicodedata.east_asian_width(char) in "WF" else _WIDTHS.get(char, 0.64) for char in text)
    return ems * size * (1.12 if bold else 1.0)


def wrap(text: str, width: float, first_indent: float = 0.0, size: float = SIZE, bold: bool = False) -> list[str]:
    """Lines no wider than `width` pixels; too long a word is broken after punctuation, or anywhere."""
    lines: list[str] = []
    line, room = "", width - first_indent
    for word in text.split():
        trial = f"{line} {word}" if line else word
        if text_width(trial, size, bold) <= room:
            line = trial
            continue
        if line:
            lines.append(line)
            line, room = "", width
        elif not lines and first_indent and text_width(word, size, bold) <= width:
            lines.append("")
            room = width
        for part in _BREAKS.split(word):
            for piece in ([part] if text_width(part, size, bold) <= width else list(part)):
                if line and text_width(line + piece, size, bold) > room:
                    lines.append(line)
                    line, room = "", width
                line += piece
    return [*lines, line] if line or not lines else lines


# the picture -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class TextBox:
    """Where one line of text lies: left, top, width and height in pixels."""

    text: str
    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: TextBox) -> bool:
        return (self.x < other.x + other.width and other.x < self.x + self.width
                and self.y < other.y + other.height and other.y < self.y + self.height)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass(slots=True)
class Picture:
    """Shapes in drawing order, and the boxes of all texts."""

    shapes: list[str] = field(default_factory=list)
    texts: list[TextBox] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.4, dash: str = "",
             head: str = "") -> None:
        more = (f' stroke-dasharray="{dash}"' if dash else "") + (f' marker-end="url(#{head})"' if head else "")
        self.shapes.append(f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="{colour}" '
                           f'stroke-width="{width:g}"{more}/>')

    def path(self, d: str, colour: str, dash: str = "", head: str = "") -> None:
        more = (f' stroke-dasharray="{dash}"' if dash else "") + (f' marker-end="url(#{head})"' if head else "")
        self.shapes.append(f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="1.4"{more}/>')

    def box(self, x: float, y: float, width: float, height: float, fill: str, colour: str = "none",
            round_by: float = 0.0, stroke: float = 1.0) -> None:
        rounded = f' rx="{_n(round_by)}"' if round_by else ""
        self.shapes.append(f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{rounded} '
                           f'fill="{fill}" stroke="{colour}" stroke-width="{stroke:g}"/>')

    def text(self, x: float, baseline: float, text: str, *, colour: str = INK, size: float = SIZE, bold: bool = False,
             anchor: str = "start", number: str = "") -> None:
        """One line of text; `number` is set bold before it."""
        gap = " " if number and text else ""
        width = text_width(number + gap, size, bold=True) + text_width(text, size, bold) if number else text_width(
            text, size, bold)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        self.texts.append(TextBox(f"{number}{gap}{text}", left, baseline - size * 0.8, width, size * 1.05))
        weight = ' font-weight="bold"' if bold else ""
        inside = (f'<tspan font-weight="bold">{number}</tspan>' if number else "") + gap + escape(text, quote=False)
        self.shapes.append(f'<text x="{_n(x)}" y="{_n(baseline)}" font-size="{size:g}" fill="{colour}" '
                           f'text-anchor="{anchor}"{weight}>{inside}</text>')

    def svg(self, width: float, height: float, title: str) -> str:
        markers = "".join(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
            f"{shape}</marker>"
            for name, shape in (
                ("to-message", f'<path d="M0 0.5 L10 5 L0 9.5 z" fill="{BLUE}"/>'),
                ("to-fact", f'<path d="M0.5 0.5 L9 5 L0.5 9.5" fill="none" stroke="{GREEN}" stroke-width="1.6"/>'),
                ("to-fault", f'<path d="M1 1 L9 9 M1 9 L9 1" stroke="{RED}" stroke-width="1.8"/>'),
                ("to-bad-message", f'<path d="M0 0.5 L10 5 L0 9.5 z" fill="{RED}"/>'),
                ("to-bad-fact", f'<path d="M0.5 0.5 L9 5 L0.5 9.5" fill="none" stroke="{RED}" stroke-width="1.6"/>'),
            )
        )
        hatches = "".join(
            f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<rect width="6" height="6" fill="{fill}"/><rect width="2" height="6" fill="{stripe}"/></pattern>'
            for name, fill, stripe in (("waiting", "#fff1cc", "#f2c14e"), ("hanging", "#fde3e0", "#ec8b81")))
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
            f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" font-family="{FONT}">',
            f"<title>{escape(title, quote=False)}</title>", f"<defs>{markers}{hatches}</defs>",
            f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>', *self.shapes, "</svg>", ""])


# one story -------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Board:
    """One story's place in a picture. Use: `heights` for the rows, then `draw` with the top of each."""

    story: Story
    title: str
    x: float = 0.0
    compact: bool = False
    heads: list[list[str]] = field(default_factory=list)
    # gaps[i] is the room right of lifeline i, up to the next one; it is as wide as its texts want, within reason
    gaps: list[float] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = max(1, len(self.story.actors))
        self.heads = [wrap(label, HEAD_MAX, bold=True) for label in self.story.labels] or [[""]]
        wanted = 330.0 if count <= 3 else 280.0 if count <= 5 else 250.0 if count == 6 else 215.0
        wanted, word_max = (min(wanted, 215.0), 170.0) if self.compact else (wanted, WORD_MAX)
        halves = [self.head_width(column) / 2 for column in range(count)]
        self.gaps = [max(GAP_MIN, here + after + 24)
                     for here, after in zip(halves, [*halves[1:], 0.0], strict=True)]
        for row in self.story.rows:
            if row.src >= 0:
                natural = _indent(row) + text_width(row.text)
                word = max((text_width(word) for word in row.text.split()), default=0.0)
                needed = max(min(natural, wanted - _taken(row)), min(word, word_max)) + _taken(row)
                self.gaps[self._gap(row)] = max(self.gaps[self._gap(row)], needed)
        self.fit(self.gaps)

    def fit(self, gaps: list[float]) -> None:
        """Use these gaps instead (the widest of two boards, so that they look alike)."""
        self.gaps = gaps
        self.lines = [self._wrapped(row) for row in self.story.rows]

    def _gap(self, row: Row) -> int:
        return row.src - 1 if row.is_arrow and row.dst < row.src else row.src

    @property
    def width(self) -> float:
        return self.column_x(0) - self.x + sum(self.gaps) + MARGIN

    def column_x(self, column: int) -> float:
        return self.x + GUTTER + self.head_width(0) / 2 + sum(self.gaps[:column])

    def head_width(self, column: int) -> float:
        return max(80.0, max(text_width(line, bold=True) for line in self.heads[column]) + 22)

    def _wrapped(self, row: Row) -> list[str]:
        width = self.gaps[self._gap(row)] - _taken(row) if row.src >= 0 else sum(self.gaps) - 60
        return wrap(row.text, width, _indent(row))

    def heights(self) -> list[float]:
        return [self._height(row, len(lines)) for row, lines in zip(self.story.rows, self.lines, strict=True)]

    def _height(self, row: Row, lines: int) -> float:
        if row.is_arrow:
            return lines * LINE + 20
        if row.kind in BOXES:
            return lines * LINE + 22
        if row.kind == "message" or row.kind == "fact":
            return max(lines * LINE, 2 * LINE) + 12
        return lines * LINE + 12

    def head_height(self) -> float:
        return max(len(lines) for lines in self.heads) * LINE + 14

    def draw_heads(self, picture: Picture, top: float) -> None:
        height = self.head_height()
        for column in range(len(self.story.actors)):
            lines, width, x = self.heads[column], self.head_width(column), self.column_x(column)
            picture.box(x - width / 2, top, width, height, "#eef3fa", "#51637d", 5)
            first = top + height / 2 - (len(lines) - 1) * LINE / 2 + SIZE * 0.35
            for place, line in enumerate(lines):
                picture.text(x, first + place * LINE, line, bold=True, anchor="middle")

    def draw(self, picture: Picture, tops: list[float], bottom: float, head_bottom: float) -> None:
        """Draw lifelines, bands and rows; `tops` are the rows' upper edges, `bottom` the end of the last."""
        for column in range(len(self.story.actors)):
            picture.line(self.column_x(column), head_bottom, self.column_x(column), bottom, LIFELINE, 1.2, "5 4")
        heights = self.heights()
        ends = [top + height for top, height in zip(tops, heights, strict=True)]
        for span in self.story.spans:
            x = self.column_x(span.column) - STRIP / 2 + span.level * 7
            begin = tops[span.first_row] + 4
            closed = self.story.rows[span.last_row].kind == "ended"
            end = tops[span.last_row] + LINE if closed else ends[span.last_row] - 4
            if span.kind == "wait":
                fill, colour = ("url(#hanging)", RED) if span.bad else ("url(#waiting)", AMBER)
            else:
                fill, colour = ("#fde3e0", RED) if span.bad else ("#dbe8f8", "#5b82b5")
            picture.box(x, begin, STRIP, max(end - begin, 8.0), fill, colour)
        shown = ""
        for place, row in enumerate(self.story.rows):
            now = _milliseconds(row.at_s)
            if row.kind != "gap" and now != shown:
                picture.text(self.x + GUTTER - 12, self._time_y(row, tops[place], place), now, colour=PALE, size=SMALL,
                             anchor="end")
                shown = now
            self._draw_row(picture, place, row, tops[place])

    def _time_y(self, row: Row, top: float, place: int) -> float:
        if row.is_arrow:
            return top + len(self.lines[place]) * LINE + 8
        return top + LINE + (1 if row.kind in BOXES else -3)

    def _edge(self, column: int, place: int, side: int) -> float:
        """Where an arrow touches a lifeline: at its outermost band in this row, on the side +1 (right) or -1."""
        reach = 0.0
        for span in self.story.spans:
            if span.column == column and span.first_row <= place <= span.last_row:
                reach = max(reach, STRIP / 2 + (span.level * 7 if side > 0 else 0))
        return self.column_x(column) + side * (reach + 1)

    def _draw_row(self, picture: Picture, place: int, row: Row, top: float) -> None:
        colour = RED if row.bad else COLOURS.get(row.kind, INK)
        if row.kind == "gap" or row.src < 0:
            self._draw_across(picture, place, row, top, colour)
        elif row.is_arrow:
            self._draw_arrow(picture, place, row, top, colour)
        elif row.kind in BOXES:
            self._draw_box(picture, place, row, top, colour)
        else:
            self._draw_beside(picture, place, row, top, colour)

    def _draw_lines(
        self, picture: Picture, place: int, row: Row, x: float, baseline: float, colour: str, anchor: str,
    ) -> None:
        for i, line in enumerate(self.lines[place]):
            picture.text(x, baseline + i * LINE, line, colour=colour, anchor=anchor, number="" if i else row.number)

    def _draw_arrow(self, picture: Picture, place: int, row: Row, top: float, colour: str) -> None:
        side = 1 if row.dst > row.src else -1
        y = top + len(self.lines[place]) * LINE + 5
        middle = self.column_x(row.src) + side * self.gaps[self._gap(row)] / 2
        self._draw_lines(picture, place, row, middle, top + SIZE, RED if row.bad else INK, "middle")
        head = row.kind if row.kind in ("fault", "fact") else "message"
        if row.bad and head != "fault":
            head = f"bad-{head}"
        picture.line(self._edge(row.src, place, side), y, self._edge(row.dst, place, -side), y, colour,
                     dash="6 4" if row.kind == "fact" else "", head=f"to-{head}")

    def _draw_box(self, picture: Picture, place: int, row: Row, top: float, colour: str) -> None:
        lines = self.lines[place]
        width = max(text_width(line) + (0 if i else _indent(row)) for i, line in enumerate(lines)) + 18
        fill, round_by = BOXES[row.kind]
        left = self._edge(row.src, place, 1) + 12
        picture.line(left - 12, top + 14, left, top + 14, colour)
        picture.box(left, top + 3, width, len(lines) * LINE + 8, "#fdecea" if row.bad else fill, colour, round_by)
        self._draw_lines(picture, place, row, left + 9, top + SIZE + 6, RED if row.bad else INK, "start")

    def _draw_beside(self, picture: Picture, place: int, row: Row, top: float, colour: str) -> None:
        """What happens on one lifeline: a call to oneself as a loop, a wait or a step beside its band."""
        edge = self._edge(row.src, place, 1)
        if row.kind in ("message", "fact"):
            low = top + 8 + LINE
            picture.path(f"M{_n(edge)} {_n(top + 8)} h18 q5 0 5 5 V{_n(low - 5)} q0 5 -5 5 H{_n(edge + 2)}", colour,
                         "6 4" if row.kind == "fact" else "", f"to-bad-{row.kind}" if row.bad else f"to-{row.kind}")
            self._draw_lines(picture, place, row, edge + 30, top + SIZE, RED if row.bad else INK, "start")
        else:
            picture.line(edge, top + 9, edge + 6, top + 9, colour)
            self._draw_lines(picture, place, row, edge + 9, top + SIZE, RED if row.bad else colour, "start")

    def _draw_across(self, picture: Picture, place: int, row: Row, top: float, colour: str) -> None:
        left, right = self.x + GUTTER, self.x + self.width - MARGIN
        lines = self.lines[place]
        y = top + LINE * 0.5 + 3
        if row.kind == "gap":
            wide = text_width(lines[0], SMALL) + 16
            picture.line(left + wide, y, right, y, PALE, 1, "1 5")
            picture.text(left, y + 4, lines[0], colour=PALE, size=SMALL)
            return
        fill, round_by = BOXES.get(row.kind, BOXES["note"])
        picture.box(left + 20, top + 3, right - left - 20, len(lines) * LINE + 8, fill, colour, round_by)
        self._draw_lines(picture, place, row, left + 30, top + SIZE + 5, RED if row.bad else INK, "start")


def _taken(row: Row) -> float:
    """What a row needs of its gap besides its text: two more bands at this lifeline, the next one's own band."""
    return 44 if row.is_arrow else 62 if row.kind in BOXES else 58 if row.kind in ("message", "fact") else 40


def _indent(row: Row) -> float:
    return text_width(row.number + " ", bold=True) if row.number else 0.0


def _milliseconds(at_s: float) -> str:
    at_ms = at_s * 1000
    text = f"{at_ms:,.0f}" if at_ms >= 100 else f"{at_ms:.1f}".removesuffix(".0")
    return text.replace(",", " ")


def draw_legend(picture: Picture, x: float, top: float, width: float, kinds: set[str]) -> float:
    """The kinds that occur, in as many lines as needed; returns the lower edge."""
    at, baseline = x, top + 14
    for kind, name in LEGEND:
        if kind not in kinds:
            continue
        needed = 44 + text_width(name, SMALL) + 22
        if at + needed > x + width and at > x:
            at, baseline = x, baseline + 20
        middle, colour = baseline - 4, COLOURS[kind]
        if kind in ("message", "fact"):
            picture.line(at, middle, at + 34, middle, colour, dash="6 4" if kind == "fact" else "", head=f"to-{kind}")
        elif kind in BOXES:
            picture.box(at, middle - 6, 34, 12, BOXES[kind][0], colour, min(6.0, BOXES[kind][1]))
        else:
            picture.box(at + 12, middle - 8, STRIP, 16, "url(#waiting)" if kind == "wait" else "#dbe8f8", colour)
        picture.text(at + 42, baseline, name, colour=PALE, size=SMALL)
        at += needed
    return baseline + 8


def draw(story: Story, title: str) -> tuple[Picture, float, float]:
    """One story with title, heads and legend: the picture and its size."""
    board, picture = Board(story, title), Picture()
    top = MARGIN
    if title:
        for line in wrap(title, board.width - 2 * MARGIN, size=17, bold=True):
            picture.text(MARGIN, top + 15, line, size=17, bold=True)
            top += 24
        top += 6
    head_bottom = top + board.head_height()
    picture.text(GUTTER - 12, head_bottom - 12, "ms", colour=PALE, size=SMALL, anchor="end")
    tops, at = [], head_bottom + 12
    for height in board.heights():
        tops.append(at)
        at += height
    at += 6
    board.draw(picture, tops, at, head_bottom)
    board.draw_heads(picture, top)
    if len(story.rows) >= HEADS_BELOW_FROM_ROWS:
        board.draw_heads(picture, at)
        at += board.head_height()
    bottom = draw_legend(picture, MARGIN, at + 14, board.width - 2 * MARGIN, {row.kind for row in story.rows})
    return picture, board.width, bottom + 12


def render(story: Story, title: str) -> str:
    picture, width, height = draw(story, title)
    return picture.svg(width, height, title or "sequence diagram")
