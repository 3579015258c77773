"""The report's three figures, drawn from real runs with the report's own numbers; success beside failure; and the same of Virga's revert.

Owns: finding seeds that show each case, and cutting a run's events down to what a figure is about. The numbers are not written here: they follow from
who caused what (runtime/sequence), and a test compares them with the report's.
Rules: a figure shows nothing that did not happen in its run; what the report does not draw (the details call, events nobody waited for) is marked
`aside` where it is told and left out here.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from virga.lab import pictures
from virga.lab.founding import Plan, run_kilo
from virga.lab.kilo import HOST_A, HOST_B
from virga.lab.options import Mistake, Options
from virga.lab.virga_cloud import run_virga
from virga.runtime.env import SIM_EPOCH_S
from virga.runtime.sequence import Diagram, side_by_side
from virga.runtime.trace import Event, Trace

PLAN = Plan(servers=1, resize_gap_s=4.0, revert_gap_s=4.0, settle_s=10.0)
SEEDS_MAX = 500
ALIASES = {
    "api": "API", f"compute@{HOST_B}": "compute manager host_B", f"libvirt@{HOST_B}": "libvirt host_B", f"agent@{HOST_B}": "linuxbridge agent host_B",
    "network": "network server", f"compute@{HOST_A}": "compute manager host_A", f"libvirt@{HOST_A}": "libvirt host_A",
    f"agent@{HOST_A}": "linuxbridge agent host_A",
}
VIRGA_ALIASES = {"api": "API", "ops": "operations", "store": "database", "host-1": "host_A agent", "host-2": "host_B agent"}


def record(seed: int, options: Options) -> list[Event]:
    """The events of one server's resize and revert, from the revert on."""
    events: list[Event] = []
    trace = Trace(_NoClock(), ring=1)
    trace.add_sink(events.append)
    run_kilo(seed, options, PLAN, trace)
    begin = next(place for place, event in enumerate(events) if event.text == "revert_resize")
    server = events[begin].server
    return [event for event in events[begin:] if event.server == server]


class _NoClock:
    """Trace wants a clock before the run has one; the cloud's own is used as soon as it runs."""

    def __call__(self) -> float:
        import asyncio

        return SIM_EPOCH_S + asyncio.get_running_loop().time()


def find(first: int, wanted: Callable[[list[Event]], bool], options: Options) -> tuple[int, list[Event]]:
    """The first seed from `first` on whose revert is as wanted."""
    for seed in range(first, first + SEEDS_MAX):
        events = record(seed, options)
        if wanted(events):
            return seed, events
    raise Mistake(f"none of {SEEDS_MAX} seeds from {first} on shows the case to draw; try another --seed")


def failed(events: list[Event]) -> bool:
    return any(event.kind == "wait" and event.data.get("ended") == "deadline" for event in events)


def read_before_down(events: list[Event]) -> bool:
    """Whether host_A read the status before the agent of host_B made it DOWN, in a run where both happened within a poll."""
    read, down = _place(events, "_build_network_info_model"), _place(events, "port status ACTIVE becomes DOWN")
    return -1 < read < down


def _place(events: list[Event], text: str) -> int:
    return next((place for place, event in enumerate(events) if event.text.startswith(text)), -1)


def tree(events: list[Event], *roots: int) -> list[Event]:
    """The events caused, directly or not, by `roots`, and the roots."""
    kept = set(roots)
    for event in events:
        if event.parent in kept:
            kept.add(event.number)
    return [event for event in events if event.number in kept]


def drawn(events: list[Event]) -> list[Event]:
    """Without what the report leaves out; the last word on the server stands unnumbered beside its lifeline."""
    kept = []
    for event in events:
        if event.data.get("aside"):
            continue
        if event.kind == "fault" and event.parent == 0:
            event = msgspec.structs.replace(event, kind="note", data={"bad": True})
        if event.kind == "step":  # a call to oneself, drawn as one
            event = msgspec.structs.replace(event, kind="message", dst=event.src)
        kept.append(event)
    return kept


def flow(events: list[Event]) -> list[Event]:
    """Figures 1 and 2: what finish_revert_resize does on host_A, and in the failing run the look of host_A's agent that comes into it."""
    begin = next(event for event in events if event.text == "finish_revert_resize")
    last = next(event for event in events if event.text.startswith("vm_state "))
    looks = [event.number for event in events if event.number < last.number and event.src == f"agent@{HOST_A}" and event.parent == 0
             and event.text.startswith("process_network_devices")] if failed(events) else []
    chosen = tree(events, begin.number, *looks[:1])
    return drawn([event for event in chosen if event.number <= last.number] + [last])


def status(events: list[Event]) -> list[Event]:
    """Figure 3: revert_resize up to the read of the port's status, and the agent of host_B that makes it DOWN."""
    down = next(event for event in events if event.text == "port status ACTIVE becomes DOWN")
    read = next(event for event in events if event.text.startswith("_build_network_info_model"))
    look = next(event for event in events if event.src == f"agent@{HOST_B}" and event.text.startswith("process_network_devices"))
    mine, theirs = tree(events, events[0].number), tree(events, look.number)
    chosen = [event for event in mine if event.number <= read.number] + [event for event in theirs if event.number <= down.number]
    return drawn(sorted(chosen, key=lambda event: event.number))


def diagram(events: list[Event], title: str) -> Diagram:
    return Diagram.from_events(events, title, ALIASES)


def virga_revert(seed: int, destroy_s: float) -> list[Event]:
    """Virga's revert of one server; `destroy_s` is how long the left host takes to shut the guest down."""
    events: list[Event] = []
    run_virga(seed, PLAN, events, destroy_s)
    begin = next(event for event in events if event.kind == "step" and event.src == "api" and event.text == "revert")
    mine = [event for event in events if event.number >= begin.number and event.server == begin.server]
    return [msgspec.structs.replace(event, text=event.text.replace("host-1", HOST_A).replace("host-2", HOST_B)) for event in mine]


def figures(first: int) -> dict[str, str]:
    """Every drawing by file name."""
    options = Options()
    bad_seed, bad = find(first, failed, options)
    good_seed, good = find(first, lambda events: not failed(events) and read_before_down(events), options)
    success, failure = diagram(flow(good), f"Success: host_A reads ACTIVE and waits for nothing (seed {good_seed})"), diagram(
        flow(bad), f"Failure: host_A reads DOWN and waits for an event that nobody can send (seed {bad_seed})")
    before = diagram(status(good), f"The read comes first: ACTIVE, the status of the VIF on host_B (seed {good_seed})")
    after = diagram(status(bad), f"VIF status: host_B's agent comes first, host_A reads DOWN (seed {bad_seed})")
    whole = [diagram(drawn(events), f"{word} (seed {seed})") for word, seed, events in (
        ("Kilo, the whole revert: success", good_seed, until_end(good)), ("Kilo, the whole revert: failure", bad_seed, until_end(bad)))]
    quick, slow = (Diagram.from_events(virga_revert(first, destroy_s), f"Virga's revert, {text} (seed {first})", VIRGA_ALIASES)
                   for destroy_s, text in ((0.05, "host_B is done first"), (0.9, "host_B is done last")))
    return {
        "1-success": success.svg(), "2-failure": failure.svg(), "3-vif-status": after.svg(),
        "success-beside-failure": side_by_side(success, failure).svg(),
        "vif-status-both-orders": side_by_side(before, after).svg(),
        "whole-revert-success-beside-failure": side_by_side(*whole).svg(),
        "virga-revert": slow.svg(), "virga-revert-both-orders": side_by_side(quick, slow).svg(),
    }


def until_end(events: list[Event], tail_s: float = 5.0) -> list[Event]:
    """Up to the last word on the server, or a little later where the agents have more to say."""
    last = next(event for event in events if event.text.startswith("vm_state "))
    return [event for event in events if event.at <= last.at + (tail_s if "active" in last.text else 0.0)]


def report(folder: Path, first: int) -> None:
    """Write all figures and say where."""
    made: list[Path] = []
    try:
        for name, svg in figures(first).items():
            made += pictures.write(folder, name, svg)
    except OSError as error:
        raise Mistake(f"--draw {folder}: cannot write there: {error.strerror}") from error
    for path in made:
        click.echo(str(path))
    if not any(path.suffix == ".png" for path in made):
        click.echo(pictures.NO_PNG)
