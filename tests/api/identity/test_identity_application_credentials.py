"""Application credentials and the stored credentials of other protocols."""
from __future__ import annotations

import json
from typing import Any

import pytest

from virga.domain.identity import ApplicationCredential


def path(who: Any, name: str = "demo") -> str:
    return f"/users/{who.client.users[name]}/application_credentials"


def make(who: Any, as_: str = "demo", **fields: Any) -> Any:
    return who.post(path(who, as_), {"application_credential": {"name": "c", **fields}}, as_=as_)


def use(who: Any, made: dict[str, Any], **more: Any) -> Any:
    how = {"id": made["id"], "secret": made["secret"], **more}
    return who.ask({"methods": ["application_credential"], "application_credential": how})


def test_life_cycle_and_log_in(who: Any) -> None:
    made = make(who).json()["application_credential"]
    assert made["project_id"] == who.client.projects["demo"]
    assert {role["name"] for role in made["roles"]} == {"member", "reader"}
    assert made["unrestricted"] is False
    one = f"{path(who)}/{made['id']}"
    shown = who.get(one, as_="demo").json()["application_credential"]
    assert "secret" not in shown
    assert shown["expires_at"] is None
    answer = use(who, made)
    token = answer.json()["token"]
    assert token["application_credential"] == {"id": made["id"], "name": "c", "restricted": True}
    assert token["project"]["name"] == "demo"
    assert token["methods"] == ["application_credential"]
    assert [item["id"] for item in who.get(path(who), as_="demo").json()["application_credentials"]] == [made["id"]]
    assert make(who).status_code == 409
    text = answer.headers["x-subject-token"]
    assert who.alive(text)
    assert who.delete(one, as_="demo").status_code == 204
    assert not who.alive(text)
    assert use(who, made).status_code == 401
    assert who.get(one, as_="demo").status_code == 404


def test_by_name_with_own_secret_and_wrong_ones(who: Any) -> None:
    made = make(who, secret="mine").json()["application_credential"]
    assert made["secret"] == "mine"
    row = who.client.run(who.client.db.read(lambda tx: tx.need(ApplicationCredential, made["id"])))
    assert "mine" not in repr(row)
    user = {"name": "demo", "domain": {"name": "Default"}}
    by_name = {"name": "c", "user": user, "secret": "mine"}
    ask = {"methods": ["application_credential"], "application_credential": by_name}
    assert who.ask(ask).status_code == 201
    assert who.ask(ask, who.project_scope(who.client.projects["demo"])).status_code == 401, "takes no scope"
    by_name["secret"] = "other"
    assert who.ask(ask).status_code == 401


def test_fewer_roles_and_none_the_token_lacks(who: Any) -> None:
    made = make(who, roles=[{"name": "reader"}]).json()["application_credential"]
    assert [role["name"] for role in use(who, made).json()["token"]["roles"]] == ["reader"]
    refused = make(who, name="d", roles=[{"name": "admin"}])
    assert refused.status_code == 400
    assert "admin" in refused.json()["error"]["message"]


def test_it_is_worth_no_more_than_its_user(who: Any) -> None:
    made = make(who).json()["application_credential"]
    text = use(who, made).headers["x-subject-token"]
    member = f"/projects/{who.client.projects['demo']}/users/{who.client.users['demo']}/roles/{who.role_id('member')}"
    assert who.delete(member).status_code == 204
    assert not who.alive(text)
    assert use(who, made).status_code == 401


@pytest.mark.parametrize("unrestricted", [False, True])
def test_only_unrestricted_ones_manage_others(who: Any, unrestricted: bool) -> None:
    made = make(who, unrestricted=unrestricted).json()["application_credential"]
    text = use(who, made).headers["x-subject-token"]
    another = who.post(path(who), {"application_credential": {"name": "d"}}, as_=text)
    assert another.status_code == (201 if unrestricted else 403)
    gone = who.delete(f"{path(who)}/{made['id']}", as_=text)
    assert gone.status_code == (204 if unrestricted else 403)


def test_a_token_of_one_cannot_be_traded(who: Any) -> None:
    text = use(who, make(who).json()["application_credential"]).headers["x-subject-token"]
    assert who.ask({"methods": ["token"], "token": {"id": text}}).status_code == 403


def test_expiry(who: Any) -> None:
    assert make(who, expires_at="2001-01-01T00:00:00").status_code == 400
    assert make(who, expires_at="soon").status_code == 400
    made = make(who, expires_at="2099-01-01T00:00:00.000000").json()["application_credential"]
    assert made["expires_at"] == "2099-01-01T00:00:00.000000"
    text = use(who, made).headers["x-subject-token"]
    client = who.client
    client.env.now = lambda: 4102444800.0  # 2100
    assert use(who, made).status_code == 401
    assert not who.alive(text)


def test_nobody_elses(who: Any) -> None:
    made = make(who).json()["application_credential"]
    one = f"{path(who)}/{made['id']}"
    for as_ in ("other", "reader"):
        assert who.get(path(who), as_=as_).status_code == 403
        assert who.get(one, as_=as_).status_code == 403
        assert who.delete(one, as_=as_).status_code == 403
    assert who.post(path(who), {"application_credential": {"name": "x"}}).status_code == 403, "not even an admin"
    assert who.get(one).status_code == 200
    assert who.get(one.replace(who.client.users["demo"], who.client.users["other"]), as_="other").status_code == 404


def test_unscoped_tokens_cannot_make_one(who: Any) -> None:
    text = who.token(who.client.users["demo"], "unscoped")
    assert who.post(path(who), {"application_credential": {"name": "x"}}, as_=text).status_code == 400


# stored credentials -------------------------------------------------------------------------------------------------
def test_credential_life_cycle(who: Any) -> None:
    demo, project = who.client.users["demo"], who.client.projects["demo"]
    blob = json.dumps({"access": "a", "secret": "s"})
    made = who.make("credential", "credentials", type="ec2", blob=blob, user_id=demo, project_id=project)
    one = f"/credentials/{made['id']}"
    assert who.get(one).json()["credential"] == made
    assert who.post("/credentials", {"credential": {
        "type": "ec2", "blob": blob, "user_id": demo, "project_id": project}}).status_code == 409
    newer = json.dumps({"access": "b", "secret": "t"})
    assert who.patch(one, {"credential": {"blob": newer}}).json()["credential"]["blob"] == newer
    assert who.patch(one, {"credential": {"type": "totp"}}).status_code == 400
    assert who.patch(one, {"credential": {"user_id": who.client.users["other"]}}).status_code == 400
    assert [item["id"] for item in who.get(f"/credentials?user_id={demo}&type=ec2").json()["credentials"]] == [made["id"]]
    assert who.get(one, as_="demo").status_code == 200
    assert who.get(one, as_="other").status_code == 403
    assert who.get("/credentials", as_="other").json()["credentials"] == []
    assert who.delete(one, as_="other").status_code == 403
    assert who.delete(one).status_code == 204
    assert who.get(one).status_code == 404


@pytest.mark.parametrize("blob", ["no json", "[]", "{}", '{"access": 1, "secret": "s"}'])
def test_an_ec2_blob_must_make_sense(who: Any, blob: str) -> None:
    answer = who.post("/credentials", {"credential": {"type": "ec2", "blob": blob, "project_id": "x"}})
    assert answer.status_code == 400
    assert "credential.blob" in answer.json()["error"]["message"]


def test_ec2_view(who: Any) -> None:
    demo, project = who.client.users["demo"], who.client.projects["demo"]
    base = f"/users/{demo}/credentials/OS-EC2"
    made = who.post(base, {"tenant_id": project}, as_="demo").json()["credential"]
    assert (made["user_id"], made["tenant_id"], made["trust_id"]) == (demo, project, None)
    one = f"{base}/{made['access']}"
    assert who.get(one, as_="demo").json()["credential"] == made
    assert [item["access"] for item in who.get(base, as_="demo").json()["credentials"]] == [made["access"]]
    assert who.get(base, as_="other").status_code == 403
    assert who.post(base, {"tenant_id": who.client.projects["other"]}, as_="demo").status_code == 403, "no role there"
    assert who.post(base, {"tenant_id": "0" * 32}).status_code == 404
    assert who.delete(one, as_="demo").status_code == 204
    assert who.get(one, as_="demo").status_code == 404
