"""`virga demo`: a fresh cloud, the founding case through its public API, one revert drawn, one line that says how it went.

Owns: the child process (a real `virga up` on a free port, its output in a log file of the state folder) and the display.
Rules: the cloud is always a fresh one, so that the result is about this run; the child is stopped on every way out but --keep; exit code 0 only when
every revert that was due ended ACTIVE on its old host and no disk was lost. Each phase is a plain line; on a terminal a bar moves below.
With --json stdout is one JSON document and everything else goes to stderr.
Why a child and not the cloud in this process: what is shown must be what a user gets, with a real socket in between.
"""
from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from virga.cli import fail
from virga.cli_client import Client, ClientError, find_login
from virga.cli_draw import diagram_of, terminal_width
from virga.cli_founding import Founding, Outcome, Totals, count
from virga.cli_guests import RealFounding
from virga.runtime.env import Env, real_env

START_TIMEOUT_S = {"fake": 30.0, "libvirt": 120.0}
STATE_TIMEOUT_S = {"fake": 60.0, "libvirt": 300.0}
STOP_TIMEOUT_S = 40.0
SETTLE_S = 3.0
PLAIN_WIDTH = 120  # where there is no terminal to ask
DRAWINGS = "virga-demo"
PHASES = {"create": "create servers", "note": "note what the disks hold", "resize": "resize all", "revert": "revert all"}


class Child:
    """A cloud of our own in a process of its own. `under`: a command that starts it."""

    def __init__(self, env: Env, state: Path, options: list[str], under: Sequence[str] = ()) -> None:
        self.env, self.state = env, state
        self.log = state / "virga.log"
        with self.log.open("ab") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "virga.cli", "up", "--state", str(state), "--listen", "127.0.0.1:0", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    async def ready(self, timeout_s: float) -> None:
        """Until the hosts are connected. Raises ClientError with the cloud's own last word."""
        end = self.env.monotonic() + timeout_s
        while "hosts are connected" not in self._said():
            if self.process.poll() is not None or self.env.monotonic() > end:
                lines = [line for line in self._said().splitlines() if line.strip()]
                said = lines[-1].removeprefix("virga: ") if lines else "it said nothing"
                why = f"ended with code {self.process.returncode}" if self.process.poll() is not None else f"was not ready after {timeout_s:.0f} s"
                raise ClientError(f"the cloud {why}: {said}")
            await self.env.sleep(0.02)

    def unreachable(self) -> bool:
        """Whether the cloud has said that its guests cannot be reached from this machine."""
        return "floating IPs will not be reachable" in self._said()

    def _said(self) -> str:
        """What this process has written so far (the log may hold earlier ones)."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode("utf-8", "replace")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when that is not enough."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Display:
    """A line a phase when it is through; on a terminal a bar below them for the one under way."""

    def __init__(self, console: Console, env: Env, servers: int) -> None:
        self.console, self.env, self.servers = console, env, servers
        self.round = ""
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
                                 transient=True)
            self._bar.start()
        self._task: Any = None
        self._began = 0.0

    def say(self, phase: str, done: int) -> None:
        text = self.round + PHASES[phase]
        if done == 0:
            self._began = self.env.monotonic()
            if self._bar is not None:
                self._task = self._bar.add_task(text, total=self.servers)
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        if done == self.servers:
            if self._bar is not None:
                self._bar.remove_task(self._task)
            self.console.print(f"{text}: {done} of {self.servers} in {self.env.monotonic() - self._began:.2f} s", highlight=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def folder_for(state: str | None) -> tuple[Path, bool]:
    """The state folder and whether it is ours to remove. Raises ClientError for one that holds a cloud already."""
    if state is None:
        return Path(tempfile.mkdtemp(prefix="virga-demo-")), True
    path = Path(state)
    if (path / "virga.db").exists():
        raise ClientError(f"{path} holds a cloud already, and the demo wants a fresh one: choose another --state, or leave it out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(f"cannot use {path}: {error.strerror}") from error
    return path, False


def drawings_folder(wanted: str | None) -> Path:
    """Where the drawings go; beside the temporary files when the current folder cannot be written."""
    path = Path(wanted or DRAWINGS)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if wanted is not None:
            raise ClientError(f"cannot use {path}: {error.strerror}") from error
        path = Path(tempfile.mkdtemp(prefix="virga-drawings-"))
    return path.absolute()


async def settled(env: Env, client: Client, server_id: str) -> None:
    """Until the last operation's commands are all answered (the purge of the other host comes after ACTIVE), so that the drawing is whole."""
    for _ in range(int(SETTLE_S / 0.05)):
        told = (await client.get("virga", f"/servers/{server_id}/explain"))["explanation"]["operation"]
        if told is None or all(command["state"] != "pending" for command in told["commands"]):
            return
        await env.sleep(0.05)


async def draw_one(env: Env, client: Client, outcome: Outcome, folder: Path, width: int) -> tuple[Path, str]:
    """The revert of one server as revert.svg, revert.txt and revert.mmd; returns the SVG's path and the text."""
    await settled(env, client, outcome.server_id)
    diagram = await diagram_of(client, outcome.server_id, outcome.server, "revert")
    text = diagram.text(width)
    (folder / "revert.svg").write_text(diagram.svg(), encoding="utf-8")
    (folder / "revert.txt").write_text(text, encoding="utf-8")
    (folder / "revert.mmd").write_text(diagram.mermaid(), encoding="utf-8")
    return folder / "revert.svg", text


def table_of(outcomes: list[Outcome]) -> Table:
    table = Table(title="resize and revert")
    real = any(outcome.gap_s is not None for outcome in outcomes)
    extra = ("wired s", "back s", "ping gap s") if real else ()
    for name in ("server", "round", "resize s", "revert s", *extra, "status", "host", "disk"):
        table.add_column(name, justify="right" if name.endswith(" s") or name == "round" else "left")
    for outcome in outcomes:
        style = "" if outcome.good else "red"
        more = [seconds(value) for value in (outcome.wired_s, outcome.back_s, outcome.gap_s)] if real else []
        table.add_row(outcome.server, str(outcome.round), seconds(outcome.resize_s), seconds(outcome.revert_s), *more, outcome.status, outcome.host,
                      outcome.disk, style=style)
    return table


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class Result(msgspec.Struct):
    """What --json prints."""

    summary: str
    passed: bool
    totals: Totals
    outcomes: list[Outcome]
    drawing: str
    cloud: str
    state: str
    pid: int | None = None


class Demo:
    """One run. `console` is where people read; stdout of --json stays clean."""

    def __init__(self, console: Console, *, servers: int, rounds: int, folder: Path, hypervisor: str) -> None:
        self.env = real_env("demo")
        self.console, self.servers, self.rounds, self.folder, self.hypervisor = console, servers, rounds, folder, hypervisor
        self.outcomes: list[Outcome] = []

    async def run(self, child: Child) -> Result:
        began = self.env.monotonic()
        await child.ready(START_TIMEOUT_S[self.hypervisor])
        if child.unreachable():
            raise ClientError("another cloud of emulated hosts runs on this machine and has its floating addresses; stop that one first")
        login = find_login(str(child.state))
        where = login.auth_url.removesuffix("/identity/v3")
        self._line(f"a fresh cloud is up at {where} after {self.env.monotonic() - began:.2f} s; its state is in {child.state}")
        display = Display(self.console, self.env, self.servers)
        try:
            async with Client(login) as client:
                story = self._story(client, display, child.state)
                try:
                    await story.prepare()
                    for number in range(1, self.rounds + 1):
                        display.round = f"round {number}: "
                        self.outcomes += await story.round(number)
                finally:
                    story.close()
                display.close()
                drawing = await self._draw(client)
        finally:
            display.close()
        totals = count(self.outcomes)
        passed = totals.reverts == totals.active == self.servers * self.rounds and not totals.error and not totals.disks_lost
        if self.hypervisor == "libvirt":  # there every disk can be asked, so "not known to be lost" is not enough
            passed = passed and all(outcome.disk == "kept" for outcome in self.outcomes)
        return Result(totals.line, passed, totals, self.outcomes, drawing, login.auth_url, str(child.state))

    def _story(self, client: Client, display: Display, state: Path) -> Founding:
        timeout_s = STATE_TIMEOUT_S[self.hypervisor]
        if self.hypervisor == "libvirt":
            return RealFounding(self.env, client, servers=self.servers, say=display.say, folder=state, timeout_s=timeout_s)
        return Founding(self.env, client, servers=self.servers, say=display.say, timeout_s=timeout_s)

    async def _draw(self, client: Client) -> str:
        drawn = next((outcome for outcome in reversed(self.outcomes) if outcome.reverted), None)
        if drawn is None:
            return ""
        path, text = await draw_one(self.env, client, drawn, self.folder, min(terminal_width(), 150))
        self._line("")
        self.console.print(text, highlight=False, markup=False, no_wrap=True, crop=False, overflow="ignore")
        return str(path)

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def tell(console: Console, demo: Demo, result: Result) -> None:
    """The table, what went wrong, where the drawing is."""
    console.print(table_of(demo.outcomes))
    for outcome in demo.outcomes:
        if outcome.why:
            console.print(f"{outcome.server} in round {outcome.round}: {outcome.why}", highlight=False, markup=False, soft_wrap=True)
    if result.drawing:
        text = f"one revert, drawn from what happened: {result.drawing} (and .txt, .mmd beside it)"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


@click.command(name="demo")
@click.option("--servers", type=click.IntRange(1, 100), default=5, show_default=True, help="Servers to move.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Times all are resized and reverted.")
@click.option("--hosts", type=click.IntRange(2, 100), default=None, help="Hosts of the cloud (default 2; 3 with libvirt).")
@click.option("--hypervisor", type=click.Choice(["fake", "libvirt"]), default="fake", show_default=True, help="Emulated, or real (root).")
@click.option("--virt-type", type=click.Choice(["kvm", "qemu"]), default=None, help="For libvirt: kvm or qemu (slow, works anywhere).")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, exists=True), default=None, help="TOML file for the cloud.")
@click.option("--state", type=click.Path(file_okay=False), default=None, help="Folder for the cloud's state (default: a temporary one).")
@click.option("--output", type=click.Path(file_okay=False), default=None, help=f"Folder for the drawings (default ./{DRAWINGS}).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; everything else on stderr.")
@click.option("--keep", is_flag=True, help="Leave the cloud running and say how to reach and stop it.")
def command(
    servers: int, rounds: int, hosts: int | None, hypervisor: str, virt_type: str | None, config_file: str | None, state: str | None, output: str | None,
    as_json: bool, keep: bool,
) -> None:
    """Run the founding case on a fresh cloud: create servers, resize all, revert all, and see that every one and every disk came back."""
    console = Console(stderr=as_json, soft_wrap=False, width=None if (sys.stderr if as_json else sys.stdout).isatty() else PLAIN_WIDTH)
    child: Child | None = None
    ours, kept = False, False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill must not leave the cloud behind either
    try:
        path, ours = folder_for(state)
        demo = Demo(console, servers=servers, rounds=rounds, folder=drawings_folder(output), hypervisor=hypervisor)
        options = ["--hosts", str(hosts or (3 if hypervisor == "libvirt" else 2)), "--hypervisor", hypervisor]
        options += ["--virt-type", virt_type] if virt_type else []
        options += ["--config", config_file] if config_file else []
        child = Child(demo.env, path, options)
        result = asyncio.run(demo.run(child))
        if keep:
            kept, result.pid = True, child.process.pid
        tell(console, demo, result)
        if kept:
            how_to_reach(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), child)
    except ClientError as error:
        fail(str(error))
        return
    except KeyboardInterrupt:
        fail("interrupted; the cloud is stopped")
        return
    finally:
        if child is not None and not kept:
            child.stop()
        if ours and not kept:
            shutil.rmtree(path, ignore_errors=True)
    click.echo(msgspec.json.format(msgspec.json.encode(result)).decode() if as_json else result.summary)
    sys.exit(0 if result.passed else 1)


def how_to_reach(line: Callable[[str], None], child: Child) -> None:
    line(f"the cloud goes on as process {child.process.pid}; its log is {child.log}")
    line(f"reach it:  OS_CLIENT_CONFIG_FILE={child.state / 'clouds.yaml'} openstack --os-cloud virga server list")
    line(f"draw:      virga draw demo-1 --operation revert --state {child.state}")
    line(f"stop it:   kill {child.process.pid}")


