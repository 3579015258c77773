"""The model beside the cloud: which requests must be refused, what state each server must end in, and the bytes it must hold.

Owns: `verdict` (may this request be accepted, judged from the rows alone, in the compute API's words of states) and `Model`, which notes what the
plan does to guests and their disks, and afterwards replays every server's operations over a machine of a few lines. It shares no code with ops: the
tables here are read from the compute API's documented states, so that a change in ops that nobody meant shows up as a difference.
Rules: where chaos makes more than one outcome right (a guest crashed while it was being stopped), the model holds the set of them; with no fault in
the plan the sets have one element, and no operation may end other than done or for want of a host.
Order within a server is by epoch, which rises with every operation: virtual times may be equal, epochs are not.
"""
from __future__ import annotations

import msgspec

from virga.domain.operation import DONE, FAILED, OPEN, SUPERSEDED, UNDONE, Action, Operation
from virga.domain.placement import UP, Host
from virga.domain.server import (
    ACTIVE,
    BUILDING,
    DELETED,
    ERROR,
    PAUSED,
    RESCUED,
    RESIZED,
    SHELVED,
    SHELVED_OFFLOADED,
    STOPPED,
    SUSPENDED,
    Server,
)
from virga.sim.invariants import Broken
from virga.sim.people import Answer, Request, flavor_for
from virga.sim.world import World
from virga.store.db import Tx

# request -> states of the server in which the compute API takes it (API reference, "Server concepts" and each action's preconditions)
TAKEN = {
    "stop": (ACTIVE, ERROR), "start": (STOPPED,), "reboot": (ACTIVE,), "reboot_hard": (ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR),
    "pause": (ACTIVE,), "unpause": (PAUSED,), "suspend": (ACTIVE,), "resume": (SUSPENDED,), "rebuild": (ACTIVE, STOPPED, ERROR),
    "resize": (ACTIVE, STOPPED), "migrate": (ACTIVE, STOPPED), "confirm": (RESIZED,), "revert": (RESIZED,), "live_migrate": (ACTIVE, PAUSED),
    "evacuate": (ACTIVE, STOPPED, ERROR), "attach": (ACTIVE, PAUSED, STOPPED), "detach": (ACTIVE, PAUSED, STOPPED),
    "snapshot": (ACTIVE, STOPPED, PAUSED, SUSPENDED), "shelve": (ACTIVE, STOPPED, PAUSED, SUSPENDED), "unshelve": (SHELVED, SHELVED_OFFLOADED),
    "shelve_offload": (SHELVED,), "rescue": (ACTIVE, STOPPED, ERROR), "unrescue": (RESCUED,),
}
ADMIN_ONLY = ("migrate", "live_migrate", "evacuate", "shelve_offload", "reset_state", "disable_host", "enable_host")
NEEDS_DISK_HOST_UP = ("resize", "migrate", "live_migrate")
RECONNECT_S = 20.0  # [compute] host_reconnect_timeout: a host that has just lost its connection counts as one that will be back
ACCEPT, REFUSE, EITHER = "accept", "refuse", "either"


def verdict(tx: Tx, request: Request) -> str:
    """What the answer has to be, from the rows as they are now. EITHER where the rows alone do not say (quota, ports)."""
    what = request.what
    if what in ADMIN_ONLY and not request.admin:
        return EITHER  # a role is the front door's business: ops is asked by those the door has let in
    if what == "boot" or what.endswith("_host"):
        return ACCEPT
    server = tx.get(Server, request.server_id)
    if server is None or server.deleted_at is not None:
        return REFUSE
    if what == "unlock":
        return ACCEPT
    if what == "lock":
        return ACCEPT
    op = tx.get(Operation, server.operation_id) if server.operation_id else None
    if what == "reset_state":
        nowhere = op is None and server.host is None and request.die < 0.5
        return REFUSE if nowhere or (op is not None and op.kind == "delete") else ACCEPT
    if server.locked and not request.admin:
        return REFUSE
    if what == "delete":
        return ACCEPT
    if server.vm_state not in TAKEN[what] or op is not None or server.task_state is not None:
        return REFUSE
    return _verdict_of_place(tx, request, server)


def _verdict_of_place(tx: Tx, request: Request, server: Server) -> str:
    """The part that depends on where the server is, and on what else it asks for."""
    what = request.what
    host = tx.get(Host, server.host) if server.host else None
    if host is None and what not in ("unshelve",):
        return REFUSE
    up = host is not None and host.state == UP and not host.forced_down
    back_soon = host is not None and not up and not host.forced_down and tx.now - host.seen_at < RECONNECT_S
    if what in NEEDS_DISK_HOST_UP and not up and not back_soon:
        return REFUSE
    if what == "evacuate" and up:
        return REFUSE
    if what == "resize":
        flavor = flavor_for(server, request.die)
        if flavor.id == server.flavor.id or flavor.disk_gb < server.flavor.disk_gb:
            return REFUSE
        return ACCEPT
    return EITHER if what in ("detach", "shelve_offload", "unshelve") else ACCEPT


def check_answer(tx: Tx, request: Request, wanted: str, answer: Answer) -> None:
    """Raises Broken for an answer the model does not allow, and for any 5xx."""
    if answer.status >= 500:
        raise Broken("model-answers", f"{request.what} of {request.server_id} was answered {answer.status}: {answer.message}")
    if answer.status == 0 or wanted == EITHER:
        return
    if answer.accepted != (wanted == ACCEPT):
        server = tx.get(Server, request.server_id) if request.server_id else None
        told = f"{server.vm_state}/{server.task_state}" if server else "no such server"
        raise Broken("model-answers", f"{request.what} of {request.server_id} ({told}) was answered {answer.status} {answer.message!r}, not {wanted}ed")


class Note(msgspec.Struct):
    """What happened to a server outside its operations. `during`: the operation open at that time, if any."""

    epoch: int
    what: str  # write, crash, reset
    value: bytes = b""
    during: str = ""


class Fate(msgspec.Struct):
    """What the replay knows of one server so far."""

    states: set[str]
    markers: list[bytes] = []  # markers its disk must hold, in order
    saved: list[bytes] = []  # what the disk kept at the source of an unconfirmed move holds
    gone: list[bytes] = []  # markers given up by a revert or a new disk: they must not come back
    unsure: list[bytes] = []  # markers it may hold or not
    was: set[str] = set()  # the states before the move
    placed: bool = True


class Model:
    """Notes during the run; `judge` after it. `quiet`: the plan has no faults, so nothing may go wrong."""

    def __init__(self, world: World, quiet: bool) -> None:
        self.world = world
        self.quiet = quiet
        self.notes: dict[str, list[Note]] = {}
        self.snapshots: dict[str, list[bytes]] = {}

    def _row(self, server_id: str) -> Server | None:
        return self.world.look(lambda tx: tx.get(Server, server_id))

    def note(self, server_id: str, what: str, value: bytes = b"") -> None:
        server = self._row(server_id)
        if server is not None:
            self.notes.setdefault(server_id, []).append(Note(server.epoch, what, value, server.operation_id or ""))

    def write(self, server_id: str, marker: bytes) -> bool:
        """The guest writes a marker to its disk, if it runs and nothing is under way, so that its place in the story is certain."""
        server = self._row(server_id)
        if server is None or server.operation_id is not None or server.host not in self.world.machines:
            return False
        machine = self.world.machines[server.host]
        if server.vm_state not in (ACTIVE, RESIZED) or machine.guests().get(server_id) != "running":
            return False
        machine.write(server_id, marker)
        self.note(server_id, "write", marker)
        return True

    def crash(self, server_ids: list[str]) -> None:
        """These guests stopped by themselves."""
        for server_id in server_ids:
            self.note(server_id, "crash")

    def reset(self, server_id: str, state: bytes) -> None:
        """An administrator has asked to reset a state; its instance action tells whether that came about, if no answer did."""
        done = self.world.look(lambda tx: tx.count(Action, server_id=server_id, action="resetState"))
        if done > sum(1 for note in self.notes.get(server_id, []) if note.what == "reset"):
            self.note(server_id, "reset", state)

    # afterwards -----------------------------------------------------------------------------------------------------
    def judge(self) -> dict[str, int]:
        """Raises Broken where the cloud differs; returns how many servers are in which state."""
        counted: dict[str, int] = {}
        for server_id in self.world.servers:
            server = self._row(server_id)
            assert server is not None
            counted[server.vm_state] = counted.get(server.vm_state, 0) + 1
            ops = self.world.look(lambda tx: tx.find(Operation, server_id=server_id, sort=[("epoch", False)]))  # noqa: B023 - called at once
            fate = self._replay(ops, self.notes.get(server_id, []))
            if server.vm_state not in fate.states:
                told = ", ".join(f"{op.kind} {op.state}" for op in ops)
                raise Broken("model-states", f"server {server_id} is {server.vm_state}, and should be {' or '.join(sorted(fate.states))} after {told}")
            self._judge_bytes(server, fate)
        for image_id, markers in self.snapshots.items():
            data = self.world.images.data.get(image_id, b"")
            lost = [marker for marker in markers if marker not in data]
            if lost:
                raise Broken("bytes-kept", f"image {image_id} lacks {lost[0]!r}")
        return counted

    def _replay(self, ops: list[Operation], notes: list[Note]) -> Fate:
        fate = Fate({BUILDING})
        left = list(notes)
        for op in ops:
            for note in [note for note in left if note.epoch < op.epoch and note.during != op.id]:
                left.remove(note)
                _apply(fate, note)
            meanwhile = [note for note in left if note.during == op.id or (note.what == "reset" and note.epoch == op.epoch and "reset_to" in op.notes)]
            self._end(fate, op)
            for note in meanwhile:
                left.remove(note)
                if note.what != "reset":  # that is part of how the operation ended
                    _apply(fate, note)
        for note in left:
            _apply(fate, note)
        return fate

    def _end(self, fate: Fate, op: Operation) -> None:
        """What an ended operation has made of its server."""
        if op.state in OPEN:
            raise Broken("operations-end", f"{op.kind} {op.id} is {op.state}")
        if self.quiet and op.state not in (DONE, SUPERSEDED) and "No valid host" not in op.error and "reset" not in op.error:
            raise Broken("nothing-fails-undisturbed", f"{op.kind} of {op.server_id} ended {op.state}: {op.error}")
        if op.state == DONE:
            self._done(fate, op)
        elif op.state == UNDONE:
            _undone(fate, op)
        elif op.state == FAILED:
            fate.states = {ERROR} | ({ACTIVE, STOPPED, PAUSED, SUSPENDED} if op.kind in AS_REPORTED else set())
        if op.notes.get("reset_to") and op.state != SUPERSEDED:
            fate.states = {ERROR} if op.notes["reset_to"] == ERROR else fate.states | {ACTIVE, STOPPED, PAUSED, SUSPENDED}

    def _done(self, fate: Fate, op: Operation) -> None:
        kind = op.kind
        if kind in ENDS:
            fate.states = {ENDS[kind]}
        if kind == "boot":
            fate.markers, fate.saved, fate.gone = [], [], []
        elif kind == "resize":
            fate.was, fate.states, fate.saved = fate.states & {ACTIVE, STOPPED}, {RESIZED}, list(fate.markers)
        elif kind == "confirm":
            fate.states, fate.saved = fate.was | {ACTIVE}, []
        elif kind == "revert":
            fate.states = fate.was
            fate.gone += [marker for marker in fate.markers if marker not in fate.saved]
            fate.markers, fate.saved = fate.saved, []
        elif kind in ("rebuild", "evacuate"):
            was = op.input.get("was")
            fate.states = {STOPPED} if was == STOPPED else {ACTIVE}
            fate.gone += fate.markers
            fate.markers = []
        elif kind in ("snapshot", "shelve"):
            self.snapshots[op.input["image_id"]] = list(fate.markers)

    def _judge_bytes(self, server: Server, fate: Fate) -> None:
        if server.deleted_at is not None or server.host not in self.world.machines or server.vm_state == ERROR:
            return
        disk = self.world.machines[server.host].disk(server.id) or b""
        for marker in fate.markers:
            if marker not in disk:
                raise Broken("bytes-kept", f"server {server.id} has lost {marker!r} on {server.host}")
        for marker in fate.gone:
            if marker in disk and marker not in fate.unsure:
                raise Broken("bytes-kept", f"server {server.id} carries {marker!r} on {server.host}, which was given up")


ENDS = {"boot": ACTIVE, "start": ACTIVE, "stop": STOPPED, "reboot": ACTIVE, "pause": PAUSED, "unpause": ACTIVE, "suspend": SUSPENDED, "resume": ACTIVE,
        "shelve": SHELVED, "shelve_offload": SHELVED_OFFLOADED, "unshelve": ACTIVE, "rescue": RESCUED, "unrescue": ACTIVE, "delete": DELETED}
# when these fail, the server is shown as its host last reported it
AS_REPORTED = ("start", "stop", "reboot", "pause", "unpause", "suspend", "resume", "live_migrate", "snapshot", "shelve", "attach_interface",
               "detach_interface", "rescue")


def _undone(fate: Fate, op: Operation) -> None:
    kind = op.kind
    if kind == "boot" or kind == "evacuate":
        fate.states = {ERROR}
    elif kind == "rebuild":  # the disk is the old one or the new one, whole
        fate.states = {ERROR}
        fate.unsure += fate.markers
        fate.gone += fate.markers
        fate.markers = []
    elif kind in ("revert", "confirm"):
        fate.states = {RESIZED}
    elif kind == "resize":
        fate.states = fate.states | {ACTIVE, STOPPED} if not fate.states & {ACTIVE, STOPPED} else fate.states
    elif kind == "unshelve":
        fate.states = {SHELVED, SHELVED_OFFLOADED}
    elif kind == "shelve_offload":
        fate.states = {SHELVED}
    elif kind == "unrescue":
        fate.states = {RESCUED, ACTIVE, STOPPED, ERROR}
    elif kind in AS_REPORTED:
        fate.states = {ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR}
    elif kind == "delete":
        fate.states = {ERROR}


def _apply(fate: Fate, note: Note) -> None:
    if note.what == "write":
        fate.markers.append(note.value)
    elif note.what == "crash":
        if fate.states & {ACTIVE, PAUSED, SUSPENDED}:
            fate.states = fate.states | {STOPPED}
        fate.was = fate.was | {STOPPED} if fate.was else fate.was
    elif note.what == "reset":
        # an administrator's word about the row; the reconciler then shows what the guest is
        fate.states = {ERROR} if note.value == b"error" else {ACTIVE, STOPPED, PAUSED, SUSPENDED}
        fate.saved = []
