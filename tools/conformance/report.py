"""Writes the page of results: passed of the fixed list by service, and each test that did not pass, with why.

Reasons: `reasons.toml` holds sentences for what Virga does not do (block storage); a test that is not named
there is shown with the last line of its own failure, so that an unexplained failure looks like one.
"""

from __future__ import annotations

import argparse
import datetime
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fold import Verdict, count

HERE = Path(__file__).resolve().parent
MADE_BY = {"api": "conformance-all", "guest": "conformance-guest"}
COLUMNS = ("passed", "failed", "skipped", "notrun")


def reasons() -> list[tuple[re.Pattern[str], str]]:
    table = tomllib.loads((HERE / "reasons.toml").read_text())
    return [(re.compile(entry["tests"]), entry["why"]) for entry in table["reason"]]


def remark(list_name: str) -> dict[str, str]:
    """The letter each listed test carries: V needs block storage, F is excused by the guideline."""
    path = HERE / "lists" / f"{list_name}.txt"
    marks: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            found = re.search(r"(id-[0-9a-f-]{36}).*# ([VF]+) ", line)
            if found:
                marks[found.group(1)] = found.group(2)
    return marks


def why(verdict: Verdict, known: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, text in known if verdict.status == "skipped" else ():  # a decision explains a skip, never a failure
        if pattern.search(verdict.test):
            return text
    line = verdict.why.replace("|", "\\|").replace("<", "&lt;")
    return (
        re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\breq-[0-9a-f-]{36}", "…", line)[:260] or "no reason left behind"
    )


def page(verdicts: list[Verdict], took_s: float, values: dict[str, Any], args: argparse.Namespace) -> str:
    table = count(verdicts)
    marks = remark(args.list)
    without_v = [v for v in verdicts if "V" not in marks.get(v.uuid, "")]
    good = sum(v.status == "passed" for v in without_v)
    today = datetime.date.today().isoformat()
    total = table["total"]
    rest = f" Without those that need block storage: {good} of {len(without_v)}."
    rest = rest if len(without_v) != len(verdicts) else ""
    lines = [
        "# Conformance",
        "",
        f"Judged by OpenStack's own tests (tempest {version('tempest')}), list `{args.list}`, run on {today} "
        f"with {args.workers} workers in {took_s / 60:.1f} minutes, "
        f"compute API up to {values.get('MAX_MICROVERSION') or '-'}.",
        f"Made by one command (`make {MADE_BY.get(args.list, 'conformance')}`); nothing here is edited by hand. A skip is not a pass.",
        "",
        f"**Passed {total['passed']} of {len(verdicts)}.**{rest}",
        "",
        "| service | passed | failed | skipped | not run | of |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for service in [*sorted(s for s in table if s != "total"), "total"]:
        row = table[service]
        cells = " | ".join(str(row[c]) for c in COLUMNS)
        lines.append(f"| {service} | {cells} | {sum(row.values())} |")
    bad = [v for v in verdicts if v.status != "passed"]
    lines += ["", "## Not passed", ""]
    if not bad:
        lines.append("None.")
    known = reasons()
    groups: dict[str, list[Verdict]] = {}
    for verdict in bad:
        groups.setdefault(why(verdict, known), []).append(verdict)
    for text, members in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        lines += [f"### {len(members)}: {text}", ""]
        for verdict in members:
            flag = " (excused by the guideline)" if "F" in marks.get(verdict.uuid, "") else ""
            lines.append(f"- {verdict.status}: `{verdict.name}` {verdict.uuid}{flag}")
        lines.append("")
    if args.list == "interop":
        lines += with_guests(args.report) + long_list(args.report)
    return "\n".join(lines).rstrip() + "\n"


def with_guests(beside: Path) -> list[str]:
    """What the last `make conformance-guest` found of the tests that log in to a guest; nothing where it was never run."""
    other = beside.with_name("conformance-guest.md")
    if not other.exists():
        return []
    told = other.read_text().splitlines()
    head = [line for line in told if line.startswith(("Judged", "**Passed"))]
    return ["", "## With real guests", "", "Scenarios, moves and tests that log in to a guest, on QEMU guests "
            f"(`make conformance-guest`, [{other.name}]({other.name})).", *head]


def long_list(beside: Path) -> list[str]:
    """The figures of the last `make conformance-all`, taken over from its page; nothing where it was never run."""
    other = beside.with_name("conformance-api.md")
    if not other.exists():
        return []
    told, _, missed = other.read_text().partition("## Not passed")
    head, table = told.splitlines()[2:3], [line for line in told.splitlines()[4:] if line]
    sums = [line.removeprefix("### ") for line in missed.splitlines() if line.startswith("### ")]
    return [
        "",
        "## The long list",
        "",
        "Every tempest test of compute, network, identity v3 and image v2 that needs no block storage and no guest log-in "
        f"(`make conformance-all`; each test by name: [{other.name}]({other.name})).",
        *head,
        "",
        *[part for line in table for part in (([line, ""]) if line.startswith("**") else [line])],
        "",
        "Not passed, by reason:",
        "",
        *[f"- {text}" for text in sums],
    ]
