"""The one event record, and where it goes.

Owns: `Event` (message, fact, transition, step, wait, fault, note) and `Trace`, a bounded ring with sinks.
Rules: an event is a plain fact about what happened, never a signal: nobody waits on one. Events made inside a transaction are emitted only
when it commits, in order; `parent` is the number of the event that caused this one, which is what gives a sequence diagram its 1, 1.1, 1.1.1.
Why one record: the log line, the diagram, the console and the failure report of a test must tell the same story.
"""
from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

RING_EVENTS_MAX = 4096
DIGEST_EVENTS = 64  # taken into the hash together

# kind: message  src sends dst a command or call           fact        src reports something observed to dst
#       transition  a row changed state (src = who)         step        an operation's step: begun, done, failed, undone
#       wait     src waits for what `text` says             fault       something was broken on purpose or went wrong
#       note     anything else worth a line


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened. `at` is seconds since the Unix epoch; `number` counts up within one trace."""

    number: int
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


Sink = Callable[[Event], None]


class Trace:
    """Bounded ring of events plus sinks; `hash()` condenses everything ever emitted (same seed, same hash)."""

    def __init__(self, clock: Callable[[], float], ring: int = RING_EVENTS_MAX) -> None:
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=ring)
        self._sinks: list[Sink] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._undigested: list[str] = []
        self.count = 0
        self._keys: dict[str, tuple[int, str]] = {}  # name of an event -> its number and operation

    def emit(
        self, kind: str, src: str, dst: str, text: str, *, parent: int = 0, server: str = "", operation: str = "",
        request: str = "", at: float | None = None, key: str = "", cause: str = "", **data: Any,
    ) -> int:
        """Record one event and return its number (usable as `parent` of what it causes).

        `key` names the event for later ones, which may give it as their `cause` instead of a number (a command's id, a step's id).
        A message about a server is also named "<dst>/<server>": what that actor next says of the server answers it. What names no operation
        belongs to its cause's.
        """
        self.count += 1
        if cause and not parent:
            parent, caused_by = self._keys.get(cause, (0, ""))
            operation = operation or caused_by
        if key:
            self._name(key, operation)
        if server and kind == "message":
            self._name(f"{dst}/{server}", operation)
        if at is None:
            at = self._clock()
        event = Event(self.count, at, kind, src, dst, text, parent, server, operation, request, data)
        self._ring.append(event)
        self._undigested.append(f"{at:.6f} {kind} {src} {dst} {text} {server}\n")
        if len(self._undigested) > DIGEST_EVENTS:
            self._digest_them()
        for sink in self._sinks:
            sink(event)
        return self.count

    def _name(self, name: str, operation: str) -> None:
        """Remember under which name the newest event may be given as a cause."""
        self._keys.pop(name, None)
        self._keys[name] = (self.count, operation)
        if len(self._keys) > RING_EVENTS_MAX:
            del self._keys[next(iter(self._keys))]

    def _digest_them(self) -> None:
        self._digest.update("".join(self._undigested).encode())
        self._undigested.clear()

    def add_sink(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def events(self, server: str = "") -> Iterator[Event]:
        """The events still in the ring, oldest first; of one server if named."""
        return (event for event in list(self._ring) if not server or event.server == server)

    def hash(self) -> str:
        self._digest_them()
        return self._digest.hexdigest()
