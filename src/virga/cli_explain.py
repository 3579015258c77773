"""`virga explain`: one page that tells a person what a server waits for, since when, who has to act, and what ends it.

Owns: only the page; what stands on it comes from /virga/v1/servers/{id}/explain, and every age is counted by the cloud's own clock.
Order of the page: where the server is; the operation and its steps with what ended each; what is awaited and what ends it; then each host's view
(connected or not, its guest, its ports, each with epoch or generation) with a mark where host and intent differ. A finished operation is told as a
story that ended; a fault is always told. --json prints the answer itself.
"""
from __future__ import annotations

import asyncio
import datetime
from typing import Any

import click
import msgspec

from virga.cli import fail
from virga.cli_client import Client, ClientError, find_login
from virga.cli_draw import find

MARKS = {"done": "✓", "failed": "✗", "begun": "▸", "undo-begun": "↺", "undone": "↺", None: "·"}
GUESTS = {
    "absent": "no guest here", "held": "guest started, held before its first instruction", "running": "guest running", "stopped": "guest stopped",
    "paused": "guest paused", "suspended": "guest suspended", "kept": "guest shut down and unplugged, disk put aside", "crashed": "guest crashed",
    "incoming": "place ready for a guest that comes running",
}


def ago(now: float, then: float | None) -> str:
    return "never" if not then else f"{span(now - then)} ago"


def span(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%H:%M:%S")


def page(told: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    now = told["now"]
    lines = server_lines(told["server"], now)
    op = told["operation"]
    if op is None:
        lines += ["", "No operation is recorded for it."]
    else:
        lines += ["", *operation_lines(op, now)]
    if told["migration"]:
        move = told["migration"]
        lines += ["", f"migration {move['id']} ({move['kind']}): {move['status']}, {move['source']} -> {move['dest'] or 'not chosen yet'}"]
    if told["hosts"]:
        lines += ["", "what the hosts say"]
        for host in told["hosts"]:
            lines += host_lines(host, told["server"], op, now)
    return lines


def server_lines(server: dict[str, Any], now: float) -> list[str]:
    where = f" on {server['host']}" if server["host"] else ""
    task = f", task {server['task_state']}" if server["task_state"] else ""
    lines = [f"server {server['name']} ({server['id']}): {server['status']}{where} (vm_state {server['vm_state']}{task}, epoch {server['epoch']})"]
    flavor = f"flavor {server['flavor']}"
    lines.append(f"  {flavor}" + (f"; {server['old_flavor']} is kept for the way back" if server["old_flavor"] else ""))
    if server["locked"]:
        lines.append("  it is locked: only an administrator, or `openstack server unlock`, lets users change it")
    if server["deleted_at"]:
        lines.append(f"  it was deleted {ago(now, server['deleted_at'])}")
    if server["fault"]:
        lines.append(f"  fault ({ago(now, server['fault']['created_at'])}): {server['fault']['message']}")
    return lines


def operation_lines(op: dict[str, Any], now: float) -> list[str]:
    is_open = op["state"] in ("running", "undoing")
    if is_open:
        word = "under way" if op["state"] == "running" else "turning back"
        head = f"{op['kind']} is {word} since {span(now - op['started_at'])}"
    else:
        head = f"last operation: {op['kind']}, {op['state']} {ago(now, op['ended_at'])} after {span(op['ended_at'] - op['started_at'])}"
    lines = [f"{head}  (operation {op['id'][:8]}, request {op['request_id']}, epoch {op['epoch']})"]
    if op["error"]:
        lines.append(f"  {'because' if is_open else 'it failed because'}: {op['error']}")
    for step in op["steps"]:
        lines.append(step_line(step, now))
    open_commands = [command for command in op["commands"] if command["state"] == "pending" and not is_open]
    for command in open_commands:
        lines.append(f"  still in the outbox: '{command['verb']}' for {command['host']}, since {span(now - command['made_at'])}")
    return lines


def step_line(step: dict[str, Any], now: float) -> str:
    mark = MARKS.get(step["state"], "·")
    text = f"  {mark} {step['name']:<14}"
    if step["state"] is None:
        return text + "not begun"
    if step["state"] == "begun":
        return text + f"begun {ago(now, step['begun_at'])}, not finished"
    if step["state"] in ("undo-begun", "undone"):
        begun = step["undo_begun_at"]
        text += "undone" if step["state"] == "undone" else f"being undone since {span(now - begun)}"
        return text + (f" (it had failed: {step['error']})" if step["error"] else "")
    took = span((step["ended_at"] or now) - step["begun_at"])
    told = step["error"] or step["ended_by"]
    return text + f"{'failed' if step['state'] == 'failed' else 'done'} after {took}" + (f": {told}" if told else "")


def waiting_lines(told: dict[str, Any]) -> list[str]:
    """What is awaited and what ends it, for an operation under way."""
    op, now = told["operation"], told["now"]
    if op is None or op["state"] not in ("running", "undoing"):
        return []
    since = f" since {span(now - op['waiting_since'])}" if op["waiting_since"] else ""
    deadline = f", deadline {clock(op['deadline_at'])} (in {span(op['deadline_at'] - now)})" if op["deadline_at"] else ""
    lines = ["", f"step {op['step']} waits{since}{deadline}"]
    lines += [f"  {reason}" for reason in (op["waiting"] or "nothing is recorded as awaited").split("; ")]
    lines += ["what ends it", *(f"  - {text}" for text in told["ends"])]
    return lines


def host_lines(host: dict[str, Any], server: dict[str, Any], op: dict[str, Any] | None, now: float) -> list[str]:
    if not host["known"]:
        state = "no longer a host of this cloud"
    elif host["forced_down"]:
        state = "marked down by an operator (fenced: nothing can run there)"
    elif host["state"] == "up":
        state = f"connected, session {host['session']}"
    else:
        state = f"NOT CONNECTED, last seen {ago(now, host['seen_at'])}"
    extra = ", disabled" if host["disabled"] else ""
    lines = [f"  {host['name']}: {state}{extra}" + (" - the server's host" if host["name"] == server["host"] else "")]
    guest = host["guest"]
    if guest is None:
        lines.append("    guest: never heard of")
    else:
        wanted = op["epoch"] if op is not None else server["epoch"]
        stale = "" if guest["epoch"] >= wanted else f", older than the operation's {wanted}: does not count yet"
        told = GUESTS.get(guest["state"], guest["state"])
        disk = "disk here" if guest["disk"] else "no disk here"
        lines.append(f"    guest: {told}; {disk}  (epoch {guest['epoch']}{stale}; said {ago(now, guest['at'])})")
    for port in host["ports"]:
        lines.append("    " + port_line(port, now))
    return lines


def port_line(port: dict[str, Any], now: float) -> str:
    binding, wiring = port["binding"], port["wiring"]
    wanted = f"binding {binding['state']}, generation {binding['generation']}" if binding else "no binding"
    if wiring is None:
        seen = "the host has said nothing"
    else:
        word = "wired" if wiring["wired"] else "not wired"
        why = f": {wiring['detail']}" if wiring["detail"] else ""
        seen = f"the host says {word} at generation {wiring['generation']} ({ago(now, wiring['at'])}){why}"
    differs = binding and (wiring is None or not wiring["wired"] or wiring["generation"] != binding["generation"])
    return f"port {port['id'][:8]}: {wanted}; {seen}" + ("  <- differs" if differs else "")


@click.command(name="explain")
@click.argument("server")
@click.option("--state", type=click.Path(file_okay=False), default=None, help="State folder of a cloud started with `virga up`.")
@click.option("--os-cloud", default=None, help="A cloud of clouds.yaml instead.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
def command(server: str, state: str | None, os_cloud: str | None, as_json: bool) -> None:
    """Tell what SERVER (name or id) waits for, since when, who has to act and what ends it; or how its last operation ended."""

    async def work() -> dict[str, Any]:
        async with Client(find_login(state, os_cloud)) as client:
            server_id, _ = await find(client, server)
            told: dict[str, Any] = (await client.get("virga", f"/servers/{server_id}/explain"))["explanation"]
            return told

    try:
        told = asyncio.run(work())
    except ClientError as error:
        fail(str(error))
        return
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    lines = page(told)
    waits = waiting_lines(told)
    cut = lines.index("what the hosts say") - 1 if waits and "what the hosts say" in lines else len(lines)
    click.echo("\n".join([*lines[:cut], *waits, *lines[cut:]]))
