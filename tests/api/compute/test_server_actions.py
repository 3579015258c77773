"""POST /servers/{id}/action: who may, in which state, at which version, and what is refused how."""

from __future__ import annotations

from typing import Any

import pytest

from api.compute.servers_house import House, refused
from virga.api.compute.server_actions import ACTIONS
from virga.domain.image import Image
from virga.domain.operation import Action, Migration
from virga.domain.server import (
    ACTIVE,
    BUILDING,
    ERROR,
    PAUSED,
    RESIZED,
    SHELVED,
    SHELVED_OFFLOADED,
    STOPPED,
    SUSPENDED,
    FlavorSpec,
)

STATES = (ACTIVE, BUILDING, STOPPED, PAUSED, SUSPENDED, RESIZED, ERROR, SHELVED, SHELVED_OFFLOADED)
IMAGE = "11111111-2222-3333-4444-555555555555"
# action -> (body, states it is legal in): the compute API's state table
LEGAL: dict[str, tuple[Any, set[str]]] = {
    "os-start": (None, {STOPPED}),
    "os-stop": (None, {ACTIVE, ERROR}),
    "pause": (None, {ACTIVE}),
    "unpause": (None, {PAUSED}),
    "suspend": (None, {ACTIVE}),
    "resume": (None, {SUSPENDED}),
    "resize": ({"flavorRef": "2"}, {ACTIVE, STOPPED}),
    "migrate": (None, {ACTIVE, STOPPED}),
    "os-migrateLive": ({"host": None, "block_migration": "auto"}, {ACTIVE, PAUSED}),
    "createImage": ({"name": "i"}, {ACTIVE, STOPPED, PAUSED, SUSPENDED}),
    "shelve": (None, {ACTIVE, STOPPED, PAUSED, SUSPENDED}),
    "confirmResize": (None, {RESIZED}),
    "revertResize": (None, {RESIZED}),
    "rebuild": ({"imageRef": "IMAGE"}, {ACTIVE, STOPPED, ERROR}),
}


@pytest.fixture
def house(cloud_client: Any) -> House:
    return House(cloud_client)


def prepare(house: House, state: str) -> str:
    server_id = house.server(vm_state=state, host=None if state == SHELVED_OFFLOADED else "host-1")
    if state == RESIZED:
        house.change(server_id, host="host-2", old_vm_state=ACTIVE, old_flavor=FlavorSpec("2", "large", 2, 1024, 10))
        migration = Migration(
            house.client.env.new_id(),
            house.count() + 100,
            server_id,
            "p",
            "u",
            "resize",
            "finished",
            "host-1",
            "host-2",
        )
        house.client.run(house.client.db.run(lambda tx: tx.insert(migration)))
    return server_id


@pytest.mark.parametrize("name", sorted(LEGAL))
@pytest.mark.parametrize("state", STATES)
def test_an_action_is_taken_in_its_states_only(house: House, name: str, state: str) -> None:
    value, legal = LEGAL[name]
    if name == "rebuild":
        value = {"imageRef": house.image}
    server_id = prepare(house, state)
    answer = house.act(server_id, {name: value}, as_="admin")
    if state in legal:
        assert answer.status_code in (202, 204), answer.text
        row = house.row(server_id)
        taken = house.client.run(house.client.db.read(lambda tx: tx.find(Action, server_id=server_id)))
        assert len(taken) == 1 and taken[0].request_id == answer.headers["x-openstack-request-id"]
        assert row.task_state is not None or name == "confirmResize"
    else:
        refused(answer, 409, server_id, f"vm_state {state}")
        assert house.client.run(house.client.db.read(lambda tx: tx.count(Action, server_id=server_id))) == 0


@pytest.mark.parametrize("name", sorted(LEGAL))
def test_a_busy_or_locked_server_takes_no_action(house: House, name: str) -> None:
    value, legal = LEGAL[name]
    if name == "rebuild":
        value = {"imageRef": house.image}
    state = sorted(legal)[0]
    server_id = prepare(house, state)
    who = "manager" if name in ("migrate", "os-migrateLive") else "demo"
    house.change(server_id, task_state="rebooting")
    refused(house.act(server_id, {name: value}, as_=who), 409, "task_state rebooting")
    house.change(server_id, task_state=None, locked=True)
    refused(house.act(server_id, {name: value}, as_=who), 409, "locked")
    assert (
        house.client.run(house.client.db.read(lambda tx: tx.count(Image, owner=house.client.projects["demo"]))) == 0
    )


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_roles(house: House, name: str) -> None:
    server_id = house.server()
    action = ACTIONS[name]
    version = "2.1" if action.until < (2, 96) else "2.96"
    body = {name: LEGAL.get(name, (None, set()))[0]}
    refused(house.act(server_id, body, version=version, as_="reader"), 403)
    if action.role != "member":
        refused(house.act(server_id, body, version=version, as_="demo"), 403)
    if action.role == "admin":
        refused(house.act(server_id, body, version=version, as_="manager"), 403)
    missing = "11111111-2222-3333-4444-555555555555"
    answer = house.act(missing, body, version=version, as_="admin")
    assert answer.status_code in (400, 404), answer.text  # 400 where the parameters are looked at first


@pytest.mark.parametrize("name", sorted(name for name, action in ACTIONS.items() if action.until < (2, 96)))
def test_an_action_that_ended_is_404(house: House, name: str) -> None:
    server_id = house.server()
    last = ACTIONS[name].until
    refused(house.act(server_id, {name: {}}, version=f"2.{last[1] + 1}"), 404, name)
    assert house.act(server_id, {name: {}}, version=f"2.{last[1]}").status_code in (202, 400)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "one action"),
        ({"os-stop": None, "os-start": None}, "one action"),
        ({"fly": None}, "fly"),
        ([], "object"),
        ({"reboot": {}}, "type"),
        ({"reboot": {"type": "MEDIUM"}}, "MEDIUM"),
        ({"reboot": None}, "reboot"),
        ({"resize": {"flavorRef": ""}}, "flavorRef"),
        ({"resize": {"flavorRef": None}}, "flavorRef"),
        ({"resize": {}}, "flavorRef"),
        ({"resize": {"flavorRef": "nope"}}, "nope"),
        ({"resize": {"flavorRef": "1"}}, "flavor"),
        ({"resize": {"flavorRef": "2", "x": 1}}, "x"),
        ({"rebuild": {}}, "imageRef"),
        ({"rebuild": {"imageRef": "x"}}, "imageRef"),
        ({"rebuild": {"imageRef": IMAGE}}, IMAGE),
        ({"rebuild": {"imageRef": IMAGE, "name": ""}}, "name"),
        ({"createImage": {}}, "name"),
        ({"createImage": {"name": ""}}, "name"),
        ({"createImage": {"name": "x", "metadata": {"k": "v" * 256}}}, "metadata.k"),
        ({"createBackup": {"name": "b"}}, "backup_type"),
        ({"createBackup": {"name": "b", "backup_type": "daily", "rotation": -1}}, "rotation"),
        ({"createBackup": {"name": "b", "backup_type": "daily", "rotation": "x"}}, "rotation"),
        ({"lock": {"locked_reason": 1}}, "locked_reason"),
        ({"os-stop": {"force": True}}, "parameters"),
        ({"os-resetState": {"state": "gone"}}, "state"),
        ({"os-resetState": {}}, "state"),
        ({"os-migrateLive": {"host": None}}, "block_migration"),
        ({"os-migrateLive": {"host": "nobody", "block_migration": "auto"}}, "nobody"),
        ({"migrate": {"host": "nobody"}}, "nobody"),
        ({"migrate": {"host": "host-1"}}, "host-1"),
        ({"evacuate": {}}, "host-1"),
        ({"unshelve": {}}, "availability_zone"),
        ({"changePassword": {}}, "adminPass"),
        ({"os-getConsoleOutput": {"length": "x"}}, "length"),
        ({"addSecurityGroup": {}}, "name"),
        ({"removeSecurityGroup": {"name": ""}}, "name"),
        ({"changePassword": {"adminPass": 1}}, "adminPass"),
    ],
)
def test_parameters_that_are_wrong_are_named(house: House, body: Any, word: str) -> None:
    server_id = house.server()
    before = house.row(server_id)
    refused(house.act(server_id, body, as_="admin"), 400, word)
    assert house.row(server_id) == before


def test_parameters_that_are_not_there_yet(house: House) -> None:
    server_id = house.server()
    refused(house.act(server_id, {"lock": {"locked_reason": "x"}}, version="2.72"), 400, "2.73")
    refused(house.act(server_id, {"migrate": {"host": "host-2"}}, version="2.55", as_="admin"), 400, "host")
    refused(
        house.act(server_id, {"rebuild": {"imageRef": house.image, "key_name": None}}, version="2.53"),
        400,
        "key_name",
    )
    house.change(server_id, vm_state=SHELVED_OFFLOADED, host=None)
    refused(house.act(server_id, {"unshelve": {"availability_zone": "west"}}, version="2.76"), 400, "2.77")
    refused(house.act(server_id, {"unshelve": {"availability_zone": "mars"}}, version="2.77"), 400, "zone")
    refused(house.act(server_id, {"unshelve": {"host": "host-1"}}, version="2.91"), 403)


def test_lock_keeps_its_reason_and_an_admins_lock_stays(house: House) -> None:
    server_id = house.server()
    assert house.act(server_id, {"lock": {"locked_reason": "mine"}}).status_code == 202
    shown = house.call("GET", f"/servers/{server_id}").json()["server"]
    assert (shown["locked"], shown["locked_reason"]) == (True, "mine")
    assert house.act(server_id, {"unlock": None}).status_code == 202
    assert house.act(server_id, {"lock": None}, as_="admin").status_code == 202
    refused(house.act(server_id, {"unlock": None}), 403)
    assert house.row(server_id).locked
    assert house.act(server_id, {"unlock": None}, as_="admin").status_code == 202
    assert not house.row(server_id).locked


def test_a_snapshot_is_there_at_once_and_says_where_it_came_from(house: House) -> None:
    server_id = house.server()
    answer = house.act(server_id, {"createImage": {"name": "snap", "metadata": {"mine": "yes"}}})
    image_id = answer.json()["image_id"]
    image = house.client.run(house.client.db.read(lambda tx: tx.need(Image, image_id)))
    assert (image.name, image.owner, image.status) == ("snap", house.client.projects["demo"], "saving")
    assert image.properties["instance_uuid"] == server_id
    assert image.properties["base_image_ref"] == house.image
    assert (image.properties["image_type"], image.properties["mine"]) == ("snapshot", "yes")
    house.change(server_id, task_state=None, operation_id=None)


def test_where_the_snapshots_id_stands(house: House) -> None:
    for version, in_body in (("2.44", False), ("2.45", True)):
        answer = house.act(house.server(), {"createImage": {"name": "snap"}}, version=version)
        assert answer.status_code == 202
        assert bool(answer.content) is in_body
        if not in_body:
            image_id = answer.headers["location"].rpartition("/")[2]
            assert house.client.get(f"/image/v2/images/{image_id}", as_="demo").status_code == 200


def test_backups_rotate_by_kind(house: House) -> None:
    def backups(kind: str) -> list[str]:
        images = house.client.run(
            house.client.db.read(lambda tx: tx.find(Image, owner=house.client.projects["demo"]))
        )
        return sorted(image.name for image in images if image.properties.get("backup_type") == kind)

    server_id = house.server()
    for number in range(4):
        action = {"createBackup": {"name": f"d{number}", "backup_type": "daily", "rotation": 2}}
        assert house.act(server_id, action).status_code == 202
        action = {"createBackup": {"name": f"w{number}", "backup_type": "weekly", "rotation": 3}}
        house.client.run(house.client.db.run(lambda tx: _idle(tx, server_id)))
        assert house.act(server_id, action).status_code == 202
        house.client.run(house.client.db.run(lambda tx: _idle(tx, server_id)))
    assert backups("daily") == ["d2", "d3"]
    assert backups("weekly") == ["w1", "w2", "w3"]


def _idle(tx: Any, server_id: str) -> None:
    """As if the engine had ended what holds the server."""
    from virga.domain.operation import Operation
    from virga.domain.server import Server

    for op in tx.find(Operation, server_id=server_id, state="running"):
        tx.update(Operation, op.id, state="done")
    tx.update(Server, server_id, task_state=None, operation_id=None)


def test_rebuild_changes_what_it_is_told_and_shows_it(house: House) -> None:
    server_id = house.server(key_name="old", metadata={"a": "b"})
    answer = house.act(
        server_id,
        {
            "rebuild": {
                "imageRef": house.image,
                "name": "new",
                "metadata": {"c": "d"},
                "adminPass": "secret",
                "key_name": None,
                "description": "d",
                "user_data": "eA==",
                "hostname": "h",
            }
        },
    )
    body = answer.json()["server"]
    assert answer.status_code == 202
    assert (body["status"], body["name"], body["adminPass"], body["key_name"]) == ("REBUILD", "new", "secret", None)
    row = house.row(server_id)
    assert (row.metadata, row.user_data, row.hostname, row.admin_pass) == ({"c": "d"}, "eA==", "h", "secret")


def test_what_is_not_offered_says_so(house: House) -> None:
    server_id = house.server()
    for name in ("os-getVNCConsole", "os-getSPICEConsole", "os-getRDPConsole", "os-getSerialConsole"):
        refused(house.act(server_id, {name: {"type": "novnc"}}, version="2.1"), 400, "console")
    body = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    refused(house.call("POST", f"/servers/{server_id}/remote-consoles", body), 400, "console")
    refused(house.call("POST", f"/servers/{server_id}/remote-consoles", body, version="2.5"), 404)
    refused(
        house.call(
            "POST",
            f"/servers/{server_id}/remote-consoles",
            {"remote_console": {"protocol": "mks", "type": "webmks"}},
            version="2.7",
        ),
        400,
        "mks",
    )
    refused(house.act(server_id, {"changePassword": {"adminPass": "x"}}), 409, "password")
    refused(house.act(server_id, {"os-getConsoleOutput": {}}), 409, server_id)
    volume = {"volumeAttachment": {"volumeId": IMAGE}}
    refused(house.call("POST", f"/servers/{server_id}/os-volume_attachments", volume), 400, "block storage")
    assert house.call("GET", f"/servers/{server_id}/os-volume_attachments").json() == {"volumeAttachments": []}
    refused(house.call("GET", f"/servers/{server_id}/os-volume_attachments/{IMAGE}"), 404, IMAGE)


def test_diagnostics_and_topology(house: House) -> None:
    server_id = house.server()
    refused(house.call("GET", f"/servers/{server_id}/diagnostics"), 403)
    found = house.call("GET", f"/servers/{server_id}/diagnostics", as_="admin").json()
    assert (found["state"], found["num_cpus"], found["memory_details"]) == (
        "pending",
        1,
        {"maximum": 512, "used": None},
    )
    refused(house.call("GET", f"/servers/{server_id}/topology", version="2.77"), 404)
    assert house.call("GET", f"/servers/{server_id}/topology").json() == {"nodes": [], "pagesize_kb": None}
    house.change(server_id, host=None, vm_state=SHELVED_OFFLOADED)
    refused(house.call("GET", f"/servers/{server_id}/diagnostics", as_="admin"), 409)


def test_reset_state(house: House) -> None:
    server_id = house.server(task_state="deleting")
    assert house.act(server_id, {"os-resetState": {"state": "error"}}, as_="admin").status_code == 202
    assert (house.row(server_id).vm_state, house.row(server_id).task_state) == (ERROR, None)
    assert house.act(server_id, {"os-resetState": {"state": "active"}}, as_="admin").status_code == 202
    assert house.row(server_id).vm_state == ACTIVE


def test_evacuate_only_from_a_host_that_is_down(house: House) -> None:
    from virga.domain.placement import Host

    server_id = house.server()
    refused(house.act(server_id, {"evacuate": {}}, as_="admin"), 400, "host-1")
    house.client.run(house.client.db.run(lambda tx: tx.update(Host, "host-1", forced_down=True)))
    refused(house.act(server_id, {"evacuate": {"host": "nobody"}}, as_="admin"), 404, "nobody")
    answer = house.act(
        server_id, {"evacuate": {"onSharedStorage": False, "adminPass": "x"}}, version="2.13", as_="admin"
    )
    assert (answer.status_code, answer.json()) == (200, {"adminPass": "x"})
    assert str(house.row(server_id).task_state).startswith("rebuild")


@pytest.mark.parametrize(("version", "was"), [("2.94", ACTIVE), ("2.95", STOPPED)])
def test_an_evacuated_server_stays_stopped_since_2_95(house: House, version: str, was: str) -> None:
    from virga.domain.operation import Operation
    from virga.domain.placement import Host

    server_id = house.server()
    house.client.run(house.client.db.run(lambda tx: tx.update(Host, "host-1", forced_down=True)))
    assert house.act(server_id, {"evacuate": {}}, version=version, as_="admin").status_code == 200
    (op,) = house.client.run(house.client.db.read(lambda tx: tx.find(Operation, server_id=server_id)))
    assert op.input["was"] == was
