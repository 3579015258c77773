"""Guests made of a network namespace and a veth pair: the bridge and the filter see the same frames as from a tap, and a test can send and see any of them.

Run as a program it is the inside of one: it reads orders as JSON lines, sends raw frames on eth0, and tells what came in.
"""
from __future__ import annotations

import ipaddress
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

IP4, IP6, ARP = 0x0800, 0x86DD, 0x0806


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ether(source: str, dest: str, kind: int, body: bytes) -> bytes:
    return (mac_bytes(dest) + mac_bytes(source) + struct.pack(">H", kind) + body).ljust(60, b"\0")


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: str, dest: str, protocol: int, body: bytes) -> bytes:
    """An IPv4 or IPv6 packet, by the form of its addresses."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(dest)
    if a.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, 255) + a.packed + b.packed + body
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + a.packed + b.packed
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def _with_checksum(source: str, dest: str, protocol: int, body: bytes, at: int) -> bytes:
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(dest)
    pseudo = a.packed + b.packed + (struct.pack(">IHBB", len(body), 0, 0, protocol) if a.version == 6 else struct.pack(">BBH", 0, protocol, len(body)))
    return body[:at] + struct.pack(">H", checksum(pseudo + body) or 0xFFFF) + body[at + 2:]


def udp(source: str, dest: str, source_port: int, dest_port: int, data: bytes) -> bytes:
    body = struct.pack(">HHHH", source_port, dest_port, 8 + len(data), 0) + data
    return ip(source, dest, 17, _with_checksum(source, dest, 17, body, 6))


def icmp6(source: str, dest: str, kind: int, data: bytes) -> bytes:
    return ip(source, dest, 58, _with_checksum(source, dest, 58, struct.pack(">BBH", kind, 0, 0) + data, 2))


def arp(sender_mac: str, sender_ip: str, target_ip: str, tail: bytes = b"") -> bytes:
    a, b = ipaddress.ip_address(sender_ip).packed, ipaddress.ip_address(target_ip).packed
    return b"\0\1\x08\0\6\4\0\1" + mac_bytes(sender_mac) + a + bytes(6) + b + tail


def neighbour(kind: int, source: str, dest: str, target: str, data: bytes = b"") -> bytes:
    """A neighbour solicitation (135) or advertisement (136)."""
    return icmp6(source, dest, kind, bytes(4) + ipaddress.ip_address(target).packed + data)


class StandIn:
    """`send` a frame, ask what `came`. `tap` is the device on the host's side."""

    def __init__(self, host: str, name: str, tap: str, bridge: str, mac: str, addresses: list[str]) -> None:
        self.space, self.mac, self.address = name, mac, addresses[0].split("/")[0] if addresses else ""
        inner = f"/run/netns/{name}"
        for command in [
            f"ip netns add {name}", f"ip -n {name} link set lo up",
            f"ip -n {host} link add {tap} mtu 1450 type veth peer name eth0 address {mac} mtu 1450 netns {name}",
            f"ip -n {host} link set {tap} master {bridge} up", f"ip -n {name} link set eth0 up",
            *(f"ip -n {name} address add {address} dev eth0" + (" nodad" if ":" in address else "") for address in addresses)]:
            subprocess.run(command.split(), check=True)
        self._process = subprocess.Popen(["nsenter", f"--net={inner}", "--", sys.executable, str(Path(__file__))], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def _ask(self, order: dict[str, Any]) -> list[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))

    def send(self, frame: bytes) -> None:
        self._ask({"send": frame.hex()})

    def came(self, mark: bytes, wait_s: float = 0.4) -> bool:
        """Whether a frame with these bytes has come in, by then."""
        end = time.monotonic() + wait_s
        while True:
            if any(mark.hex() in frame for frame in self._ask({})):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        subprocess.run(["ip", "netns", "del", self.space], check=False)


def main() -> None:
    came: list[str] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as line:
        line.bind(("eth0", 0x0003))

        def read() -> None:
            while True:
                frame, where = line.recvfrom(2048)
                if where[2] != 4:  # PACKET_OUTGOING
                    came.append(frame.hex())
                    del came[:-500]

        threading.Thread(target=read, daemon=True).start()
        print("ready", flush=True)
        for text in sys.stdin:
            order = json.loads(text)
            if "send" in order:
                line.send(bytes.fromhex(order["send"]))
            print(json.dumps([] if "send" in order else came), flush=True)


if __name__ == "__main__":
    main()
