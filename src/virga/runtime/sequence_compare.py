"""Two runs side by side, the first difference marked.

Owns: the alignment of two stories and its two drawings. Two rows are the same when kind, actors and text are, with ids
and times left out; everything else in a run is a consequence of its first difference, so that one is marked loudly and
the later ones softly.
Rules: what is the same stands at the same height; what one run lacks is a hole in it.
Why difflib: it is deterministic, in the standard library, and finds the longest common stretches, which is what a
reader looks for too; rows number in the hundreds.
"""
from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property

from virga.runtime import sequence_svg
from virga.runtime.sequence_rows import Row, Story, same_story
from virga.runtime.sequence_svg import GREEN, MARGIN, RED, Board, Picture
from virga.runtime.sequence_text import cells, fold

# What ended a wait is told with the number of the event; the number is no difference, the cause is.
_BY_NUMBER = re.compile(r" \([0-9.]+\)$")
BETWEEN = 46.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of each run, or of one of them; `same` when both tell the same."""

    left: int | None
    right: int | None
    same: bool


class Comparison:
    """Made by `side_by_side`. `first_difference` is None when the two runs tell the same story."""

    def __init__(self, left: Story, right: Story, left_title: str = "", right_title: str = "") -> None:
        self.left, self.right = left, right
        self.left_title, self.right_title = left_title or "left", right_title or "right"

    @cached_property
    def pairs(self) -> list[Pair]:
        """The rows of both runs in one order."""
        keys = [[(*same_story(story, row)[:3], _BY_NUMBER.sub("", same_story(story, row)[3])) for row in story.rows]
                for story in (self.left, self.right)]
        pairs: list[Pair] = []
        for what, a, b, c, d in difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
            if what == "equal":
                pairs += [Pair(i, j, True) for i, j in zip(range(a, b), range(c, d), strict=True)]
                continue
            common = min(b - a, d - c)
            pairs += [Pair(a + i, c + i, False) for i in range(common)]
            pairs += [Pair(i, None, False) for i in range(a + common, b)]
            pairs += [Pair(None, j, False) for j in range(c + common, d)]
        return pairs

    @cached_property
    def first_difference(self) -> int | None:
        """The place in `pairs` of the first difference."""
        return next((place for place, pair in enumerate(self.pairs) if not pair.same), None)

    # text -------------------------------------------------------------------------------------------------
    def text(self, width: int = 120) -> str:
        """Two columns of rows, with a sign between them: = same, ≠ different, < left only, > right only."""
        half = max(20, (width - 5) // 2)
        lines = [_beside(fold(self.left_title, half), fold(self.right_title, half), " ", half),
                 "─" * half + "─────" + "─" * half]
        for place, pair in enumerate(self.pairs):
            if place == self.first_difference:
                lines.append(" first difference ".center(2 * half + 5, "━"))
            sign = "=" if pair.same else "<" if pair.right is None else ">" if pair.left is None else "≠"
            lines.append(_beside(_told(self.left, pair.left, half), _told(self.right, pair.right, half), sign, half))
        if self.first_difference is None:
            lines.append(" no difference ".center(2 * half + 5, "━"))
        return "\n".join(lines) + "\n"

    # SVG --------------------------------------------------------------------------------------------------
    def draw(self) -> tuple[Picture, float, float]:
        """The picture and its size."""
        boards = [Board(story, title, compact=True) for story, title in
                  ((self.left, self.left_title), (self.right, self.right_title))]
        gaps = [max(pair) for pair in zip(*(board.gaps for board in boards), strict=True)]
        for board in boards:
            board.fit(gaps)
        boards[1].x = boards[0].width + BETWEEN
        width = boards[1].x + boards[1].width
        picture, top = Picture(), MARGIN
        titles = [sequence_svg.wrap(each.title, each.width - 2 * MARGIN, size=17, bold=True) for each in boards]
        for board, lines in zip(boards, titles, strict=True):
            for place, line in enumerate(lines):
                picture.text(board.x + MARGIN, top + 15 + place * 24, line, size=17, bold=True)
        top += 24 * max(map(len, titles)) + 6
        head_bottom = top + max(board.head_height() for board in boards)
        tops, end = self._tops(boards, head_bottom + 12)
        self._bands(picture, tops, end, width)
        for board, side in zip(boards, ("left", "right"), strict=True):
            mine = [at for pair, at in zip(self.pairs, tops, strict=True) if getattr(pair, side) is not None]
            board.draw(picture, mine, end, head_bottom)
            board.draw_heads(picture, head_bottom - board.head_height())
        divide = boards[1].x - BETWEEN / 2
        picture.line(divide, MARGIN, divide, end, "#d0d5dd", 1)
        self._mark(picture, tops, divide, width)
        kinds = {row.kind for story in (self.left, self.right) for row in story.rows}
        bottom = sequence_svg.draw_legend(picture, MARGIN, end + 14, width - 2 * MARGIN, kinds)
        return picture, width, bottom + 12

    def _tops(self, boards: list[Board], at: float) -> tuple[list[float], float]:
        """The upper edge of each pair, and the end of the last: the taller row of a pair rules."""
        left, right = (board.heights() for board in boards)
        tops = []
        for place, pair in enumerate(self.pairs):
            if place == self.first_difference:
                at += 24
            tops.append(at)
            at += max(left[pair.left] if pair.left is not None else 0.0,
                      right[pair.right] if pair.right is not None else 0.0)
        return tops, at + 6

    def _bands(self, picture: Picture, tops: list[float], end: float, width: float) -> None:
        """A tint under every difference."""
        bottoms = [*tops[1:], end]
        for place, pair in enumerate(self.pairs):
            if not pair.same:
                picture.box(MARGIN / 2, tops[place] - 2, width - MARGIN, bottoms[place] - tops[place],
                            "#fdeeec" if place == self.first_difference else "#fdf8ec")

    def _mark(self, picture: Picture, tops: list[float], middle: float, width: float) -> None:
        """A red rule with its name above the first difference, or word that there is none."""
        text, colour, y = "no difference", GREEN, MARGIN - 12
        if self.first_difference is not None:
            text, colour, y = "first difference", RED, tops[self.first_difference] - 11
            picture.line(MARGIN / 2, y, width - MARGIN / 2, y, RED, 2)
        wide = sequence_svg.text_width(text, 12, bold=True) + 20
        picture.box(middle - wide / 2, y - 10, wide, 20, colour, colour, 10)
        picture.text(middle, y + 4, text, colour="#ffffff", size=12, bold=True, anchor="middle")

    def svg(self) -> str:
        """A standalone SVG file with both runs on one vertical scale."""
        picture, width, height = self.draw()
        return picture.svg(width, height, f"{self.left_title} | {self.right_title}")


def _told(story: Story, place: int | None, width: int) -> list[str]:
    """One row in words."""
    if place is None:
        return [""]
    row: Row = story.rows[place]
    who = story.labels[row.src] if row.src >= 0 else ""
    if row.is_arrow:
        who += f" → {story.labels[row.dst]}"
    failed = "✗ " if row.bad else ""
    return fold(" ".join(f"{failed}{row.number} {who}: {row.text}".split()), width)


def _beside(left: list[str], right: list[str], sign: str, half: int) -> str:
    lines = []
    for place in range(max(len(left), len(right))):
        here = left[place] if place < len(left) else ""
        there = right[place] if place < len(right) else ""
        padded = here + " " * max(0, half - len(cells(here)))
        lines.append(f"{padded}  {sign if place == 0 else ' '}  {there}".rstrip())
    return "\n".join(lines)
