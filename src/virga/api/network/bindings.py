"""The port binding API (`/ports/{id}/bindings`): one binding a host, one of them active. For admins and services.

A mover makes an inactive binding on the host it goes to, activates it at the right moment, and deletes the old one.
Bindings show ACTIVE or INACTIVE; whether the port is wired there is the port's own status.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network import lists
from virga.api.network.bodies import bodies_of
from virga.api.network.fields import Bad, Field, one_of, profile, text
from virga.api.network.noun import View, Who, forbidden, guarded, who_of
from virga.api.network.ports import PORTS, VNIC_TYPES, vif
from virga.domain.errors import Problem
from virga.domain.port import BOUND, Binding, Port
from virga.ops import port_bindings
from virga.store.db import Tx

FIELDS = {"host": Field(text(empty=False), put=False, required=True), "vnic_type": Field(one_of(*VNIC_TYPES)), "profile": Field(profile)}


def view(port: Port, binding: Binding) -> View:
    shown = vif(port, binding)
    return {
        "host": binding.host, "vif_type": shown["binding:vif_type"], "vif_details": shown["binding:vif_details"],
        "vnic_type": binding.vnic_type, "profile": binding.profile, "status": "ACTIVE" if binding.state == BOUND else "INACTIVE",
        "project_id": port.project_id,
    }


def admin(call: Call, verb: str) -> Who:
    who = who_of(call)
    if not who.admin:
        raise forbidden(f"rule:{verb}_port_binding")
    return who


def binding_of(tx: Tx, port: Port, host: str) -> Binding:
    binding = tx.get(Binding, port.id, host)
    if binding is None:
        raise Problem(404, f"Binding for port {port.id} for host {host[:80]} could not be found.", "PortBindingNotFound")
    return binding


async def on_list(call: Call) -> Response:
    who = admin(call, "get")

    def work(tx: Tx) -> View:
        port = PORTS.find(tx, who, call.params["id"])
        views = [view(port, binding) for binding in tx.find(Binding, port_id=port.id, sort=[("host", False)])]
        wished = lists.filters_of(call.query, frozenset({"host", "vif_type", "vnic_type", "status", "project_id"}))
        for name, values in wished.items():
            views = [item for item in views if lists.meets(item, name, values)]
        result = lists.page(views, call.query, "bindings", call.base_url() + call.path, "host")
        result["bindings"] = [lists.choose(item, call.query) for item in result["bindings"]]
        return result

    return reply(200, await call.cloud.db.read(work))


async def on_show(call: Call) -> Response:
    who = admin(call, "get")

    def work(tx: Tx) -> View:
        port = PORTS.find(tx, who, call.params["id"])
        return view(port, binding_of(tx, port, call.params["host"]))

    return reply(200, {"binding": lists.choose(await call.cloud.db.read(work), call.query)})


async def given(call: Call, creating: bool) -> dict[str, Any]:
    """The binding in the body, checked. Raises Problem 400."""
    body = bodies_of(await call.json(), "binding", "bindings", False)[0]
    if not isinstance(body, dict):
        raise Problem(400, "Invalid input for binding. Reason: a dictionary is expected.", "HTTPBadRequest")
    clean: dict[str, Any] = {}
    for name, value in body.items():
        field = FIELDS.get(name)
        if name in ("project_id", "tenant_id"):
            continue
        if field is None or not (creating or field.put):
            raise Problem(400, f"Unrecognized attribute(s) '{name[:80]}'", "HTTPBadRequest")
        try:
            clean[name] = field.check(value)
        except Bad as bad:
            raise Problem(400, f"Invalid input for {name}. Reason: {bad}.", "HTTPBadRequest") from bad
    if creating and "host" not in clean:
        raise Problem(400, "Failed to parse request. Required attribute 'host' not specified", "HTTPBadRequest")
    return clean


async def on_create(call: Call) -> Response:
    who = admin(call, "create")
    attrs = await given(call, creating=True)

    def work(tx: Tx) -> View:
        port = PORTS.find(tx, who, call.params["id"])
        if tx.get(Binding, port.id, attrs["host"]) is not None:
            raise Problem(409, f"Binding for port {port.id} on host {attrs['host']} already exists.", "PortBindingAlreadyExists")
        port_bindings.refuse_busy(tx, port)
        binding = port_bindings.add_binding(tx, port, attrs["host"], attrs.get("vnic_type", port.vnic_type), attrs.get("profile", {}))
        if binding.vif_type == port_bindings.BINDING_FAILED:
            raise Problem(409, f"Binding for port {port.id} on host {attrs['host']} could not be created: no such host.",
                          "PortBindingError")
        return view(port, binding)

    return reply(201, {"binding": await guarded(call, work)})


async def on_update(call: Call) -> Response:
    who = admin(call, "update")
    attrs = await given(call, creating=False)

    def work(tx: Tx) -> View:
        port = PORTS.find(tx, who, call.params["id"])
        binding = binding_of(tx, port, call.params["host"])
        if attrs:
            tx.update(Binding, port.id, binding.host, updated_at=tx.now, **attrs)
            tx.hint("hostview", "port:" + port.id)
        return view(port, binding_of(tx, port, binding.host))

    return reply(200, {"binding": await guarded(call, work)})


async def on_activate(call: Call) -> Response:
    who = admin(call, "activate")

    def work(tx: Tx) -> View:
        port = PORTS.find(tx, who, call.params["id"])
        binding = binding_of(tx, port, call.params["host"])
        if binding.state == BOUND:
            raise Problem(409, f"Binding for port {port.id} on host {binding.host} is already active.", "PortBindingAlreadyActive")
        port_bindings.refuse_busy(tx, port)
        port_bindings.make_active(tx, port, binding.host)
        return view(port, binding_of(tx, port, binding.host))

    return reply(200, {"binding": await guarded(call, work)})


async def on_delete(call: Call) -> Response:
    who = admin(call, "delete")

    def work(tx: Tx) -> None:
        port = PORTS.find(tx, who, call.params["id"])
        binding = binding_of(tx, port, call.params["host"])
        port_bindings.refuse_busy(tx, port)
        port_bindings.remove_binding(tx, port, binding.host)

    await guarded(call, work)
    return reply(204)


def mount(service: Service) -> None:
    root = "/v2.0/ports/{id}/bindings"
    service.table([
        ("GET", root, on_list), ("POST", root, on_create), ("GET", root + "/{host}", on_show), ("PUT", root + "/{host}", on_update),
        ("DELETE", root + "/{host}", on_delete), ("PUT", root + "/{host}/activate", on_activate),
    ])


