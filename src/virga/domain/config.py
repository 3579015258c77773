"""The configuration as one frozen Struct, passed in and never global. Names are Nova's and Neutron's where they mean the same.

TOML sections map to the nested Structs; an unknown or mistyped key is refused with its name. Units stand in the names (`_s`, `_mb`); options that
carry an upstream name keep upstream's unit (seconds) without a suffix.
"""
from __future__ import annotations

import ipaddress
from typing import Any

import msgspec


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[network] Neutron-like options. A host listens to its kernel's events; with `minimize_polling` false it looks every `polling_interval` seconds."""

    minimize_polling: bool = True
    polling_interval: float = 2.0
    physical_interface_mappings: dict[str, str] = {}
    global_physnet_mtu: int = 1500
    vni_ranges: list[list[int]] = msgspec.field(default_factory=lambda: [[1, 16_000_000]])
    dns_domain: str = "openstacklocal."
    floating_range: str = ""  # subnet of the first start's network `public` (DevStack's name); '' is 172.24.4.0/24, or the next free one of emulated hosts


class Compute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[compute] Nova-like options. `vif_plugging_timeout` in seconds, 0 waits not at all."""

    vif_plugging_is_fatal: bool = True
    vif_plugging_timeout: float = 300.0
    service_down_time: float = 60.0
    host_reconnect_timeout: float = 20.0  # so long a host whose connection broke is waited for before no valid host is said to be found
    cpu_allocation_ratio: float = 16.0
    ram_allocation_ratio: float = 1.5
    disk_allocation_ratio: float = 1.0
    operation_timeout: float = 300.0
    copy_timeout: float = 3600.0
    fence_timeout: float = 86400.0
    resize_confirm_window: float = 0.0
    shelved_offload_time: float = 0.0  # a shelved server leaves its host after so long; -1: only when asked


class Libvirt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[libvirt] of a host. `peer_uri` makes another host's libvirt URI, with {address} and {host}. Sizes of 0 mean: what the machine has.

    `migrate_tls` false and a plain TCP `peer_uri` are for emulated hosts on one machine. `runtime` holds what dnsmasq reads; `namespace_prefix` keeps
    the namespaces of emulated hosts apart; `peer_folder` is where this host's folder is on another one, when it is not the same path.
    """

    uri: str = "qemu:///system"
    peer_uri: str = "qemu+tls://{address}/system"
    migrate_tls: bool = True
    peer_folder: str = ""
    machine: str = "pc"
    cpu_mode: str = "host-model"
    vcpus: int = 0
    ram_mb: int = 0
    disk_gb: int = 0
    reserved_ram_mb: int = 512
    runtime: str = "/run/virga"
    namespace_prefix: str = ""
    transfer_port: int = 8790


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[quota] defaults a project gets; -1 is unlimited."""

    instances: int = 100
    cores: int = 200
    ram: int = 512_000
    key_pairs: int = 100
    metadata_items: int = 128
    server_groups: int = 10
    server_group_members: int = 10
    network: int = 100
    subnet: int = 100
    subnetpool: int = -1
    port: int = 500
    router: int = 100
    floatingip: int = 200
    security_group: int = 100
    security_group_rule: int = 1000
    rbac_policy: int = 100
    images: int = -1


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[identity] Keystone's [security_compliance]. 0 turns a rule off.

    After `lockout_failure_attempts` wrong passwords a user is locked for `lockout_duration` seconds; a user's own new password must not be one of the
    last `unique_last_password_count`.
    """

    lockout_failure_attempts: int = 0
    lockout_duration: float = 1800.0
    unique_last_password_count: int = 0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `virga up` can be told. `state` is a folder."""

    listen: str = "127.0.0.1:8787"
    state: str = "virga-state"
    region: str = "RegionOne"
    fabric: str = ""  # HOST:PORT where hosts on other machines dial in; '' for none
    fabric_url: str = ""  # how they reach it (wss://...), when that differs from `fabric`
    hosts: int = 2
    hypervisor: str = "fake"
    virt_type: str = "kvm"
    token_lifetime_s: float = 24 * 3600.0
    image_size_max_bytes: int = 64 << 30
    argon2_memory_kib: int = 19456
    argon2_passes: int = 2
    lease_s: float = 15.0
    compute: Compute = Compute()
    network: Network = Network()
    identity: Identity = Identity()
    quota: Quota = Quota()
    libvirt: Libvirt = Libvirt()
    guest_image: str = ""  # qcow2 offered as the public image `virga-guest` by a cloud of libvirt hosts; '' looks in build/guest
    fake: dict[str, Any] = {}  # scripted behaviour of the fake drivers: delays in seconds, failures


def load(data: dict[str, Any]) -> Config:
    """Raises ValueError with the offending key for anything unknown or mistyped."""
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    wanted = config.network.floating_range
    if wanted:
        try:
            ipaddress.ip_network(wanted)
        except ValueError as error:
            raise ValueError(f"network.floating_range: {error}; it is a subnet like 172.24.4.0/24") from error
    return config


def dump(config: Config) -> str:
    """The configuration as TOML that `load` reads back; what has its default value is left out."""
    lines: list[str] = []
    sections: list[str] = []
    blank = Config()
    for name in config.__struct_fields__:
        value, default = getattr(config, name), getattr(blank, name)
        if value == default:
            continue
        if isinstance(value, msgspec.Struct):
            changed = {key: getattr(value, key) for key in value.__struct_fields__ if getattr(value, key) != getattr(default, key)}
            sections += [f"[{name}]", *(f"{key} = {_toml(item)}" for key, item in changed.items())]
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join([*lines, *sections]) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML (https://toml.io/en/v1.0.0); JSON's strings, numbers and booleans are TOML's too, but for DEL, which TOML wants escaped."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
