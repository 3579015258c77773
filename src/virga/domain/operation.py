"""Operations, their steps, the outbox of commands, and the facts agents report about guests.

Writers: `Operation`, `Step` and `Command` (but for its result columns) belong to ops; `Guest` and a command's result belong to fabric/hub, which
copies what agents say. The step log is a state machine: `STEP_MOVES` is the whole of it and `check_move` refuses anything else, loudly.
"""
from __future__ import annotations

from typing import Any

from virga.domain.row import Row

# Operation.state
RUNNING, UNDOING, DONE, UNDONE, FAILED, SUPERSEDED = "running", "undoing", "done", "undone", "failed", "superseded"
OPEN = (RUNNING, UNDOING)

# Step.state
BEGUN, STEP_DONE, STEP_FAILED, UNDO_BEGUN, STEP_UNDONE = "begun", "done", "failed", "undo-begun", "undone"
STEP_MOVES: dict[str | None, tuple[str, ...]] = {
    None: (BEGUN,),
    BEGUN: (STEP_DONE, STEP_FAILED, UNDO_BEGUN),
    STEP_DONE: (UNDO_BEGUN,),
    STEP_FAILED: (UNDO_BEGUN,),
    UNDO_BEGUN: (STEP_UNDONE,),
    STEP_UNDONE: (),
}


class BrokenLog(AssertionError):
    """The step log says something that cannot have happened. That operation stops; it is never guessed at."""


def check_move(old: str | None, new: str) -> None:
    """Raises BrokenLog unless a step may go from `old` to `new`."""
    if new not in STEP_MOVES.get(old, ()):
        raise BrokenLog(f"a step cannot go from {old} to {new}")


class Operation(Row):
    """One durable procedure on one server. `input` never changes; `notes` is what its steps have decided since."""

    __table__ = "operations"

    id: str
    kind: str
    server_id: str
    project_id: str
    user_id: str
    request_id: str
    epoch: int
    state: str = RUNNING
    position: int = 0  # index of the current step in the declared table
    input: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    waiting: str = ""  # the named reason a user reads
    waiting_since: float | None = None
    deadline_at: float | None = None
    error: str = ""
    owner: str = ""  # controller that holds the lease
    lease_until: float = 0.0
    started_at: float = 0.0
    ended_at: float | None = None


class Step(Row):
    """One line of an operation's log."""

    __table__ = "steps"
    __key__ = ("operation_id", "position")

    operation_id: str
    position: int
    name: str
    state: str
    begun_at: float
    ended_at: float | None = None
    undo_begun_at: float | None = None
    undone_at: float | None = None
    error: str = ""
    ended_by: str = ""  # the fact that ended the wait, for diagrams and `explain`


# Command.state
PENDING, ACCEPTED, COMMAND_DONE, COMMAND_FAILED, OBSOLETE = "pending", "accepted", "done", "failed", "obsolete"


class Command(Row):
    """One row of the outbox: a command to the agent of `host`. Its id is its idempotency key; `epoch` fences it."""

    __table__ = "commands"

    id: str
    host: str
    verb: str
    server_id: str
    operation_id: str
    step: str
    epoch: int
    number: int = 0  # order within the outbox of a host
    state: str = PENDING
    args: dict[str, Any] = {}
    error: str = ""
    result: dict[str, Any] = {}
    made_at: float = 0.0
    ended_at: float | None = None


# Guest.state: what an agent sees of a guest on its host
ABSENT, HELD, RUN, STOP, PAUSE, SUSPEND, KEPT, CRASHED = (
    "absent", "held", "running", "stopped", "paused", "suspended", "kept", "crashed")


class Guest(Row):
    """What the agent of one host last said of one server's guest there.

    `held`: defined, wired, started paused, waiting for release. `kept`: shut down and unplugged, its disk put aside for a way back.
    """

    __table__ = "guests"
    __key__ = ("server_id", "host")

    server_id: str
    host: str
    state: str
    epoch: int
    disk: bool = False
    revision: int = 0
    detail: str = ""
    at: float = 0.0


class Migration(Row):
    """A move and its record, as `os-migrations` shows it. `number` is the API's integer id."""

    __table__ = "migrations"

    id: str
    number: int
    server_id: str
    project_id: str
    user_id: str
    kind: str  # resize, migration, live-migration, evacuation
    status: str
    source: str
    dest: str = ""
    old_flavor_id: str = ""
    new_flavor_id: str = ""
    operation_id: str = ""
    source_generations: dict[str, int] = {}
    created_at: float = 0.0
    updated_at: float = 0.0


class Action(Row):
    """An instance action: one user request on a server."""

    __table__ = "actions"
    __key__ = ("server_id", "request_id", "action")

    server_id: str
    request_id: str
    action: str
    project_id: str
    user_id: str
    started_at: float
    updated_at: float | None = None
    message: str | None = None
    operation_id: str = ""


class ActionEvent(Row):
    """One event below an instance action (`compute_prep_resize` and friends). `result` is Success, Error or None while it runs."""

    __table__ = "action_events"
    __key__ = ("server_id", "request_id", "name")

    server_id: str
    request_id: str
    name: str
    started_at: float
    finished_at: float | None = None
    result: str | None = None
    host: str | None = None
    detail: str | None = None


class StoredEvent(Row):
    """A trace event kept for `virga draw` and `virga explain`, newest few thousand only."""

    __table__ = "events"

    id: int
    at: float
    kind: str
    src: str
    dst: str
    text: str
    parent: int = 0
    server: str = ""
    operation: str = ""
    request: str = ""
    data: dict[str, Any] = {}


class Counter(Row):
    """A named counter for the integer ids the compute API insists on."""

    __table__ = "counters"
    __key__ = ("name",)

    name: str
    value: int


