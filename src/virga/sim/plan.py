"""Plans: what is asked of which server when, and what is broken when, as data drawn from a seed before the run.

Owns: `Entry`, `Plan`, and the makers of plans. Rules: a plan holds no objects and no references into a run, so that the same plan can be run again
with entries left out (shrink.py), kept in a bug report, and read by a person; a server is named by its place in the order of booting, so a plan
without its boots still means something. A fault that is broken for good (a host without its agent) always comes with its mending, and the calm at
the end of a run mends the rest.
Kinds: `founding` is the case the project was founded for; `workload` is everything users and operators do, `quiet` the same without faults.
"""
from __future__ import annotations

import random

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One thing that happens: at `at` seconds, `what` to `whom` (a host's name or a server's place), with `value` in [0, 1) as its own die."""

    at: float
    what: str
    whom: str = ""
    value: float = 0.0


class Plan(msgspec.Struct):
    """A whole run as data. `http`: requests go through the front door, its handlers and their JSON."""

    seed: int
    kind: str
    servers: int = 5
    hosts: int = 2
    entries: list[Entry] = []
    http: bool = False


FAULTS = ("kill_controller", "kill_agent", "partition", "power_cut", "slow", "fail", "fail", "crash_guest", "duplicate", "lose_host", "lose_host", "kill_at")
MENDINGS = ("start_controller", "start_agent", "heal", "fence", "unfence")
POINTS = ("agent.before_effect", "agent.after_effect", "agent.half_journaled", "agent.before_report", "agent.wired_not_started")
CONTROLLER_POINTS = ("db.before_commit", "db.after_commit")
# Named more than once: what more depends on.
CALLS = ("launch", "launch", "wire", "wire", "wire", "unwire", "unwire", "create_disk", "stop", "fetch", "resume", "undefine", "grow", "define",
         "rebuild_disk", "snapshot", "discard", "migrate_live", "prepare_incoming", "attach_nic", "detach_nic", "pause", "suspend", "wake")
# What users and operators do, and how often in relation to one another.
WORK = {
    "boot": 6, "delete": 4, "resize": 12, "revert": 10, "confirm": 6, "migrate": 5, "live_migrate": 6, "evacuate": 6, "stop": 4, "start": 4,
    "reboot": 3, "reboot_hard": 3, "pause": 3, "unpause": 3, "suspend": 3, "resume": 3, "rebuild": 4, "write": 12, "attach": 4, "detach": 4,
    "shelve": 4, "unshelve": 5, "shelve_offload": 3, "snapshot": 3, "rescue": 3, "unrescue": 4, "lock": 1, "unlock": 2,
    "reset_state": 1, "disable_host": 1, "enable_host": 2,
}
HOSTS_OF_WORKLOAD = 3


def founding_plan(seed: int, *, faults: bool = True) -> Plan:
    """The founding case: resize all, revert all, with up to three things broken on the way."""
    rng = random.Random(seed)
    plan = Plan(seed, "founding", servers=5)
    if faults:
        for _ in range(rng.randrange(4)):
            plan.entries.extend(_fault(rng, rng.uniform(0.0, 1.0), [f"host-{n}" for n in (1, 2)]))
    plan.entries.sort(key=lambda entry: entry.at)
    return plan


def workload_plan(seed: int, *, faults: bool = True) -> Plan:
    """Random work on a few servers of three hosts, with random faults; every fourth seed asks over HTTP."""
    rng = random.Random(seed)
    plan = Plan(seed, "workload" if faults else "quiet", servers=3, hosts=HOSTS_OF_WORKLOAD, http=seed % 4 == 3)
    hosts = [f"host-{n}" for n in range(1, plan.hosts + 1)]
    names, weights = list(WORK), list(WORK.values())
    pace_s = rng.choice((0.05, 0.25, 0.6))
    at = 0.0
    for _ in range(rng.randrange(8, 36)):
        at += rng.expovariate(1 / pace_s)
        what = rng.choices(names, weights)[0]
        whom = rng.choice(hosts) if what.endswith("_host") else str(rng.randrange(4))
        plan.entries.append(Entry(round(at, 3), what, whom, rng.random()))
        if rng.random() < 0.08:  # the impatient user: whatever it was, away with it
            plan.entries.append(Entry(round(at + rng.expovariate(1 / 0.05), 3), "delete", whom if not what.endswith("_host") else "0", rng.random()))
    for _ in range(rng.randrange(6) if faults else 0):
        plan.entries.extend(_fault(rng, rng.uniform(0.0, at), hosts))
    plan.entries.sort(key=lambda entry: entry.at)
    return plan


def _fault(rng: random.Random, at: float, hosts: list[str]) -> list[Entry]:
    what, host, at = rng.choice(FAULTS), rng.choice(hosts), round(at, 3)
    back = round(at + rng.uniform(0.05, 5.0), 3)
    if what == "kill_at":
        # kill -9 at the next passing of a named point, wherever that comes to be
        if rng.random() < 0.4:
            return [Entry(at, f"kill_at:{rng.choice(CONTROLLER_POINTS)}", "controller"), Entry(back, "start_controller")]
        return [Entry(at, f"kill_at:{rng.choice(POINTS)}", host), Entry(back, "start_agent", host)]
    if what == "kill_controller":
        return [Entry(at, what), Entry(back, "start_controller")]
    if what in ("kill_agent", "power_cut"):
        return [Entry(at, what, host), Entry(back, "start_agent", host)]
    if what == "lose_host":
        # the operator fences a machine that is truly off, and takes the fence away once it is back
        fenced = round(at + rng.uniform(0.1, 1.0), 3)
        back = round(fenced + rng.uniform(0.5, 8.0), 3)
        evacuated = [Entry(round(rng.uniform(fenced, back), 3), "evacuate", str(rng.randrange(4)), rng.random()) for _ in range(2)]
        if rng.random() < 0.4:  # and where its servers go, something is wrong too
            evacuated += [Entry(fenced, f"fail:{rng.choice(('launch', 'create_disk'))}", other, 1) for other in hosts if other != host]
        return [Entry(at, what, host), Entry(fenced, "fence", host), *evacuated, Entry(back, "unfence", host)]
    if what == "partition":
        return [Entry(at, what, host), Entry(back, "heal", host)]
    if what in ("fail", "slow"):
        return [Entry(at, f"{what}:{rng.choice(CALLS)}", host, rng.choice((1, 1, 2, 9)) if what == "fail" else rng.choice((0.05, 0.5, 40.0)))]
    if what == "crash_guest":
        return [Entry(at, what, host, rng.random())]
    return [Entry(at, what, host, 0.3)]


def is_fault(entry: Entry) -> bool:
    """Whether an entry breaks or mends something, rather than asking for it."""
    return entry.what in FAULTS or entry.what in MENDINGS or ":" in entry.what
