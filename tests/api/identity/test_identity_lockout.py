"""Locked users and passwords that may not come back, with the rules of [identity] on."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.api.conftest import CloudClient

from virga.domain.config import Config, Identity

RULES = Identity(lockout_failure_attempts=2, lockout_duration=30.0, unique_last_password_count=3)


@pytest.fixture
def strict() -> Iterator[CloudClient]:
    client = CloudClient(Config(argon2_memory_kib=8, argon2_passes=1, identity=RULES))
    yield client
    client.close()


def made(client: CloudClient, **more: Any) -> str:
    body = {"user": {"name": "u", "password": "first", **more}}
    return str(client.post("/identity/v3/users", body).json()["user"]["id"])


def log_in(client: CloudClient, user_id: str, password: str) -> int:
    auth = {"identity": {"methods": ["password"], "password": {"user": {"id": user_id, "password": password}}}}
    return int(client.post("/identity/v3/auth/tokens", {"auth": auth}, as_=None).status_code)


def later(client: CloudClient, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = client.env.now
    monkeypatch.setattr(client.env, "now", lambda: now() + seconds)


def test_a_user_is_locked_and_unlocked_by_time(strict: CloudClient, monkeypatch: pytest.MonkeyPatch) -> None:
    user = made(strict)
    assert [log_in(strict, user, word) for word in ("x", "first", "x", "x", "first")] == [401, 201, 401, 401, 401]
    later(strict, monkeypatch, 20.0)
    assert [log_in(strict, user, word) for word in ("x", "first")] == [401, 401], "what is tried meanwhile is refused and not counted"
    later(strict, monkeypatch, 11.0)
    assert log_in(strict, user, "first") == 201
    assert [log_in(strict, user, word) for word in ("x", "first")] == [401, 201], "the count began anew"


def test_the_password_change_counts_too_and_an_administrator_unlocks(strict: CloudClient) -> None:
    user = made(strict)
    for _ in range(2):
        body = {"user": {"original_password": "x", "password": "y"}}
        assert strict.post(f"/identity/v3/users/{user}/password", body, as_=None).status_code == 401
    assert log_in(strict, user, "first") == 401
    assert strict.patch(f"/identity/v3/users/{user}", {"user": {"password": "second"}}).status_code == 200
    assert log_in(strict, user, "second") == 201


def test_a_user_that_is_never_locked(strict: CloudClient) -> None:
    user = made(strict, options={"ignore_lockout_failure_attempts": True})
    assert [log_in(strict, user, word) for word in ("x", "x", "x", "first")] == [401, 401, 401, 201]


def test_the_last_passwords_cannot_come_back(strict: CloudClient) -> None:
    user = made(strict)

    def change(old: str, new: str) -> int:
        body = {"user": {"original_password": old, "password": new}}
        return int(strict.post(f"/identity/v3/users/{user}/password", body, as_=None).status_code)

    assert [change("first", "second"), change("second", "third")] == [204, 204]
    assert [change("third", word) for word in ("first", "second", "third")] == [400, 400, 400]
    assert [change("third", "fourth"), change("fourth", "second"), change("fourth", "first")] == [204, 400, 204]
