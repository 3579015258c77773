"""The doors of an event loop that lead outside, all shut.

Owns: the refusal, in one sentence that says what to do instead, of everything a simulated run must not
touch: threads, sockets, pipes, signals, child processes, name look-ups.
Rules: every method of `AbstractEventLoop` that is not scheduling is refused here and nowhere else; a call
fails at the call, not at the await, so that the traceback shows who asked.
Why: one thread or socket in a simulated run makes its result depend on the machine, and a run that cannot
be replayed is worth nothing.
"""
from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from virga.sim.policy import SimulationError


def refuse(what: str) -> NoReturn:
    """Raise the SimulationError that says what to use instead."""
    raise SimulationError(
        f"{what} is not possible under virtual time: use Env.offload for slow work, "
        "an in-memory link for the network and a fake driver for the rest")


class Sealed(asyncio.AbstractEventLoop):
    """An event loop without an outside; scheduling is left to the subclass."""

    def run_in_executor(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
        """Refused: a thread's timing is not the seed's. `Env.offload` runs such work inline here."""
        refuse("run_in_executor (also by asyncio.to_thread)")

    def set_default_executor(self, *args: Any, **more: Any) -> Any:
        refuse("set_default_executor")

    def add_signal_handler(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
        refuse("add_signal_handler")

    def remove_signal_handler(self, *args: Any, **more: Any) -> Any:
        refuse("remove_signal_handler")

    def add_reader(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
        refuse("add_reader")

    def remove_reader(self, *args: Any, **more: Any) -> Any:
        refuse("remove_reader")

    def add_writer(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
        refuse("add_writer")

    def remove_writer(self, *args: Any, **more: Any) -> Any:
        refuse("remove_writer")

    def getaddrinfo(self, *args: Any, **more: Any) -> Any:
        refuse("getaddrinfo")

    def getnameinfo(self, *args: Any, **more: Any) -> Any:
        refuse("getnameinfo")

    def create_connection(self, *args: Any, **more: Any) -> Any:
        refuse("create_connection")

    def create_server(self, *args: Any, **more: Any) -> Any:
        refuse("create_server")

    def create_datagram_endpoint(self, *args: Any, **more: Any) -> Any:
        refuse("create_datagram_endpoint")

    def create_unix_connection(self, *args: Any, **more: Any) -> Any:
        refuse("create_unix_connection")

    def create_unix_server(self, *args: Any, **more: Any) -> Any:
        refuse("create_unix_server")

    def connect_accepted_socket(self, *args: Any, **more: Any) -> Any:
        refuse("connect_accepted_socket")

    def connect_read_pipe(self, *args: Any, **more: Any) -> Any:
        refuse("connect_read_pipe")

    def connect_write_pipe(self, *args: Any, **more: Any) -> Any:
        refuse("connect_write_pipe")

    def sendfile(self, *args: Any, **more: Any) -> Any:
        refuse("sendfile")

    def start_tls(self, *args: Any, **more: Any) -> Any:
        refuse("start_tls")

    def sock_accept(self, *args: Any, **more: Any) -> Any:
        refuse("sock_accept")

    def sock_connect(self, *args: Any, **more: Any) -> Any:
        refuse("sock_connect")

    def sock_recv(self, *args: Any, **more: Any) -> Any:
        refuse("sock_recv")

    def sock_recv_into(self, *args: Any, **more: Any) -> Any:
        refuse("sock_recv_into")

    def sock_recvfrom(self, *args: Any, **more: Any) -> Any:
        refuse("sock_recvfrom")

    def sock_recvfrom_into(self, *args: Any, **more: Any) -> Any:
        refuse("sock_recvfrom_into")

    def sock_sendall(self, *args: Any, **more: Any) -> Any:
        refuse("sock_sendall")

    def sock_sendfile(self, *args: Any, **more: Any) -> Any:
        refuse("sock_sendfile")

    def sock_sendto(self, *args: Any, **more: Any) -> Any:
        refuse("sock_sendto")

    def subprocess_exec(self, *args: Any, **more: Any) -> Any:
        refuse("subprocess_exec")

    def subprocess_shell(self, *args: Any, **more: Any) -> Any:
        refuse("subprocess_shell")
