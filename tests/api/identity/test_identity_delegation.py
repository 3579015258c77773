"""Access rules of application credentials, and trusts."""
from __future__ import annotations

from typing import Any

import pytest

from virga.domain.identity import rule_matches


@pytest.mark.parametrize(("pattern", "path", "matches"), [
    ("/v2.1/servers", "/v2.1/servers", True),
    ("/v2.1/servers", "/v2.1/servers/x", False),
    ("/v2.1/servers/*/ips", "/v2.1/servers/x/ips", True),
    ("/v2.1/servers/*/ips", "/v2.1/servers/x/y/ips", False),
    ("/v2.1/servers/{id}", "/v2.1/servers/x", True),
    ("/v2.1/**", "/v2.1/servers/x/y", True),
    ("/v2.1/**/ips", "/v2.1/servers/x/ips", True),
    ("/v2.1/**/ips", "/v2.1/servers/x", False),
    ("/**", "/" + "a/" * 1000, False),
    ("/v2.1/*", "/v2.1", False),
])
def test_rule_patterns(pattern: str, path: str, matches: bool) -> None:
    assert rule_matches(pattern, path) is matches


def credential(who: Any, rules: list[dict[str, str]], name: str = "c") -> dict[str, Any]:
    base = f"/users/{who.client.users['demo']}/application_credentials"
    answer = who.post(base, {"application_credential": {"name": name, "access_rules": rules}}, as_="demo")
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()["application_credential"]
    return made


def enter(who: Any, made: dict[str, Any]) -> str:
    answer = who.ask({"methods": ["application_credential"],
                      "application_credential": {"id": made["id"], "secret": made["secret"]}})
    assert answer.status_code == 201
    return str(answer.headers["x-subject-token"])


def test_a_credential_with_rules_makes_only_those_requests(who: Any) -> None:
    demo = who.client.users["demo"]
    made = credential(who, [{"service": "identity", "method": "GET", "path": "/v3/users/*"}])
    text = enter(who, made)
    assert who.get(f"/users/{demo}", as_=text).status_code == 200
    for method, path in (("GET", f"/users/{demo}/projects"), ("GET", "/auth/projects"), ("HEAD", f"/users/{demo}"),
                         ("PATCH", f"/users/{demo}")):
        assert who.client.call(method, "/identity/v3" + path, {}, as_=text).status_code == 401, (method, path)
    free = credential(who, [], "free")
    assert free["access_rules"] is None
    assert who.get("/auth/projects", as_=enter(who, free)).status_code == 200


def test_rules_are_shared_kept_while_used_and_nobody_elses(who: Any) -> None:
    rule = {"service": "compute", "method": "GET", "path": "/v2.1/servers"}
    one, two = credential(who, [rule]), credential(who, [rule], "d")
    assert one["access_rules"] == two["access_rules"]
    rule_id = one["access_rules"][0]["id"]
    base = f"/users/{who.client.users['demo']}/access_rules"
    assert [item["id"] for item in who.get(base, as_="demo").json()["access_rules"]] == [rule_id]
    assert who.get(f"{base}/{rule_id}", as_="demo").json()["access_rule"]["path"] == "/v2.1/servers"
    assert who.get(base, as_="other").status_code == 403
    assert who.delete(f"{base}/{rule_id}", as_="demo").status_code == 403, "in use"
    for made in (one, two):
        who.delete(f"/users/{who.client.users['demo']}/application_credentials/{made['id']}", as_="demo")
    again = credential(who, [{"id": rule_id}])
    assert again["access_rules"] == one["access_rules"]
    who.delete(f"/users/{who.client.users['demo']}/application_credentials/{again['id']}", as_="demo")
    assert who.delete(f"{base}/{rule_id}", as_="demo").status_code == 204
    assert who.get(f"{base}/{rule_id}", as_="demo").status_code == 404


@pytest.mark.parametrize("rule", [
    {}, {"service": "compute"}, {"service": "compute", "method": "FETCH", "path": "/"}, {"id": "0" * 32},
    {"service": "compute", "method": "GET", "path": "servers"}, {"service": "compute", "method": "GET", "path": "/**" * 4}, 5])
def test_bad_rules(who: Any, rule: Any) -> None:
    base = f"/users/{who.client.users['demo']}/application_credentials"
    answer = who.post(base, {"application_credential": {"name": "c", "access_rules": [rule]}}, as_="demo")
    assert answer.status_code == 400
    assert "access_rules" in answer.json()["error"]["message"]


# trusts -------------------------------------------------------------------------------------------------------------
def trust(who: Any, as_: str = "demo", **fields: Any) -> Any:
    users = who.client.users
    return who.post("/OS-TRUST/trusts", {"trust": {
        "trustor_user_id": users["demo"], "trustee_user_id": users["other"], "project_id": who.client.projects["demo"],
        "impersonation": False, "roles": [{"name": "member"}], **fields}}, as_=as_)


def use(who: Any, trust_id: str, as_user: str = "other") -> Any:
    return who.log_in(who.client.users[as_user], {"OS-TRUST:trust": {"id": trust_id}})


@pytest.mark.parametrize("impersonation", [True, False])
def test_a_trustee_acts_on_the_trustors_project(who: Any, impersonation: bool) -> None:
    users = who.client.users
    made = trust(who, impersonation=impersonation).json()["trust"]
    assert [role["name"] for role in made["roles"]] == ["member"]
    answer = use(who, made["id"])
    token = answer.json()["token"]
    assert token["user"]["id"] == users["demo" if impersonation else "other"]
    assert token["project"]["id"] == who.client.projects["demo"]
    assert token["OS-TRUST:trust"] == {
        "id": made["id"], "impersonation": impersonation, "trustor_user": {"id": users["demo"]},
        "trustee_user": {"id": users["other"]}}
    text = answer.headers["x-subject-token"]
    assert who.alive(text)
    assert use(who, made["id"], "reader").status_code == 403, "not the trustee"
    assert who.ask({"methods": ["token"], "token": {"id": text}}).status_code == 403
    credentials = f"/users/{users['demo' if impersonation else 'other']}/application_credentials"
    assert who.post(credentials, {"application_credential": {"name": "x"}}, as_=text).status_code == 403
    assert trust(who, as_=text, trustor_user_id=token["user"]["id"]).status_code == 403, "no redelegation"
    one = f"/OS-TRUST/trusts/{made['id']}"
    assert who.delete(one, as_="other").status_code == 403
    assert who.delete(one, as_="demo").status_code == 204
    assert not who.alive(text)
    assert who.get(one, as_="admin").status_code == 404
    assert use(who, made["id"]).status_code == 401


def test_a_trust_is_worth_nothing_without_the_trustors_role(who: Any) -> None:
    made = trust(who).json()["trust"]
    text = use(who, made["id"]).headers["x-subject-token"]
    users, project = who.client.users, who.client.projects["demo"]
    assert who.delete(f"/projects/{project}/users/{users['demo']}/roles/{who.role_id('member')}").status_code == 204
    assert not who.alive(text)
    assert use(who, made["id"]).status_code == 401


def test_uses_are_counted_and_time_runs_out(who: Any) -> None:
    made = trust(who, remaining_uses=1).json()["trust"]
    assert use(who, made["id"]).status_code == 201
    assert use(who, made["id"]).status_code == 401
    later = trust(who, expires_at="2099-01-01T00:00:00Z").json()["trust"]
    text = use(who, later["id"]).headers["x-subject-token"]
    client = who.client
    client.env.now = lambda: 4102444800.0  # 2100
    assert not who.alive(text)
    assert use(who, later["id"]).status_code == 401


def test_who_may_look(who: Any) -> None:
    users = who.client.users
    made = trust(who).json()["trust"]
    one = f"/OS-TRUST/trusts/{made['id']}"
    assert who.get(one, as_="other").status_code == who.get(one, as_="demo").status_code == 200
    assert who.get(one, as_="reader").status_code == 403
    assert who.get("/OS-TRUST/trusts", as_="demo").status_code == 403
    mine = who.get(f"/OS-TRUST/trusts?trustee_user_id={users['other']}", as_="other").json()["trusts"]
    assert [item["id"] for item in mine] == [made["id"]]
    assert who.get(f"{one}/roles/{who.role_id('member')}", as_="demo").status_code == 200
    assert who.head(f"{one}/roles/{who.role_id('reader')}", as_="demo").status_code == 404


@pytest.mark.parametrize(("change", "status"), [
    ({"roles": []}, 400), ({"project_id": None}, 400), ({"expires_at": "bad.123Z"}, 400),
    ({"expires_at": "2001-01-01T00:00:00Z"}, 400), ({"remaining_uses": 0}, 400), ({"impersonation": "yes"}, 400),
    ({"roles": [{"name": "admin"}]}, 403), ({"allow_redelegation": True}, 403), ({"trustee_user_id": "0" * 32}, 404),
])
def test_bad_trusts(who: Any, change: dict[str, Any], status: int) -> None:
    assert trust(who, **change).status_code == status


def test_nobody_makes_one_for_another(who: Any) -> None:
    assert trust(who, as_="other").status_code == trust(who, as_="admin").status_code == 403
