"""The odds of the race: how often a revert fails, predicted and simulated, against polling interval and time between teardown and read.

The prediction (facts file 2.4): the agent on the left host looks every T seconds, at a phase nobody chose. The revert fails when one of its looks, plus
the time d it takes to become a DOWN in the database, falls between the end of the tap and the read W seconds later: P = (W - d) / T, at most 1 and at
least 0. The simulation knows nothing of this: it runs the founding case and counts.
Rules: delays are fixed here (no jitter), so that W and d are what the formula says; everything else, above all the phase, is the seed's.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import msgspec

from virga.lab import kilo_rules as rules
from virga.lab import pictures
from virga.lab.founding import Plan, run_kilo
from virga.lab.options import DELAYS, Mistake, Options
from virga.runtime.sequence_svg import BLUE, GREEN, INK, PALE, RED, Picture

INTERVALS_S = (1.0, 2.0, 4.0)
SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
LIMIT = 0.10
# A wait that cannot end is as lost after 15 s as after 300, and costs less to simulate.
TIMEOUT_S = 15.0
PLAN = Plan(servers=5, rounds=1, resize_gap_s=4.0, revert_gap_s=8.0, settle_s=20.0)
Watched = Callable[[Iterable["Point"], int, str], Iterator["Point"]]


class Point(msgspec.Struct):
    """One point: interval T, window W, report time d (seconds), what is predicted, what was counted."""

    polling_interval: float
    window_s: float
    report_s: float
    predicted: float
    reverts: int = 0
    failed: int = 0

    @property
    def simulated(self) -> float:
        return self.failed / self.reverts if self.reverts else 0.0

    @property
    def error(self) -> float:
        """Relative to the prediction; absolute where 0 or 1 is predicted."""
        return abs(self.simulated - self.predicted) / (self.predicted or 1.0)


def window_s(delays: dict[str, float]) -> float:
    """W: from the end of the tap to the arrival of list_ports: teardown, the migration's save, the resource lock, a cast, half a call."""
    return delays["teardown"] + delays["save"] + delays["lock"] + 2 * delays["rpc"]


def report_s(delays: dict[str, float]) -> float:
    """d: from an agent's look to the DOWN in the database."""
    return delays["poll"] + delays["rpc"]


def predict(window: float, report: float, interval: float) -> float:
    return min(1.0, max(0.0, (window - report) / interval))


def options_for(share: float, interval: float) -> Options:
    """Delays whose window makes the prediction `share` (which may lie above 1: then W reaches T + d and failing is certain)."""
    delays = dict(DELAYS)
    delays["teardown"] = 0.0
    delays["teardown"] = max(0.0, share * interval + report_s(delays) - window_s(delays))
    return Options(polling_interval=interval, vif_plugging_timeout=TIMEOUT_S, jitter=0.0, delays=delays)


def measure(options: Options, seeds: range) -> Point:
    """Run the founding case for each seed and count the reverts that end in ERROR."""
    window, report = window_s(options.delays), report_s(options.delays)
    point = Point(options.polling_interval, window, report, predict(window, report, options.polling_interval))
    for seed in seeds:
        result, _ = run_kilo(seed, options, PLAN)
        point.reverts += len(result.reverts)
        point.failed += sum(revert.outcome == "error" for revert in result.reverts)
    return point


def curve(intervals: tuple[float, ...], seeds: range) -> Iterator[Point]:
    for interval in intervals:
        for share in (*SHARES, 1.1):
            yield measure(options_for(share, interval), seeds)


def plot(points: list[Point]) -> str:
    """Prediction as lines, simulation as dots: the failing share over W, one colour an interval. A standalone SVG."""
    picture, width, height = Picture(), 860.0, 520.0
    left, top, right, bottom = 76.0, 76.0, 830.0, 440.0
    reach = max(point.window_s for point in points) * 1.05

    def at(window: float, share: float) -> tuple[float, float]:
        return left + window / reach * (right - left), bottom - share * (bottom - top)

    picture.text(24, 34, "How often a Kilo revert fails", size=17, bold=True)
    picture.text(24, 56, "lines: P = (W - d) / T, from 0 to 1; dots: share of simulated reverts that ended in ERROR", colour=PALE)
    for tenth in range(0, 11, 2):
        x, y = at(0, tenth / 10)
        picture.line(x, y, right, y, "#e4e7ec", 1)
        picture.text(x - 10, y + 4, f"{tenth * 10} %", colour=PALE, anchor="end")
    for number in range(int(reach / 0.5) + 1):
        x, y = at(number * 0.5, 0)
        picture.line(x, y, x, y + 5, PALE, 1)
        picture.text(x, y + 20, f"{number * 0.5:g}", colour=PALE, anchor="middle")
    picture.line(left, bottom, right, bottom, INK, 1)
    picture.line(left, top, left, bottom, INK, 1)
    picture.text((left + right) / 2, bottom + 44, "W: seconds from the end of the tap on host_B to host_A's read of the port's status", anchor="middle")
    for place, interval in enumerate(sorted({point.polling_interval for point in points})):
        colour = (BLUE, GREEN, RED)[place % 3]
        mine = [point for point in points if point.polling_interval == interval]
        report = mine[0].report_s
        ends = [at(0, 0), at(report, 0), at(min(reach, report + interval), predict(min(reach, report + interval), report, interval)),
                at(reach, predict(reach, report, interval))]
        picture.path("M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in ends), colour)
        for point in mine:
            x, y = at(point.window_s, point.simulated)
            picture.shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#ffffff" stroke="{colour}" stroke-width="2"/>')
        y = bottom - 24 - place * 22
        picture.line(right - 210, y - 4, right - 180, y - 4, colour, 2)
        picture.text(right - 172, y, f"polling interval {interval:g} s", colour=colour)
    return picture.svg(width, height, "Failing share of Kilo reverts, predicted and simulated")


def report(options: Options, seeds: int, first: int, out: Path, as_json: bool, watched: Watched) -> None:
    """Measure, print, plot. Raises Mistake for an era whose reverts do not wait, or whose binding moves first."""
    if options.era != rules.KILO_0:
        raise Mistake(f"--odds is about --era {rules.KILO_0}: in {options.era} a revert is not decided by this race")
    intervals = (options.polling_interval,) if options.polling_interval != Options().polling_interval else INTERVALS_S
    total = len(intervals) * (len(SHARES) + 1)
    points = list(watched(curve(intervals, range(first, first + seeds)), total, "points"))
    try:
        written = pictures.write(out, "odds", plot(points))
    except OSError as error:
        raise Mistake(f"--out {out}: cannot write there: {error.strerror}") from error
    if as_json:
        click.echo(json.dumps([{**msgspec.to_builtins(point), "simulated": point.simulated, "error": point.error} for point in points], indent=2))
        return
    click.echo("  T (s)   W (s)   d (s)  predicted  simulated  reverts  off by")
    for point in points:
        click.echo(f"  {point.polling_interval:5.1f}  {point.window_s:6.3f}  {point.report_s:6.3f}  {point.predicted:9.1%}  {point.simulated:9.1%}"
                   f"  {point.reverts:7d}  {point.error:6.1%}" + ("" if point.error <= LIMIT else "  more than 10 %"))
    good = sum(point.error <= LIMIT for point in points)
    click.echo(f"{good} of {len(points)} points lie within 10 % of the prediction; plot: {', '.join(str(path) for path in written)}")
    if len(written) == 1:
        click.echo(pictures.NO_PNG)
