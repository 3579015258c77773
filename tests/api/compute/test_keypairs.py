"""Key pairs: imported and made ones, whose they are, and what changes with the microversions."""
from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

PATH = "/compute/v2.1/os-keypairs"


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


def public_key() -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() + " me@here"


def test_imported_key(cloud_client: Any) -> None:
    made = cloud_client.post(PATH, {"keypair": {"name": "k", "public_key": public_key()}}, as_="demo")
    assert made.status_code == 200
    pair = made.json()["keypair"]
    digest = hashlib.md5(base64.b64decode(public_key().split()[1])).hexdigest()
    assert pair["fingerprint"].replace(":", "") == digest
    assert pair["user_id"] == cloud_client.users["demo"]
    assert "private_key" not in pair and "type" not in pair
    shown = cloud_client.get(f"{PATH}/k", as_="demo").json()["keypair"]
    assert shown["public_key"] == public_key() and shown["deleted"] is False and shown["id"] == 1
    listed = cloud_client.get(PATH, as_="demo").json()["keypairs"]
    assert listed == [{"keypair": {"name": "k", "public_key": public_key(), "fingerprint": pair["fingerprint"]}}]


def test_made_key_is_shown_once_and_fits(cloud_client: Any) -> None:
    made = cloud_client.post(PATH, {"keypair": {"name": "k"}}, as_="demo", headers=at("2.2"))
    assert made.status_code == 201
    pair = made.json()["keypair"]
    private = serialization.load_pem_private_key(pair["private_key"].encode(), None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert pair["public_key"].split()[:2] == public.decode().split()
    assert pair["type"] == "ssh"
    assert "private_key" not in cloud_client.get(f"{PATH}/k", as_="demo").json()["keypair"]


def test_certificate_pair(cloud_client: Any) -> None:
    made = cloud_client.post(PATH, {"keypair": {"name": "k", "type": "x509"}}, as_="demo", headers=at("2.2"))
    pair = made.json()["keypair"]
    assert pair["type"] == "x509" and "BEGIN CERTIFICATE" in pair["public_key"]
    assert len(pair["fingerprint"].split(":")) == 20
    again = {"keypair": {"name": "l", "type": "x509", "public_key": pair["public_key"]}}
    assert cloud_client.post(PATH, again, as_="demo", headers=at("2.2")).json()["keypair"]["fingerprint"] \
        == pair["fingerprint"]
    assert cloud_client.post(PATH, {"keypair": {"name": "m", "type": "x509"}}, as_="demo").status_code == 400


@pytest.mark.parametrize(("fields", "word"), [
    ({"name": ""}, "name"), ({"name": "k" * 256}, "name"), ({"name": "a/b"}, "name"), ({"name": " k"}, "name"),
    ({"name": "k", "public_key": "ssh-rsa JUNK"}, "public_key"), ({"name": "k", "public_key": " "}, "public_key"),
    ({"name": "k", "public_key": "ssh-rsa " + "A" * 2048}, "public_key"), ({"name": "k", "public_key": 7}, "public_key"),
    ({"public_key": public_key()}, "name"), ({"name": "k", "colour": "red"}, "colour"),
    ({"name": "k", "user_id": "x"}, "user_id"),
])
def test_bad_keys_name_the_field(cloud_client: Any, fields: dict[str, Any], word: str) -> None:
    answer = cloud_client.post(PATH, {"keypair": fields}, as_="demo")
    assert answer.status_code == 400
    assert word in answer.json()["badRequest"]["message"]


def test_names_are_taken_once_a_user(cloud_client: Any) -> None:
    body = {"keypair": {"name": "k", "public_key": public_key()}}
    assert cloud_client.post(PATH, body, as_="demo").status_code == 200
    assert cloud_client.post(PATH, body, as_="demo").status_code == 409
    assert cloud_client.post(PATH, body, as_="other").status_code == 200
    assert cloud_client.delete(f"{PATH}/k", as_="demo").status_code == 202
    assert cloud_client.delete(f"{PATH}/k", as_="demo").status_code == 404
    assert cloud_client.delete(f"{PATH}/k", as_="other", headers=at("2.2")).status_code == 204


def test_from_292_keys_are_imported_only_and_names_may_hold_dots(cloud_client: Any) -> None:
    late = at("2.92")
    assert cloud_client.post(PATH, {"keypair": {"name": "k"}}, as_="demo", headers=late).status_code == 400
    body = {"keypair": {"name": "me@here.test", "public_key": public_key()}}
    assert cloud_client.post(PATH, body, as_="demo").status_code == 400
    assert cloud_client.post(PATH, body, as_="demo", headers=late).status_code == 201


def test_administrators_keep_keys_for_users_from_210(cloud_client: Any) -> None:
    demo = cloud_client.users["demo"]
    body = {"keypair": {"name": "k", "public_key": public_key(), "user_id": demo}}
    assert cloud_client.post(PATH, body, as_="other", headers=at("2.10")).status_code == 403
    assert cloud_client.post(PATH, body, headers=at("2.10")).status_code == 201
    assert cloud_client.get(f"{PATH}/k", as_="demo").status_code == 200
    assert cloud_client.get(f"{PATH}/k?user_id={demo}", headers=at("2.10")).status_code == 200
    assert cloud_client.get(f"{PATH}/k?user_id={demo}", headers=at("2.9")).status_code == 404
    assert cloud_client.get(f"{PATH}?user_id={demo}", as_="other", headers=at("2.10")).status_code == 403
    assert cloud_client.delete(f"{PATH}/k?user_id={demo}", headers=at("2.10")).status_code == 204


def test_reader_cannot_write(cloud_client: Any) -> None:
    body = {"keypair": {"name": "k", "public_key": public_key()}}
    assert cloud_client.post(PATH, body, as_="reader").status_code == 403
    assert cloud_client.delete(f"{PATH}/k", as_="reader").status_code == 403
    assert cloud_client.get(PATH, as_="reader").json() == {"keypairs": []}


def test_pages_from_235(cloud_client: Any) -> None:
    for name in "abc":
        cloud_client.post(PATH, {"keypair": {"name": name, "public_key": public_key()}}, as_="demo")
    page = cloud_client.get(f"{PATH}?limit=2", as_="demo", headers=at("2.35")).json()
    assert [item["keypair"]["name"] for item in page["keypairs"]] == ["a", "b"]
    following = page["keypairs_links"][0]["href"].removeprefix("http://cloud.test")
    rest = cloud_client.get(following, as_="demo", headers=at("2.35")).json()
    assert [item["keypair"]["name"] for item in rest["keypairs"]] == ["c"]
    assert cloud_client.get(f"{PATH}?marker=none", as_="demo", headers=at("2.35")).status_code == 400


def test_quota(cloud_client: Any) -> None:
    quota = msgspec.structs.replace(cloud_client.cloud.config.quota, key_pairs=1)
    cloud_client.cloud.config = msgspec.structs.replace(cloud_client.cloud.config, quota=quota)
    for name, status in (("a", 200), ("b", 403)):
        body = {"keypair": {"name": name, "public_key": public_key()}}
        assert cloud_client.post(PATH, body, as_="demo").status_code == status
