"""`make bench`: measure this machine, print a table with the targets beside the figures, write bench/results.json.

    python bench/run.py [--only start,sequence,many,lists,storage,sim] [--port 18787] [--json FILE]

Exit code 1 when a case could not be measured; a missed target is shown, and is no failure of the measurement.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from bench.cases import CASES, Row
from bench.cloud import machine_line

RESULTS = Path(__file__).resolve().parent / "results.json"


def table(rows: list[Row], machine: dict[str, object]) -> Table:
    shown = Table(title=f"Virga on {machine['cores']} cores of {machine['cpu']}", title_justify="left")
    shown.add_column("measure")
    shown.add_column("value", justify="right")
    shown.add_column("target", justify="right")
    shown.add_column("", justify="center")
    for row in rows:
        target = "" if row.target is None else f"{'<' if row.best == 'below' else '>='} {row.target:g} {row.unit}"
        mark = {None: "", True: "[green]ok[/]", False: "[red]missed[/]"}[row.met]
        name = row.name + (f" ({row.note})" if row.note else "")
        shown.add_row(name, f"{number(row.value)} {row.unit}", target, mark)
    return shown


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Virga on this machine.")
    parser.add_argument("--only", default=",".join(CASES), help=f"comma-separated cases out of {', '.join(CASES)}")
    parser.add_argument("--port", type=int, default=18787, help="port of the measured cloud (default 18787)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go (default bench/results.json)")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name]
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    console = Console(stderr=True)
    machine = machine_line()
    began = time.monotonic()
    rows: list[Row] = []
    failed: list[str] = []
    for name in names:
        try:
            rows += asyncio.run(CASES[name](options.port, lambda text: console.print(f"{time.monotonic() - began:6.1f} s  {text}", highlight=False)))
        except (RuntimeError, OSError, TimeoutError) as error:
            failed.append(f"{name}: {error}")
    out = Console(width=max(100, Console().width) if not sys.stdout.isatty() else None)
    out.print(table(rows, machine))
    for text in failed:
        out.print(f"not measured: {text}", markup=False, highlight=False, soft_wrap=True)
    busy = "" if float(str(machine["load_before"])) < 0.5 else "; a busy machine makes these times worse than they are"
    load = f"load average before: {machine['load_before']}, now {os.getloadavg()[0]:.2f}"
    out.print(f"figures in {options.json}; {load}{busy}", highlight=False, soft_wrap=True)
    told = {"machine": machine, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": [row._asdict() | {"met": row.met} for row in rows], "failed": failed}
    options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
