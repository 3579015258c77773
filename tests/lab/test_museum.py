"""The museum: each piece is found, breaks its own promise, and its control does not."""
from __future__ import annotations

import pytest

from virga.lab.museum import PACES_MAX, broken_by, control, draw, hunt, shrink
from virga.lab.museum_pieces import BASE, NOT_SHOWN, PIECES, Piece
from virga.lab.museum_scene import Cast, drawn, play

QUICK = [piece for piece in PIECES if piece.name not in ("foreign-build", "crash-before-rebind", "crash-before-spawn")]
SLOW = [piece for piece in PIECES if piece not in QUICK]


def named(piece: Piece) -> str:
    return piece.name


@pytest.mark.parametrize("piece", QUICK, ids=named)
def test_found(piece: Piece) -> None:
    for seed in range(1, 200):
        scene = drawn(seed, piece.pool, 2, piece.ports, piece.settle_s)
        if broken_by(scene, piece.mutant, piece):
            assert control(piece, scene), f"the control breaks {piece.rule} as well, in seed {seed}"
            return
    pytest.fail(f"{piece.name} was not found")


@pytest.mark.slow
@pytest.mark.parametrize("piece", SLOW, ids=named)
def test_found_within_twenty_thousand(piece: Piece) -> None:
    shown = hunt(piece, 20_000)
    assert shown.seed is not None and shown.control


@pytest.mark.parametrize("piece", [piece for piece in PIECES if piece.control == BASE], ids=named)
def test_the_base_keeps_the_promise_for_other_seeds_too(piece: Piece) -> None:
    for seed in range(500, 504):
        scene = drawn(seed, piece.pool, 2, piece.ports, piece.settle_s)
        assert piece.rule not in play(scene, piece.base).broken


def test_a_shrunk_scene_still_breaks_and_is_drawn() -> None:
    piece = next(piece for piece in PIECES if piece.name == "event-lost")
    shown = hunt(piece, 50)
    assert shown.shortest is not None and broken_by(shown.shortest, piece.mutant, piece)
    assert shown.shortest.servers == 1 and len(shown.shortest.faults) == 1
    assert shrink(piece, shown.shortest) == shown.shortest
    assert draw(piece, shown).startswith("<svg")


def test_at_least_twenty_and_every_hazard_accounted_for() -> None:
    shown = {word for piece in PIECES for word in piece.hazard.replace("crash ", "c").replace(",", " ").split()}
    hazards = {str(number) for number in range(1, 27)}
    assert hazards <= shown | set(NOT_SHOWN)
    assert {f"c{number}" for number in range(1, 9)} <= shown
    assert len(PIECES) >= 20 and len({piece.name for piece in PIECES}) == len(PIECES)


def test_a_scene_is_its_seeds() -> None:
    piece = PIECES[3]
    assert drawn(7, piece.pool, 2, 1, 20.0) == drawn(7, piece.pool, 2, 1, 20.0) != drawn(8, piece.pool, 2, 1, 20.0)
    scene = drawn(3, piece.pool, 2, 1, 20.0)
    assert play(scene, Cast(piece.mutant.rules)).broken == play(scene, Cast(piece.mutant.rules)).broken
    assert PACES_MAX > 1
