"""`virga draw`: what happened to a server, as a sequence diagram, from the events the cloud has kept.

Owns: which events belong in the picture, and the order of its columns (API, engine, store, hosts; the host a move started from comes first).
Rules: only stored events are drawn; nothing is made up. An operation's events carry its id, also those that hosts cause, so one operation is one
filter. Without --output the drawing goes to stdout, so that it can be piped.
"""
from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import click
import msgspec

from virga.cli import fail
from virga.cli_client import Client, ClientError, Refused, find_login
from virga.runtime.sequence import Diagram
from virga.runtime.trace import Event

NAMES = {"api": "API", "ops": "engine", "store": "store"}
TEXT_WIDTH_MIN, TEXT_WIDTH_DEFAULT = 100, 130


async def find(client: Client, server: str) -> tuple[str, str]:
    """(id, name) of a server by id or name; a deleted one by id only."""
    try:
        found = await client.find_server(server)
    except ClientError as error:
        try:
            told = await client.get("virga", f"/servers/{server}/explain") if "/" not in server else None
        except Refused:
            told = None
        if told is None:
            raise error from None
        found = told["explanation"]["server"]
    return str(found["id"]), str(found["name"])


async def choose_operation(client: Client, server_id: str, wanted: str) -> dict[str, Any]:
    """`wanted` is last, a kind (revert, resize, ...: the newest of it), or an id or its beginning. Raises ClientError."""
    operations: list[dict[str, Any]] = (await client.get("virga", f"/operations?server={server_id}"))["operations"]
    if not operations:
        raise ClientError("nothing is recorded about this server: no operation was ever done on it, or it was long ago")
    for op in operations:
        if wanted in ("last", op["kind"]) or (len(wanted) >= 4 and op["id"].startswith(wanted)):
            return op
    known = ", ".join(f"{op['kind']} {op['id'][:8]}" for op in operations[:8])
    raise ClientError(f"no operation {wanted!r} on this server; there are: {known}")


async def diagram_of(client: Client, server_id: str, name: str, wanted: str = "last") -> Diagram:
    """The diagram of one operation, or of everything kept about the server (`wanted` all). Raises ClientError."""
    told = (await client.get("virga", f"/servers/{server_id}/explain"))["explanation"]
    under_way = False
    if wanted == "all":
        query, title = "", f"Everything kept about server {name}"
    else:
        op = await choose_operation(client, server_id, wanted)
        query = f"?operation={op['id']}"
        under_way = not op["ended_at"]
        took = f" in {op['ended_at'] - op['started_at']:.3f} s" if op["ended_at"] else ", under way"
        title = f"{op['kind']} of server {name}: {op['state']}{took} ({op['request_id']})"
    found = (await client.get("virga", f"/servers/{server_id}/events{query}"))["events"]
    if not found:
        raise ClientError("the events of this operation are no longer kept")
    events = [msgspec.convert({**event, "number": event["id"]}, Event, strict=False) for event in found]
    if under_way:  # so that an open wait shows how long it has lasted
        events.append(Event(events[-1].number + 1, told["now"], "note", "", "", "now: still under way"))
    move = told["migration"] or {}
    actors = dict.fromkeys(actor for event in events for actor in (event.src, event.dst) if actor)
    hosts = [actor for actor in dict.fromkeys((move.get("source"), move.get("dest"))) if actor in actors]
    order = [*(actor for actor in NAMES if actor in actors), *hosts]
    order += [actor for actor in actors if actor not in order]
    return Diagram.from_events(events, title, {actor: NAMES.get(actor, actor) for actor in order})


def render(diagram: Diagram, form: str, width: int) -> str:
    return diagram.svg() if form == "svg" else diagram.mermaid() if form == "mermaid" else diagram.text(width)


@click.command(name="draw")
@click.argument("server")
@click.option("--operation", default="last", show_default=True, metavar="ID|KIND|last|all",
              help="Which operation: an id (or its beginning), a kind such as revert (the newest), the last one, or all.")
@click.option("--format", "form", type=click.Choice(["text", "svg", "mermaid"]), default="text", show_default=True, help="Kind of drawing.")
@click.option("--output", type=click.Path(dir_okay=False), default=None, help="File to write; without it the drawing goes to stdout.")
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters a line of the text drawing (default: the terminal's).")
@click.option("--state", type=click.Path(file_okay=False), default=None, help="State folder of a cloud started with `virga up`.")
@click.option("--os-cloud", default=None, help="A cloud of clouds.yaml instead.")
def command(server: str, operation: str, form: str, output: str | None, width: int | None, state: str | None, os_cloud: str | None) -> None:
    """Draw what happened to SERVER (name or id) as a sequence diagram, from what really happened."""

    async def work() -> str:
        async with Client(find_login(state, os_cloud)) as client:
            server_id, name = await find(client, server)
            return render(await diagram_of(client, server_id, name, operation), form, width or terminal_width())

    try:
        drawing = asyncio.run(work())
        if output is None:
            click.echo(drawing, nl=False)
        else:
            Path(output).write_text(drawing, encoding="utf-8")
            click.echo(f"drawn into {output}")
    except ClientError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {output}: {error.strerror}")


def terminal_width() -> int:
    return max(TEXT_WIDTH_MIN, shutil.get_terminal_size((TEXT_WIDTH_DEFAULT, 40)).columns)
