"""A sequence diagram in plain text, for a terminal or a log.

Owns: the character grid. Lifelines are columns; a message is an arrow with its text above it, what happens on one
lifeline stands beside it, a wait is a bracket on the lifeline from its begin to what ended it.
Rules: a text may cross lifelines to its right (a terminal is too narrow for anything else) and hides them only on its
own line; no line is wider than asked for, unless the actors alone need more; no trailing spaces, so that goldens and
copies are stable. Unicode box characters, or ASCII alone for logs that must be.
"""
from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass

from virga.runtime.sequence_rows import Row, Story

GUTTER = 9
PITCH_MIN = 12
TEXT_WANTED = 44
BESIDE_MIN = 24


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters of one drawing."""

    line: str
    step: str
    wait: str
    wait_begin: str
    wait_end: str
    solid: str
    dashed: str
    right: str
    left: str
    failed: str
    tee_right: str
    tee_left: str
    loop_top: str
    loop_bottom: str
    marks: dict[str, str]


UNICODE = Signs("│", "║", "┃", "┏", "┗", "─", "╌", "▶", "◀", "✗", "├", "┤", "├─┐", "◀─┘",
                {"note": "○", "transition": "●", "fault": "✗", "step": "╓", "step end": "╙"})
ASCII = Signs("|", "#", ":", "+", "+", "-", "~", ">", "<", "X", "|", "|", "|-.", "<-'",
              {"note": "o", "transition": "*", "fault": "X", "step": "#", "step end": "#"})


def cells(text: str) -> list[str]:
    """One entry a terminal cell: a wide character takes two, the second one empty."""
    out: list[str] = []
    for char in text:
        if not unicodedata.combining(char):
            out.append(char)
            if unicodedata.east_asian_width(char) in "WF":
                out.append("")
        elif out:
            out[-1 if out[-1] else -2] += char
    return out


def fold(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` characters."""
    return textwrap.wrap(text, max(width, 8), break_long_words=True) or [""]


class _Grid:
    def __init__(self, story: Story, width: int, signs: Signs) -> None:
        self.story, self.signs = story, signs
        count = max(1, len(story.actors))
        first = min(max((len(label) for label in story.labels[:1]), default=0), 16) // 2
        self.pitch = max(PITCH_MIN, (width - GUTTER - 2 - first) // count)
        self.x = [GUTTER + 1 + first + column * self.pitch for column in range(count)]
        self.width = max(width, self.x[-1] + PITCH_MIN)
        self.lines: list[str] = []
        self.row = 0
        # (row, column) -> the lifeline's character there; a wait hides a step at work, as nothing else happens in it
        self.lives: dict[tuple[int, int], str] = {}
        for span in sorted(story.spans, key=lambda span: span.kind == "wait"):
            for row in range(span.first_row + 1, span.last_row + 1):
                self.lives[row, span.column] = signs.wait if span.kind == "wait" else signs.step
        self.step_ends = {(span.last_row, span.column) for span in story.spans if span.last_row > span.first_row}

    # drawing ----------------------------------------------------------------------------------------------
    def blank(self) -> list[str]:
        """A line with nothing but lifelines, as they are in the current row."""
        line = [" "] * self.width
        for column in range(len(self.story.actors)):
            line[self.x[column]] = self.lives.get((self.row, column), self.signs.line)
        return line

    def put(self, line: list[str], at: int, text: str) -> None:
        for offset, cell in enumerate(cells(text)):
            if 0 <= at + offset < self.width:
                line[at + offset] = cell

    def emit(self, line: list[str], time: str = "") -> None:
        self.put(line, 0, time.rjust(GUTTER - 1))
        self.lines.append("".join(line).rstrip())

    def heads(self) -> None:
        folded = [fold(label, min(self.pitch - 2, 20)) for label in self.story.labels]
        for place in range(max(map(len, folded), default=0)):
            line = [" "] * self.width
            for column, lines in enumerate(folded):
                if place < len(lines):
                    self.put(line, max(GUTTER, self.x[column] - len(lines[place]) // 2), lines[place])
            if place == 0:
                self.put(line, 0, "ms".rjust(GUTTER - 1))
            self.lines.append("".join(line).rstrip())

    def draw(self) -> None:
        shown = ""
        for place, row in enumerate(self.story.rows):
            self.row = place
            time = _milliseconds(row.at_s)
            if row.kind == "gap":
                self.gap(row)
                continue
            drawn = self.arrow(row) if row.is_arrow else self.across(row) if row.src < 0 else self.beside(row)
            for number, line in enumerate(drawn):
                self.emit(line, time if number == 0 and time != shown else "")
            shown = time

    def gap(self, row: Row) -> None:
        line = self.blank()
        dots = "┄" if self.signs is UNICODE else "."
        for column in range(GUTTER, self.width):
            if line[column] == " " and column % 2:
                line[column] = dots
        self.put(line, GUTTER, f" {row.text} ")
        self.emit(line)

    def label(self, row: Row) -> str:
        failed = f"{self.signs.failed} " if row.bad and row.kind != "fault" else ""
        return failed + f"{row.number} {row.text}".strip()

    def arrow(self, row: Row) -> list[list[str]]:
        here, there = self.x[row.src], self.x[row.dst]
        left, right = min(here, there), max(here, there)
        folded = fold(self.label(row), min(max(right - left - 3, TEXT_WANTED), self.width - GUTTER - 4))
        longest = max(len(cells(line)) for line in folded)
        # beside its source; a text longer than the arrow runs on over the lifelines to its right
        start = left + 2 if there > here else max(left + 2, right - 1 - longest)
        start = max(GUTTER, min(start, self.width - longest))
        drawn = []
        for text in folded:
            line = self.blank()
            self.put(line, start, text)
            drawn.append(line)
        line = self.blank()
        sign = self.signs.dashed if row.kind == "fact" else self.signs.solid
        for column in range(left + 1, right):
            line[column] = sign
        head = self.signs.failed if row.kind == "fault" else self.signs.right if there > here else self.signs.left
        line[there - 1 if there > here else there + 1] = head
        if line[here] == self.signs.line:
            line[here] = self.signs.tee_right if there > here else self.signs.tee_left
        return [*drawn, line]

    def beside(self, row: Row) -> list[list[str]]:
        """A call to oneself, a note, a state, a step, an end of a wait: right of the lifeline, or left at the edge."""
        x, loop = self.x[row.src], row.kind in ("message", "fact")
        room = self.width - x - (5 if loop else 3)
        to_left = room < min(BESIDE_MIN, len(self.label(row))) and row.src > 0
        folded = fold(self.label(row), min(x - GUTTER - 4, TEXT_WANTED) if to_left else min(room, TEXT_WANTED))
        longest = max(len(cells(text)) for text in folded)
        at = x - (4 if loop else 2) + 1 - longest if to_left else x + (4 if loop else 2)
        drawn = []
        for number in range(max(len(folded), 2 if loop else 1)):
            line = self.blank()
            text = folded[number] if number < len(folded) else ""
            if number == 0 or (loop and number == 1):
                self.mark(line, row, number, to_left)
            elif row.kind == "wait":
                line[x] = self.signs.wait
            elif row.kind == "ended":
                line[x] = self.signs.line
            self.put(line, at, text)
            drawn.append(line)
        return drawn

    def mark(self, line: list[str], row: Row, number: int, to_left: bool) -> None:
        x, signs = self.x[row.src], self.signs
        if row.kind in ("message", "fact"):
            loop = signs.loop_top if number == 0 else signs.loop_bottom
            if to_left:
                mirrored = {"├": "┤", "┐": "┌", "┘": "└", "◀": "▶", "<": ">", "'": "`"}
                self.put(line, x - 2, "".join(mirrored.get(char, char) for char in reversed(loop)))
            else:
                self.put(line, x, loop)
        elif row.kind == "wait":
            line[x] = signs.wait_begin
        elif row.kind == "ended":
            line[x] = signs.wait_end
        else:
            ends = row.kind == "step" and (self.row, row.src) in self.step_ends
            line[x] = signs.marks.get("step end" if ends else row.kind, signs.marks["note"])

    def across(self, row: Row) -> list[list[str]]:
        drawn = []
        for text in fold(self.label(row), self.width - GUTTER - 8):
            line = self.blank()
            self.put(line, GUTTER, f"== {text} ==")
            drawn.append(line)
        return drawn


def _milliseconds(at_s: float) -> str:
    at_ms = at_s * 1000
    return f"{at_ms:.0f}" if at_ms >= 100 else f"{at_ms:.1f}".removesuffix(".0")


def render(story: Story, title: str, width: int = 120, ascii_only: bool = False) -> str:
    """The diagram as text ending in a newline; `ascii_only` also for the texts, whose other characters become '?'."""
    grid = _Grid(story, width, ASCII if ascii_only else UNICODE)
    if title:
        grid.lines += [*fold(title, grid.width), ""]
    grid.heads()
    grid.draw()
    if story.actors:
        grid.row = len(story.rows)
        grid.emit(grid.blank())
    text = "\n".join(grid.lines) + "\n"
    return text.translate(_TO_ASCII).encode("ascii", "replace").decode() if ascii_only else text


_TO_ASCII = str.maketrans(
    {"→": "->", "←": "<-", "—": "-", "–": "-", "…": "...", "≠": "!=", "’": "'", "“": '"', "”": '"'})
