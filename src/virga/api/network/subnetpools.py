"""Subnet pools and address scopes: prefixes to cut subnets from, and the promise that they do not overlap.

Rules: a pool's prefixes are kept merged; a block is cut in the transaction that makes its subnet, so two projects
never get the same one; prefixes leave a pool only by `remove_prefixes` and only while no subnet lives in them. Pools
of one address scope never overlap.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network.fields import (
    Bad,
    Field,
    boolean,
    cidr,
    integer,
    list_of,
    nullable_text,
    optional,
    text,
    uuid,
)
from virga.api.network.networks import add_policy, drop_policy
from virga.api.network.noun import (
    SHARED,
    Attrs,
    Noun,
    View,
    Who,
    guarded,
    remove_policies,
    shared_ids,
    who_of,
)
from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import AddressScope, Subnet, SubnetPool
from virga.store.db import Tx

BITS = {4: 32, 6: 128}
# lengths a pool has where its maker gave none; the API reference's defaults
MIN_LENGTH = {4: 8, 6: 64}


def refused(message: str, kind: str = "InvalidInput") -> Problem:
    return Problem(400, message, kind)


class SubnetPools(Noun[SubnetPool]):
    one, many, label = "subnetpool", "subnetpools", "Subnet pool"
    kind = "SubnetPoolNotFound"
    rbac = "subnetpool"
    quota = "subnetpool"
    row = SubnetPool
    tagged = True
    more_filters = frozenset({"ip_version"})
    fields = {
        "name": Field(text(), required=True),
        "description": Field(nullable_text(), default=""),
        "prefixes": Field(list_of(cidr, 256), required=True),
        "default_quota": Field(optional(integer(0)), default=None),
        "default_prefixlen": Field(integer(0, 128)),
        "min_prefixlen": Field(integer(0, 128)),
        "max_prefixlen": Field(integer(0, 128)),
        "address_scope_id": Field(optional(uuid), default=None),
        "shared": Field(boolean, default=False, admin=True, put=False),
        "is_default": Field(boolean, default=False, admin=True),
    }

    def view(self, tx: Tx, who: Who, row: SubnetPool) -> View:
        return {
            **self.base(row), "ip_version": row.ip_version, "prefixes": row.prefixes, "default_quota": row.default_quota,
            "default_prefixlen": row.default_prefixlen, "min_prefixlen": row.min_prefixlen, "max_prefixlen": row.max_prefixlen,
            "address_scope_id": row.address_scope_id, "shared": row.shared or row.id in shared_ids(tx, "subnetpool", who.project_id),
            "is_default": row.is_default,
        }

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> SubnetPool:
        version = one_version(attrs["prefixes"])
        pool = SubnetPool(tx.new_id(), project_id, version, ipam.merge(attrs["prefixes"]), min_prefixlen=MIN_LENGTH[version],
                          max_prefixlen=BITS[version], created_at=tx.now, updated_at=tx.now)
        for name, value in self.columns(attrs).items():
            if name != "prefixes":
                setattr(pool, name, value)
        if "default_prefixlen" not in attrs:
            pool.default_prefixlen = pool.min_prefixlen
        self._lengths(pool)
        self._scope(tx, who, pool)
        self._one_default(tx, pool)
        tx.insert(pool)
        if pool.shared:
            add_policy(tx, project_id, "subnetpool", pool.id, SHARED)
        return pool

    def _lengths(self, pool: SubnetPool) -> None:
        for name in ("min_prefixlen", "max_prefixlen", "default_prefixlen"):
            if getattr(pool, name) > BITS[pool.ip_version]:
                raise refused(f"Unable to set {name} to {getattr(pool, name)}: an IPv{pool.ip_version} prefix has at most "
                              f"{BITS[pool.ip_version]} bits.", "InvalidSubnetPoolUpdate")
        if pool.min_prefixlen > pool.max_prefixlen:
            raise refused(f"Illegal prefix bounds: min_prefixlen={pool.min_prefixlen}, max_prefixlen={pool.max_prefixlen}.",
                          "IllegalSubnetPoolPrefixBounds")
        if not pool.min_prefixlen <= pool.default_prefixlen <= pool.max_prefixlen:
            raise refused(f"Illegal prefix bounds: default_prefixlen={pool.default_prefixlen} is not between "
                          f"{pool.min_prefixlen} and {pool.max_prefixlen}.", "IllegalSubnetPoolPrefixBounds")

    def _scope(self, tx: Tx, who: Who, pool: SubnetPool) -> None:
        """The scope must be the caller's to use, of the pool's version, and free of these prefixes."""
        if pool.address_scope_id is None:
            return
        scope = SCOPES.find(tx, who, pool.address_scope_id)
        if scope.ip_version != pool.ip_version:
            raise refused(f"Illegal subnetpool association: subnetpool {pool.id} cannot associate with address scope {scope.id} because "
                          "the IP versions differ.", "IllegalSubnetPoolIpVersionAssociationToAddressScope")
        for other in tx.find(SubnetPool, address_scope_id=scope.id):
            if other.id == pool.id:
                continue
            for one in pool.prefixes:
                if any(ipam.overlap(ipam.network(one), ipam.network(taken)) for taken in other.prefixes):
                    raise Problem(409, f"Unable to associate subnetpool with address scope {scope.id} because prefix {one} overlaps with "
                                       f"subnetpool {other.id}.", "AddressScopePrefixConflict")

    def _one_default(self, tx: Tx, pool: SubnetPool) -> None:
        if pool.is_default:
            for other in tx.find(SubnetPool, is_default=1, ip_version=pool.ip_version):
                if other.id != pool.id:
                    raise refused(f"Invalid input for operation: A default subnetpool for this IP family has already been set. Only one "
                                  f"default may exist per IP family ({other.id}).")

    def change(self, tx: Tx, who: Who, row: SubnetPool, attrs: Attrs) -> dict[str, Any]:
        if "prefixes" in attrs:
            if attrs["prefixes"] and one_version(attrs["prefixes"]) != row.ip_version:
                raise refused("Invalid input for operation: prefixes of another IP version.")
            merged = ipam.merge([*attrs["prefixes"], *row.prefixes])
            lost = [old for old in row.prefixes if not any(
                ipam.inside(ipam.network(old), ipam.network(new)) for new in ipam.merge(attrs["prefixes"]))]
            if lost:
                raise refused(f"Existing prefixes must be a subset of the new prefixes; {lost[0]} would be lost.",
                              "IllegalSubnetPoolPrefixUpdate")
            attrs["prefixes"] = merged
        for name, value in self.columns(attrs).items():
            setattr(row, name, value)
        self._lengths(row)
        if "address_scope_id" in attrs or "prefixes" in attrs:
            self._scope(tx, who, row)
        self._one_default(tx, row)
        return self.columns(attrs)

    def remove(self, tx: Tx, who: Who, row: SubnetPool) -> None:
        if tx.count(Subnet, subnetpool_id=row.id):
            raise refused("Unable to delete subnet pool: Subnets exist that are allocated from it.", "SubnetPoolDeleteError")
        remove_policies(tx, row.id)
        drop_policy(tx, row.id, SHARED)
        tx.delete(SubnetPool, row.id)

    # prefixes ---------------------------------------------------------------------------------------------------------
    async def on_add_prefixes(self, call: Call) -> Response:
        return await self._prefixes(call, lambda have, given: ipam.merge([*have, *given]))

    async def on_remove_prefixes(self, call: Call) -> Response:
        return await self._prefixes(call, ipam.minus)

    async def _prefixes(self, call: Call, join: Any) -> Response:
        who = who_of(call)
        self.may_write(who, "update")
        body = await call.json()
        try:
            given = list_of(cidr, 256)(body.get("prefixes") if isinstance(body, dict) else None)
        except Bad as bad:
            raise Problem(400, f"Invalid input for prefixes. Reason: {bad}.", "HTTPBadRequest") from bad

        def work(tx: Tx) -> list[str]:
            row = self.mine(tx, who, call.params["id"], "update")
            if given and one_version(given) != row.ip_version:
                raise refused("Invalid input for operation: prefixes of another IP version.")
            row.prefixes = join(row.prefixes, given)
            for subnet in tx.find(Subnet, subnetpool_id=row.id):
                if not any(ipam.inside(ipam.network(subnet.cidr), ipam.network(prefix)) for prefix in row.prefixes):
                    raise Problem(409, f"Illegal update to prefixes: subnet {subnet.id} has {subnet.cidr} of them.",
                                  "IllegalSubnetPoolPrefixUpdate")
            self._scope(tx, who, row)
            tx.update(SubnetPool, row.id, prefixes=row.prefixes, updated_at=tx.now, revision_number=row.revision_number + 1)
            return row.prefixes

        return reply(200, {"prefixes": await guarded(call, work)})

    def mount(self, service: Service) -> None:
        super().mount(service)
        service.table([("PUT", "/v2.0/subnetpools/{id}/add_prefixes", self.on_add_prefixes),
                       ("PUT", "/v2.0/subnetpools/{id}/remove_prefixes", self.on_remove_prefixes)])


class AddressScopes(Noun[AddressScope]):
    one, many, label = "address_scope", "address_scopes", "Address scope"
    kind = "AddressScopeNotFound"
    rbac = "address_scope"
    row = AddressScope
    fields = {
        "name": Field(text(), default=""),
        "ip_version": Field(integer(4, 6), put=False, required=True),
        "shared": Field(boolean, default=False, admin=True),
    }

    def view(self, tx: Tx, who: Who, row: AddressScope) -> View:
        return {**self.base(row), "ip_version": row.ip_version,
                "shared": row.shared or row.id in shared_ids(tx, "address_scope", who.project_id)}

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> AddressScope:
        if attrs["ip_version"] == 5:
            raise Problem(400, "Invalid input for ip_version. Reason: 5 is not in [4, 6].", "HTTPBadRequest")
        scope = AddressScope(tx.new_id(), project_id, attrs["ip_version"], attrs["name"], attrs["shared"], 1, tx.now, tx.now)
        tx.insert(scope)
        if scope.shared:
            add_policy(tx, project_id, "address_scope", scope.id, SHARED)
        return scope

    def change(self, tx: Tx, who: Who, row: AddressScope, attrs: Attrs) -> dict[str, Any]:
        if attrs.get("shared") is False and row.shared:
            raise refused(f"Unable to update address scope {row.id} : Shared address scope can't be unshared", "AddressScopeUpdateError")
        if attrs.get("shared"):
            add_policy(tx, row.project_id, "address_scope", row.id, SHARED)
        return self.columns(attrs)

    def remove(self, tx: Tx, who: Who, row: AddressScope) -> None:
        if tx.count(SubnetPool, address_scope_id=row.id):
            raise Problem(409, f"Unable to complete operation on address scope {row.id}. There are one or more subnet pools in use on the "
                               "address scope", "AddressScopeInUse")
        remove_policies(tx, row.id)
        tx.delete(AddressScope, row.id)


SCOPES = AddressScopes()
POOLS = SubnetPools()


def one_version(prefixes: list[str]) -> int:
    """The IP version all prefixes have. Raises Problem 400."""
    versions = {ipam.network(prefix).version for prefix in prefixes}
    if len(versions) != 1:
        raise refused("Cannot mix IPv4 and IPv6 prefixes in a subnet pool, and there must be at least one.", "PrefixVersionMismatch")
    return int(versions.pop())


def cut(
    tx: Tx, who: Who, pool_id: str, project_id: str, version: int, wished: str | None, length: int | None,
) -> tuple[ipam.Net, str]:
    """A free block of a pool for a new subnet: the wished CIDR, or the lowest of the wished length. '' means the default pool.

    Raises Problem 404 for an unknown pool, 400 for a length out of bounds, an exhausted pool or a taken block, 409 over the pool's quota.
    """
    if pool_id == "":
        default = tx.one(SubnetPool, is_default=1, ip_version=version)
        if default is None:
            raise refused(f"Bad subnets request: no default subnetpool found for IPv{version}.", "BadRequest")
        pool = default
    else:
        pool = POOLS.find(tx, who, pool_id)
    if pool.ip_version != version:
        raise refused(f"Bad subnets request: IP version of the pool differs from the wished {version}.", "BadRequest")
    size = ipam.network(wished).prefixlen if wished is not None else pool.default_prefixlen if length is None else length
    if size < pool.min_prefixlen:
        raise refused(f"Unable to allocate subnet with prefix length {size}, minimum allowed prefix is {pool.min_prefixlen}.",
                      "MinPrefixSubnetAllocationError")
    if size > pool.max_prefixlen:
        raise refused(f"Unable to allocate subnet with prefix length {size}, maximum allowed prefix is {pool.max_prefixlen}.",
                      "MaxPrefixSubnetAllocationError")
    subnets = tx.find(Subnet, subnetpool_id=pool.id)
    _pool_quota(pool, [subnet for subnet in subnets if subnet.project_id == project_id], size)
    taken = [subnet.cidr for subnet in subnets]
    if wished is not None:
        net = ipam.network(wished)
        free = net.version == version and any(ipam.inside(net, ipam.network(prefix)) for prefix in pool.prefixes) and not any(
            ipam.overlap(net, ipam.network(other)) for other in taken)
        if not free:
            raise refused(f"Failed to allocate subnet: Cannot allocate requested subnet {wished} from the available set of prefixes.",
                          "SubnetAllocationError")
        return net, pool.id
    found = ipam.carve(pool.prefixes, taken, size)
    if found is None:
        raise refused(f"Failed to allocate subnet: Insufficient prefix space to allocate subnet size /{size}.", "SubnetAllocationError")
    return ipam.network(found), pool.id


def _pool_quota(pool: SubnetPool, own: list[Subnet], size: int) -> None:
    """Addresses (IPv4) or /64s (IPv6) of one project. Raises Problem 409."""
    if pool.default_quota is None:
        return
    unit = BITS[pool.ip_version] if pool.ip_version == 4 else 64

    def weight(prefixlen: int) -> int:
        return 1 << max(0, unit - prefixlen)

    used = sum(weight(ipam.network(subnet.cidr).prefixlen) for subnet in own)
    if used + weight(size) > pool.default_quota:
        raise Problem(409, f"Per-tenant subnet pool prefix quota exceeded: {used} of {pool.default_quota} are in use.",
                      "SubnetPoolQuotaExceeded")
