"""Links: how frames travel. An in-memory pair for one process and the simulator; websockets for real distances (fabric/websocket.py).

A Link promises little on purpose: while it is open, frames arrive in order; when it closes, whatever was under way may or may not have arrived.
`send` never blocks and never fails; a full or closed link loses the frame and closes, which both ends treat as a lost connection.
"""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from virga.fabric.wire import Frame

Receiver = Callable[[Frame], None]
Closed = Callable[[], None]


class Link(Protocol):
    """One end of a connection."""

    def start(self, receive: Receiver, closed: Closed) -> None:
        """Begin delivery to `receive`; `closed()` is called once when the link is gone, from whichever side."""

    def send(self, frame: Frame) -> None: ...
    def close(self) -> None: ...


class Weather(Protocol):
    """What a simulated network does to one frame: a list of delays in seconds, one delivery each; empty loses the frame and breaks the link."""

    def deliveries(self, frame: Frame) -> list[float]: ...


class MemoryEnd:
    """One end of an in-memory pair. Frames are immutable Structs and are passed as they are."""

    def __init__(self, loop: asyncio.AbstractEventLoop, weather: Weather | None) -> None:
        self._loop = loop
        self._weather = weather
        self._receive: Receiver | None = None
        self._closed: Closed | None = None
        self._early: list[Frame] = []
        self._flight: deque[Frame] = deque()  # under way to us, in the order they were sent
        self._last_at = 0.0
        self.peer: MemoryEnd | None = None
        self.open = True

    def start(self, receive: Receiver, closed: Closed) -> None:
        self._receive, self._closed = receive, closed
        early, self._early = self._early, []
        for frame in early:
            self._arrive(frame)
        if not self.open:
            self._loop.call_soon(closed)

    def send(self, frame: Frame) -> None:
        peer = self.peer
        if not self.open or peer is None:
            return
        if self._weather is None:
            peer._flight.append(frame)
            self._loop.call_soon(peer._arrive_next)
            return
        delays = self._weather.deliveries(frame)
        if not delays:
            self.close()
            return
        now = self._loop.time()
        for delay_s in delays:
            # Order within a link is kept, as TCP keeps it: a frame never overtakes an earlier one.
            self._last_at = max(self._last_at, now + delay_s)
            peer._flight.append(frame)
            self._loop.call_at(self._last_at, peer._arrive_next)

    def _arrive_next(self) -> None:
        """One delivery is due: the oldest frame under way, whichever timer of the loop was first."""
        self._arrive(self._flight.popleft())

    def _arrive(self, frame: Frame) -> None:
        if not self.open:
            return
        if self._receive is None:
            self._early.append(frame)
        else:
            self._receive(frame)

    def close(self) -> None:
        """Close both ends; each is told on its own turn of the loop."""
        for end in (self, self.peer):
            if end is not None and end.open:
                end.open = False
                if end._closed is not None:
                    self._loop.call_soon(end._closed)


def memory_pair(loop: asyncio.AbstractEventLoop, weather: Weather | None = None) -> tuple[MemoryEnd, MemoryEnd]:
    """Two ends of one in-memory link."""
    left, right = MemoryEnd(loop, weather), MemoryEnd(loop, weather)
    left.peer, right.peer = right, left
    return left, right
