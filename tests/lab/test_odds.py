"""The odds: the formula's edges, and that the simulation, which does not know it, agrees."""
from __future__ import annotations

import pytest

from virga.lab.odds import LIMIT, Point, measure, options_for, plot, predict


def test_the_formula() -> None:
    assert predict(0.5, 0.1, 2.0) == pytest.approx(0.2)
    assert predict(0.05, 0.1, 2.0) == 0.0
    assert predict(2.1, 0.1, 2.0) == 1.0
    assert predict(9.0, 0.1, 2.0) == 1.0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.3])
def test_options_give_the_share_they_are_made_for(share: float) -> None:
    point = measure(options_for(share, 2.0), range(1, 2))
    assert point.predicted == pytest.approx(min(1.0, share), abs=0.06)


def test_certain_when_the_window_is_longer_than_interval_and_report() -> None:
    point = measure(options_for(1.1, 1.0), range(1, 6))
    assert point.failed == point.reverts == 25


def test_half_the_reverts_fail_at_one_half() -> None:
    point = measure(options_for(0.5, 2.0), range(1, 61))
    assert point.reverts == 300
    assert abs(point.simulated - 0.5) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 0.4, 0.55, 0.7, 0.85])
def test_within_ten_percent_at_five_points(share: float) -> None:
    assert measure(options_for(share, 2.0), range(1, 401)).error <= LIMIT


def test_the_plot_has_a_dot_a_point() -> None:
    points = [Point(2.0, 0.5, 0.04, 0.23, 100, 22), Point(4.0, 1.5, 0.04, 0.36, 100, 37)]
    svg = plot(points)
    assert svg.count("<circle") == 2 and svg.startswith("<svg")
