"""Who sees and changes what: own, shared, external, let in by a policy, and nobody else's."""
from __future__ import annotations

from typing import Any

import pytest

V2 = "/network/v2.0"


def make(client: Any, path: str, one: str, as_: str = "demo", status: int = 201, **attrs: Any) -> Any:
    response = client.post(f"{V2}/{path}", {one: attrs}, as_=as_)
    assert response.status_code == status, response.text
    return response.json()[one] if status == 201 else response.json()["NeutronError"]


def ids(client: Any, path: str, many: str, as_: str) -> set[str]:
    return {item["id"] for item in client.get(f"{V2}/{path}", as_=as_).json()[many]}


def network(client: Any, as_: str = "demo", cidr: str = "10.5.0.0/24", **attrs: Any) -> Any:
    net = make(client, "networks", "network", as_, name="n", **attrs)
    net["subnet"] = make(client, "subnets", "subnet", as_, network_id=net["id"], ip_version=4, cidr=cidr)["id"]
    return net


def test_others_things_do_not_exist(cloud_client: Any) -> None:
    net = network(cloud_client)
    port = make(cloud_client, "ports", "port", network_id=net["id"])
    router = make(cloud_client, "routers", "router", name="r")
    group = make(cloud_client, "security-groups", "security_group", name="g")
    for path, wanted in (("networks", net["id"]), ("subnets", net["subnet"]), ("ports", port["id"]), ("routers", router["id"]),
                         ("security-groups", group["id"])):
        for method, body in (("GET", None), ("PUT", {path.replace("-", "_")[:-1]: {"name": "mine"}}), ("DELETE", None)):
            response = cloud_client.call(method, f"{V2}/{path}/{wanted}", body, as_="other")
            assert response.status_code == 404, (method, path)
            assert cloud_client.get(f"{V2}/{path}/{wanted}", as_="demo").status_code == 200
        assert wanted not in ids(cloud_client, path, path.replace("-", "_"), "other")
        assert wanted in ids(cloud_client, path, path.replace("-", "_"), "admin")
    refusal = make(cloud_client, "ports", "port", "other", 404, network_id=net["id"])
    assert refusal["type"] == "NetworkNotFound"


def test_a_reader_looks_and_changes_nothing(cloud_client: Any) -> None:
    net = network(cloud_client)
    assert cloud_client.get(f"{V2}/networks/{net['id']}", as_="reader").status_code == 200
    for method, path, body in (
        ("POST", "networks", {"network": {}}), ("PUT", f"networks/{net['id']}", {"network": {"name": "x"}}),
        ("DELETE", f"networks/{net['id']}", None), ("PUT", f"networks/{net['id']}/tags", {"tags": ["x"]}),
        ("POST", "ports", {"port": {"network_id": net["id"]}}), ("POST", "routers", {"router": {}}),
    ):
        assert cloud_client.call(method, f"{V2}/{path}", body, as_="reader").status_code == 403, (method, path)


@pytest.mark.parametrize("attrs", [
    {"shared": True}, {"router:external": True}, {"provider:network_type": "vlan"}, {"provider:segmentation_id": 5}, {"is_default": True}])
def test_what_only_an_admin_may_set(cloud_client: Any, attrs: dict[str, Any]) -> None:
    assert make(cloud_client, "networks", "network", "demo", 403, **attrs)["type"] == "PolicyNotAuthorized"
    # an attribute given with the value it has anyway asks for nothing
    if list(attrs.values()) == [True]:
        make(cloud_client, "networks", "network", "demo", **dict.fromkeys(attrs, False))


def test_admin_attributes_are_hidden_and_cannot_be_filtered_out(cloud_client: Any) -> None:
    net = network(cloud_client)
    port = make(cloud_client, "ports", "port", network_id=net["id"])
    assert not any(name.startswith("provider:") for name in net)
    assert "binding:host_id" not in port and "binding:vnic_type" in port
    cloud_client.put(f"{V2}/ports/{port['id']}", {"port": {"binding:host_id": "somewhere"}})
    found = cloud_client.get(f"{V2}/ports?binding:host_id=somewhere", as_="demo").json()["ports"]
    assert found == []
    assert len(cloud_client.get(f"{V2}/ports?binding:host_id=somewhere").json()["ports"]) == 1
    refusal = cloud_client.put(f"{V2}/ports/{port['id']}", {"port": {"binding:host_id": "x"}}, as_="demo")
    assert refusal.status_code == 403


def test_a_shared_network_may_be_used_but_not_changed(cloud_client: Any) -> None:
    net = network(cloud_client, "admin", shared=True)
    seen = cloud_client.get(f"{V2}/networks/{net['id']}", as_="demo").json()["network"]
    assert seen["shared"] is True
    assert net["subnet"] in ids(cloud_client, "subnets", "subnets", "demo")
    assert cloud_client.put(f"{V2}/networks/{net['id']}", {"network": {"name": "x"}}, as_="demo").status_code == 403
    assert cloud_client.delete(f"{V2}/networks/{net['id']}", as_="demo").status_code == 403
    make(cloud_client, "ports", "port", network_id=net["id"])
    make(cloud_client, "ports", "port", network_id=net["id"], fixed_ips=[{"subnet_id": net["subnet"]}])
    for attrs in ({"mac_address": "fa:16:3e:00:00:09"}, {"fixed_ips": [{"ip_address": "10.5.0.9"}]}, {"port_security_enabled": False},
                  {"device_owner": "network:dhcp"}):
        make(cloud_client, "ports", "port", "demo", 403, network_id=net["id"], **attrs)
    # unsharing under a project that uses it is refused
    response = cloud_client.put(f"{V2}/networks/{net['id']}", {"network": {"shared": False}})
    assert response.status_code == 409 and response.json()["NeutronError"]["type"] == "InvalidSharedSetting"


def test_an_external_network_is_seen_with_its_subnets_and_gives_no_ports(cloud_client: Any) -> None:
    net = network(cloud_client, "admin", **{"router:external": True})
    assert net["id"] in ids(cloud_client, "networks", "networks", "demo")
    assert net["subnet"] in ids(cloud_client, "subnets", "subnets", "demo")
    make(cloud_client, "ports", "port", "demo", 403, network_id=net["id"])


def test_a_policy_lets_one_project_in_and_stays_while_it_is_used(cloud_client: Any) -> None:
    net = network(cloud_client)
    other = cloud_client.projects["other"]
    policy = make(cloud_client, "rbac-policies", "rbac_policy", object_type="network", object_id=net["id"], action="access_as_shared",
                  target_tenant=other)
    assert net["id"] in ids(cloud_client, "networks", "networks", "other")
    assert net["id"] not in {item["id"] for item in cloud_client.get(f"{V2}/networks?shared=True", as_="demo").json()["networks"]}
    port = make(cloud_client, "ports", "port", "other", network_id=net["id"])
    assert cloud_client.get(f"{V2}/ports/{port['id']}", as_="demo").status_code == 200  # the network's owner sees it
    refusal = cloud_client.delete(f"{V2}/rbac-policies/{policy['id']}", as_="demo")
    assert refusal.status_code == 409 and refusal.json()["NeutronError"]["type"] == "RbacPolicyInUse"
    assert cloud_client.delete(f"{V2}/ports/{port['id']}", as_="other").status_code == 204
    assert cloud_client.delete(f"{V2}/rbac-policies/{policy['id']}", as_="demo").status_code == 204
    assert net["id"] not in ids(cloud_client, "networks", "networks", "other")


def test_only_an_admin_shares_with_everybody_and_nobody_shares_what_is_not_theirs(cloud_client: Any) -> None:
    net = network(cloud_client)
    wish = {"object_type": "network", "object_id": net["id"], "action": "access_as_shared", "target_tenant": "*"}
    make(cloud_client, "rbac-policies", "rbac_policy", "demo", 403, **wish)
    make(cloud_client, "rbac-policies", "rbac_policy", "other", 404, **{**wish, "target_tenant": cloud_client.projects["other"]})
    make(cloud_client, "rbac-policies", "rbac_policy", "admin", **wish)
    assert make(cloud_client, "rbac-policies", "rbac_policy", "admin", 409, **wish)["type"] == "DuplicateRbacPolicy"
    assert cloud_client.get(f"{V2}/networks/{net['id']}", as_="other").json()["network"]["shared"] is True


def test_an_admin_makes_things_for_others_and_nobody_else_does(cloud_client: Any) -> None:
    other = cloud_client.projects["other"]
    assert make(cloud_client, "networks", "network", "admin", tenant_id=other)["project_id"] == other
    refusal = make(cloud_client, "networks", "network", "demo", 400, project_id=other)
    assert "admin privileges" in refusal["message"]


def test_quotas(cloud_client: Any) -> None:
    demo = cloud_client.projects["demo"]
    assert cloud_client.put(f"{V2}/quotas/{demo}", {"quota": {"network": 1}}, as_="demo").status_code == 403
    assert cloud_client.put(f"{V2}/quotas/{demo}", {"quota": {"network": 1, "port": "2"}}).json()["quota"]["port"] == 2
    make(cloud_client, "networks", "network")
    refusal = make(cloud_client, "networks", "network", "demo", 409)
    assert refusal["type"] == "OverQuota" and "network" in refusal["message"]
    details = cloud_client.get(f"{V2}/quotas/{demo}/details", as_="demo").json()["quota"]["network"]
    assert details == {"limit": 1, "used": 1, "reserved": 0}
    assert cloud_client.get(f"{V2}/quotas/{demo}", as_="other").status_code == 403
    assert [item["project_id"] for item in cloud_client.get(f"{V2}/quotas").json()["quotas"]] == [demo]
    assert cloud_client.put(f"{V2}/quotas/{demo}", {"quota": {"network": 0, "check_limit": True}}).status_code == 400
    assert cloud_client.delete(f"{V2}/quotas/{demo}").status_code == 204
    assert cloud_client.delete(f"{V2}/quotas/{demo}").status_code == 404
    make(cloud_client, "networks", "network")


def test_agents_are_the_admins_to_see(cloud_client: Any) -> None:
    from virga.domain.placement import UP, Host

    cloud_client.run(cloud_client.db.run(lambda tx: tx.insert(Host("host-1", "h1", state=UP))))
    agents = cloud_client.get(f"{V2}/agents").json()["agents"]
    assert {item["agent_type"] for item in agents} == {"Linux bridge agent", "DHCP agent", "L3 agent", "Metadata agent"}
    assert all(item["alive"] for item in agents)
    assert cloud_client.get(f"{V2}/agents/{agents[0]['id']}").json()["agent"] == agents[0]
    assert cloud_client.get(f"{V2}/agents", as_="demo").json() == {"agents": []}
    assert cloud_client.get(f"{V2}/agents/{agents[0]['id']}", as_="demo").status_code == 404
    assert {item["resource"] for item in cloud_client.get(f"{V2}/availability_zones", as_="demo").json()["availability_zones"]} == {
        "network", "router"}


def test_a_shared_group_stays_shared_while_others_ports_are_in_it(cloud_client: Any) -> None:
    group = make(cloud_client, "security-groups", "security_group", name="g")["id"]
    policy = make(cloud_client, "rbac-policies", "rbac_policy", object_type="security_group", object_id=group, action="access_as_shared",
                  target_tenant=cloud_client.projects["other"])["id"]
    net = network(cloud_client, "other")
    port = make(cloud_client, "ports", "port", "other", network_id=net["id"], security_groups=[group])["id"]
    assert cloud_client.delete(f"{V2}/rbac-policies/{policy}", as_="demo").status_code == 409
    assert cloud_client.put(f"{V2}/ports/{port}", {"port": {"security_groups": []}}, as_="other").status_code == 200
    assert cloud_client.delete(f"{V2}/rbac-policies/{policy}", as_="demo").status_code == 204
    assert cloud_client.get(f"{V2}/security-groups/{group}", as_="other").status_code == 404


def test_unsharing_leaves_out_projects_with_a_policy_of_their_own(cloud_client: Any) -> None:
    net = network(cloud_client, "admin", shared=True)
    make(cloud_client, "rbac-policies", "rbac_policy", "admin", object_type="network", object_id=net["id"], action="access_as_shared",
         target_tenant=cloud_client.projects["demo"])
    make(cloud_client, "ports", "port", network_id=net["id"])
    assert cloud_client.put(f"{V2}/networks/{net['id']}", {"network": {"shared": False}}).status_code == 200
    assert cloud_client.get(f"{V2}/networks/{net['id']}", as_="demo").status_code == 200
    assert cloud_client.get(f"{V2}/networks/{net['id']}", as_="other").status_code == 404
