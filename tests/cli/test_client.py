"""How a command finds its cloud, and what it says when it does not."""
from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from virga import cli_client
from virga.cli_client import Client, ClientError, Login, find_login, read_yaml, token_request

CLOUDS = """\
# two clouds
clouds:
  virga:
    auth:
      auth_url: http://127.0.0.1:1/identity/v3
      username: admin
      password: 'it''s a secret: #1'
      project_name: admin
      user_domain_name: Default
    region_name: RegionOne
  other:
    auth:
      auth_url: "http://other/identity"
      application_credential_id: abc
      application_credential_secret: "x\\ny"
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OS_CLOUD", "OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_CLIENT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def written(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clouds.yaml").write_text(CLOUDS)
    return folder


def test_both_readers_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    own = cli_client._read_mappings(CLOUDS, "clouds.yaml")
    assert own["clouds"]["virga"]["auth"]["password"] == "it's a secret: #1"
    assert own["clouds"]["other"]["auth"]["application_credential_secret"] == "x\ny"
    assert own["clouds"]["virga"]["region_name"] == "RegionOne"
    pytest.importorskip("yaml")
    assert read_yaml(CLOUDS, "clouds.yaml") == own


def test_more_yaml_than_the_own_reader_knows_is_named() -> None:
    with pytest.raises(ClientError, match=r"c.yaml line 2 .*pyyaml"):
        cli_client._read_mappings("clouds:\n  - a\n", "c.yaml")


def test_a_state_folder(tmp_path: Path) -> None:
    login = find_login(str(written(tmp_path / "s")))
    assert login.auth_url == "http://127.0.0.1:1/identity/v3"
    assert token_request(login)["auth"]["scope"] == {"project": {"name": "admin", "domain": {"name": "Default"}}}


def test_os_cloud_from_the_variable_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(written(tmp_path / "x") / "clouds.yaml"))
    monkeypatch.setenv("OS_CLOUD", "other")
    body = token_request(find_login())["auth"]
    assert body["identity"]["application_credential"]["id"] == "abc"
    assert "scope" not in body


def test_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OS_AUTH_URL", "http://h/identity/v3/"), ("OS_USERNAME", "u"), ("OS_PASSWORD", "p"), ("OS_PROJECT_NAME", "w")):
        monkeypatch.setenv(name, value)
    login = find_login()
    assert login.auth_url == "http://h/identity/v3"
    assert token_request(login)["auth"]["identity"]["password"]["user"]["name"] == "u"


def test_the_default_state_folder(tmp_path: Path) -> None:
    written(tmp_path / "virga-state")
    assert "virga-state" in find_login().where


@pytest.mark.parametrize(("arguments", "told"), [
    ((None, None), "give --state DIR"),
    (("nowhere", None), "there is no nowhere/clouds.yaml"),
    ((None, "mine"), "no clouds.yaml with cloud 'mine'"),
])
def test_what_is_not_there_is_said_in_one_line(arguments: tuple[str | None, str | None], told: str) -> None:
    with pytest.raises(ClientError) as raised:
        find_login(*arguments)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_cloud_the_file_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no cloud 'third' .it has: virga, other"):
        find_login(str(written(tmp_path)), "third")


def test_no_password() -> None:
    with pytest.raises(ClientError, match="names no user and password"):
        token_request(Login("http://x/v3", {"username": "a"}, "here"))


def test_nobody_answers(tmp_path: Path) -> None:
    async def work() -> None:
        async with Client(find_login(str(written(tmp_path)))):
            raise AssertionError("somebody answered on port 1")

    with pytest.raises(ClientError, match=r"nothing answers at .*is the cloud running"):
        asyncio.run(work())
