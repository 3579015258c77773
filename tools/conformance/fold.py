"""Folds a subunit stream into one verdict for every selected test.

Owns: what counts as passed.  The denominator is the list of selected tests, never what happened to run: a
set-up that failed or was skipped counts for each test of its class, and a test that left no word is "notrun".
Runs inside .venv-tempest, which carries subunit and testtools.
"""

from __future__ import annotations

import collections
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import subunit
import testtools

VERDICT = {"success": "passed", "xfail": "passed", "fail": "failed", "uxsuccess": "failed", "skip": "skipped"}
CLASS_EVENT = re.compile(r"(setUpClass|tearDownClass) \(([\w.]+)")


@dataclass
class Verdict:
    """`test` is the full id with its tags; `why` is the last line of a failure or the reason of a skip."""

    test: str
    status: str
    why: str = ""
    trace: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.test.split("[")[0]

    @property
    def service(self) -> str:
        parts = self.test.split(".")
        return parts[2] if parts[1] == "api" else parts[1]

    @property
    def uuid(self) -> str:
        found = re.search(r"id-[0-9a-f-]{36}", self.test)
        return found.group(0) if found else ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def cause(details: dict[str, Any]) -> tuple[str, str]:
    """(one line, whole text) of why a test did not pass."""
    for key in ("reason", "traceback"):
        if key in details:
            text = details[key].as_text()
            lines = [line for line in text.strip().splitlines() if line.strip()]
            # tempest ends many tracebacks with "Details: {...}", which says more than the line before it
            details_line = next((line for line in lines if line.startswith("Details:")), "")
            line = last_line(text)
            if details_line and not line.startswith("Details:"):
                line = f"{line} {details_line}"[:300]
            elif details_line and len(lines) > 1:
                line = f"{lines[-2].strip()} {details_line}"[:300]
            return line, text
    return "", ""


def fold(selected: list[str], stream: Path) -> tuple[list[Verdict], list[str]]:
    """Verdicts in the order of `selected`, and complaints about tear-downs that failed."""
    seen: dict[str, tuple[str, str, str, float]] = {}
    classes: dict[str, tuple[str, str, str]] = {}
    teardowns: list[str] = []

    def note(test: dict[str, Any]) -> None:
        if test["status"] == "exists":
            return  # announced by the worker, not run
        why, text = cause(test.get("details") or {})
        start, stop = test.get("timestamps") or (None, None)
        took = (stop - start).total_seconds() if start and stop else 0.0
        match = CLASS_EVENT.match(test["id"])
        if match is None:
            seen[test["id"]] = (test["status"], why, text, took)
        elif match.group(1) == "setUpClass":
            classes[match.group(2)] = (test["status"], why, text)
        elif test["status"] == "fail":
            teardowns.append(f"{match.group(2)}: {why}")

    with stream.open("rb") as source:
        result = testtools.StreamToDict(note)
        result.startTestRun()
        subunit.ByteStreamToStreamResult(source, non_subunit_name="stdout").run(result)
        result.stopTestRun()

    verdicts = []
    for test in selected:
        owner = test.split("[")[0].rsplit(".", 1)[0]
        if test in seen:
            status, why, text, took = seen[test]
            verdicts.append(Verdict(test, VERDICT.get(status, "notrun"), why, text, took))
        elif owner in classes:
            status, why, text = classes[owner]
            verdicts.append(Verdict(test, VERDICT.get(status, "notrun"), "set-up of the class: " + why, text))
        else:
            verdicts.append(
                Verdict(test, "notrun", "the run ended before this test, or its module did not load")
            )
    return verdicts, teardowns


def count(verdicts: list[Verdict]) -> dict[str, collections.Counter[str]]:
    """Counts by service, and under "total" for all."""
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for verdict in verdicts:
        table[verdict.service][verdict.status] += 1
        table["total"][verdict.status] += 1
    return dict(table)
