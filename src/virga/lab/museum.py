"""`virga race --museum`: the simulator against every piece, until one seed shows the hazard; that schedule shrunk, and drawn.

Owns: the hunt, the shrinking, the table. Rules: a piece counts as found only if its own promise is broken; then the control is asked to play the very same
scene and must keep that promise. A schedule is shrunk by leaving faults, servers and ports out while the promise stays broken.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from virga.lab import museum_virga, pictures
from virga.lab.drawings import ALIASES, _NoClock
from virga.lab.museum_pieces import BASE, NOT_SHOWN, PIECES, Piece
from virga.lab.museum_scene import Cast, Scene, drawn, play
from virga.lab.options import Mistake
from virga.runtime.sequence import Diagram
from virga.runtime.trace import Event, Trace

SERVERS = 2
PACES_MAX = 60
Watched = Callable[[Iterable["Shown"], int, str], Iterator["Shown"]]


class Shown(msgspec.Struct):
    """What became of one piece. `seed` is None when it was not found; `control` is what kept the promise."""

    name: str
    hazard: str
    change: str
    rule: str
    seed: int | None
    schedules: int
    control: str
    shortest: Scene | None = None


def broken_by(scene: Scene, cast: Cast, piece: Piece) -> str:
    """The server whose promise was broken as the piece says, or ''."""
    stage = play(scene, cast)
    server_id = stage.broken.get(piece.rule, "")
    if server_id and piece.point and not any(stage.points.get(each) == piece.point and stage.state(each)[1] is not None for each in stage.points):
        return ""
    return server_id


def hunt(piece: Piece, limit: int) -> Shown:
    """Seeds from 1 on, until one breaks the promise or the limit is reached; then the shortest scene and the control."""
    for seed in range(1, limit + 1):
        scene = drawn(seed, piece.pool, SERVERS, piece.ports, piece.settle_s)
        if broken_by(scene, piece.mutant, piece):
            return Shown(piece.name, piece.hazard, piece.change, piece.rule, seed, seed, control(piece, scene), shrink(piece, scene))
    return Shown(piece.name, piece.hazard, piece.change, piece.rule, None, limit, "")


def control(piece: Piece, scene: Scene) -> str:
    """Who keeps the promise where the mutant broke it."""
    if piece.control != BASE:
        return "" if museum_virga.keeps(scene) else "virga"
    return "" if play(scene, piece.base).broken.get(piece.rule) else "the same cloud without the change"


def shrink(piece: Piece, scene: Scene) -> Scene:
    """Without every fault, server and port that is not needed."""
    changed = True
    while changed:
        changed = False
        smaller = [msgspec.structs.replace(scene, faults=scene.faults[:place] + scene.faults[place + 1:]) for place in range(len(scene.faults))]
        if scene.servers > 1:
            smaller.append(msgspec.structs.replace(scene, servers=scene.servers - 1, faults=tuple(
                fault for fault in scene.faults if not fault.whom.isdigit() or int(fault.whom) < scene.servers - 1)))
        for trial in smaller:
            # another pace may be needed for fewer servers: any of a few seeds will do for the same faults
            seeds = (scene.seed, *range(1, PACES_MAX))
            fits = next((seed for seed in seeds if broken_by(msgspec.structs.replace(trial, seed=seed), piece.mutant, piece)), None)
            if fits is not None:
                scene, changed = msgspec.structs.replace(trial, seed=fits), True
                break
    return scene


def draw(piece: Piece, shown: Shown) -> str:
    """The shortest scene as a sequence diagram, from just before its reverts (or its faults, if those come first)."""
    assert shown.shortest is not None
    events: list[Event] = []
    trace = Trace(_NoClock(), ring=1)
    trace.add_sink(events.append)
    stage = play(shown.shortest, piece.mutant, trace)
    server_id = stage.broken[piece.rule]
    mine = [event for event in events if event.server == server_id or event.src == "operator"]
    marks = [place for place, event in enumerate(mine) if event.text == "revert_resize" or event.src == "operator"]
    chosen = [msgspec.structs.replace(event, kind="message", dst=event.src) if event.kind == "step" else event for event in mine[marks[0] if marks else 0:]]
    title = f"{piece.name} (hazard {piece.hazard}): {piece.change}; breaks '{piece.rule}' (seed {shown.seed})"
    return Diagram.from_events(chosen, title, {"operator": "what goes wrong", **ALIASES}).svg()


def pieces(limit: int) -> Iterator[Shown]:
    for piece in PIECES:
        yield hunt(piece, limit)


def table(shown: list[Shown]) -> str:
    rows = [("piece", "hazard", "found by seed", "schedules", "shortest schedule", "breaks", "control keeps the promise")]
    for each in shown:
        shortest = "-" if each.shortest is None else (
            f"{each.shortest.servers} server" + "s"[:each.shortest.servers - 1]
            + "".join(f", {fault.what} {fault.whom}".rstrip() for fault in each.shortest.faults))
        rows.append((each.name, each.hazard, "-" if each.seed is None else str(each.seed), str(each.schedules), shortest, each.rule, each.control or "NO"))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    out = ["  ".join(cell.rjust(width) if place in (2, 3) else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
           for row in rows]
    out.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(out)


def report(limit: int, out: Path | None, as_json: bool, watched: Watched) -> None:
    """Hunt all pieces; print the table, and draw the shortest schedules into `out` if given."""
    shown = list(watched(pieces(limit), len(PIECES), "pieces"))
    if out is not None:
        try:
            for piece, each in zip(PIECES, shown, strict=True):
                if each.shortest is not None:
                    pictures.write(out, each.name, draw(piece, each))
        except OSError as error:
            raise Mistake(f"--out {out}: cannot write there: {error.strerror}") from error
    if as_json:
        click.echo(json.dumps([_json(each) for each in shown], indent=2))
        return
    click.echo(table(shown))
    found = [each for each in shown if each.seed is not None]
    click.echo(f"\n{len(found)} of {len(shown)} mutants found, the slowest after {max((each.schedules for each in found), default=0)} schedules"
               + (f"; shortest schedules drawn in {out}" if out else "; --out DIR draws the shortest schedules"))
    for number, why in NOT_SHOWN.items():
        click.echo(f"hazard {number} is not shown: {why}")


def _json(each: Shown) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(each)
    return data
