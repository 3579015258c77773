"""The frames between controller and host: MessagePack Structs, tagged, at most FRAME_BYTES_MAX each.

Controller to host: Welcome, Do, Forget, Ack, View, Query. Host to controller: Hello, Report, Answer. A frame is never the truth: commands lie in the
outbox, facts in the agent's journal, and both are sent again after every reconnect; so a frame may be lost with its link, come twice, or come late.
"""
from __future__ import annotations

from typing import Any

import msgspec

FRAME_BYTES_MAX = 4 << 20


class GuestFact(msgspec.Struct, frozen=True):
    """What is there of one guest; `revision` is the agent's counter at the moment it looked."""

    server_id: str
    state: str
    epoch: int
    disk: bool
    revision: int
    detail: str = ""


class WiringFact(msgspec.Struct, frozen=True):
    """Whether generation `generation` of a port's binding is wired here."""

    port_id: str
    server_id: str
    generation: int
    wired: bool
    revision: int
    detail: str = ""


class Result(msgspec.Struct, frozen=True):
    """How a command ended. Repeated until acknowledged."""

    command_id: str
    ok: bool
    error: str = ""
    data: dict[str, Any] = {}


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First frame of a session: who the host is and everything it has. What it does not name is not there."""

    host: str
    host_id: str
    boot_id: str
    inventory: dict[str, Any]
    detail: dict[str, Any]
    address: str
    guests: list[GuestFact]
    wirings: list[WiringFact]
    results: list[Result]
    certificate_request: str = ""  # PEM, when the host's certificate is due for renewal


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What has changed since. `number` counts reports within the session, for Ack."""

    number: int
    guests: list[GuestFact] = []
    wirings: list[WiringFact] = []
    results: list[Result] = []


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The answer to a Query."""

    query_id: str
    ok: bool
    error: str = ""
    data: dict[str, Any] = {}


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The controller has taken the Hello in; `certificate` is a renewed client certificate, if it is time for one."""

    session: int
    certificate: str = ""
    images_port: int = 0  # where on the controller image bytes are fetched and put; 0 for nowhere


class Do(msgspec.Struct, frozen=True, tag="do"):
    """One command of the outbox."""

    command_id: str
    verb: str
    server_id: str
    epoch: int
    args: dict[str, Any] = {}


class Forget(msgspec.Struct, frozen=True, tag="forget"):
    """Commands withdrawn before they were answered; whatever of them has not begun need not begin."""

    command_ids: list[str]


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Reports up to `number` are committed; their results may be forgotten. 0 acknowledges the Hello's."""

    number: int


class View(msgspec.Struct, frozen=True, tag="view"):
    """The networks of this host as they should be, whole. `version` says whether it is news."""

    version: str
    body: dict[str, Any]


class Query(msgspec.Struct, frozen=True, tag="query"):
    """A question that changes nothing (console log, diagnostics)."""

    query_id: str
    verb: str
    server_id: str
    args: dict[str, Any] = {}


ToHost = Welcome | Do | Forget | Ack | View | Query
ToController = Hello | Report | Answer
Frame = ToHost | ToController

encode = msgspec.msgpack.Encoder().encode
decode_to_host = msgspec.msgpack.Decoder(ToHost).decode
decode_to_controller = msgspec.msgpack.Decoder(ToController).decode
