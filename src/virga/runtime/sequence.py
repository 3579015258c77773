"""Events -> a sequence diagram, for a terminal, for a page, for a document; and two runs side by side.

Owns: the public face of the drawing room: `Diagram` and `side_by_side`. What a row is lives in sequence_rows, each way
of drawing in a file of its own, and Mermaid, which needs no layout, here.
Rules: drawing reads events and nothing else, so the same picture comes from a live trace, a simulator run or a saved
file; the same events give the same bytes.
Why three forms: a terminal has no pictures, a code host renders Mermaid, and a report needs a file that stands alone.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from virga.runtime import sequence_svg, sequence_text
from virga.runtime.sequence_compare import Comparison
from virga.runtime.sequence_rows import Row, Story, clean, read
from virga.runtime.trace import Event

__all__ = ["Comparison", "Diagram", "side_by_side"]

MERMAID_ARROWS = {"message": "->>", "fact": "-->>", "fault": "-x"}


@dataclass(frozen=True, slots=True)
class Diagram:
    """One run as a sequence diagram. Make it with `from_events`."""

    title: str
    events: tuple[Event, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_events(
        cls, events: Iterable[Event], title: str = "", aliases: Mapping[str, str] | None = None,
    ) -> Diagram:
        """`aliases` maps actor ids to what is written over their lifelines; its order is that of the columns."""
        return cls(clean(title), tuple(events), dict(aliases or {}))

    def story(self) -> Story:
        """The rows and spans that all drawings share."""
        return read(self.events, self.aliases)

    def text(self, width: int = 120, ascii_only: bool = False) -> str:
        """For a terminal `width` characters wide."""
        return sequence_text.render(self.story(), self.title, width, ascii_only)

    def svg(self) -> str:
        """A standalone SVG file on a light ground."""
        return sequence_svg.render(self.story(), self.title)

    def mermaid(self) -> str:
        """Mermaid source, for pages that render it."""
        return _mermaid(self.story(), self.title)


def side_by_side(left: Diagram, right: Diagram) -> Comparison:
    """Two runs with their first difference marked; `.svg()`, `.text(width)`, `.first_difference`."""
    # Both get the same columns, so that a lifeline is found at the same place; silences are time, and time is ignored.
    aliases = {**left.aliases, **right.aliases}
    order = list(dict.fromkeys(actor for event in (*left.events, *right.events) for actor in (event.src, event.dst)))
    aliases |= {actor: actor for actor in order if actor and actor not in aliases}
    return Comparison(read(left.events, aliases, False, right.events), read(right.events, aliases, False, left.events),
                      left.title, right.title)


# Mermaid ---------------------------------------------------------------------------------------------------
def _mermaid(story: Story, title: str) -> str:
    lines = ["---", f"title: {_yaml(title)}", "---"] if title else []
    lines.append("sequenceDiagram")
    lines += [f"    participant a{column} as {_plain(label)}" for column, label in enumerate(story.labels)]
    begins = {span.first_row: span for span in story.spans if span.kind == "wait"}
    ends = {span.last_row: span for span in story.spans if span.kind == "wait"}
    for place, row in enumerate(story.rows):
        lines.append("    " + _mermaid_row(row, len(story.actors)))
        if place in begins:
            lines.append(f"    activate a{row.src}")
        if place in ends:
            lines.append(f"    deactivate a{row.src}")
    return "\n".join(lines) + "\n"


def _mermaid_row(row: Row, actors: int) -> str:
    text = _plain(f"{row.number} {row.text}".strip())
    if row.src < 0 or row.kind == "gap":
        across = "a0" if actors < 2 else f"a0,a{actors - 1}"
        return f"Note over {across}: {text}"
    if row.is_arrow or row.kind in ("message", "fact"):
        arrow = "-x" if row.bad and row.kind == "message" else MERMAID_ARROWS.get(row.kind, "->>")
        return f"a{row.src}{arrow}a{row.dst}: {text}"
    sign = "✗ " if row.bad else ""
    return f"Note right of a{row.src}: {sign}{text}"


def _plain(text: str) -> str:
    """Without the characters that end a Mermaid statement or start markup."""
    text = " ".join(text.split()).replace("#", "#35;").replace(";", "#59;").replace("#35#59;", "#35;")
    return text.replace("<", "#60;").replace(">", "#62;")


def _yaml(text: str) -> str:
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
