"""Helpers of the identity tests: `who`, the shared cloud with short names for what every test here does."""
from __future__ import annotations

from typing import Any

import pytest

V3 = "/identity/v3"
PASSWORD = "correct horse"


class Who:
    """The shared client below /identity/v3. `make(noun, plural, **fields)` creates as admin and returns the thing."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def get(self, path: str, **how: Any) -> Any:
        return self.client.get(V3 + path, **how)

    def head(self, path: str, **how: Any) -> Any:
        return self.client.head(V3 + path, **how)

    def post(self, path: str, json: Any = None, **how: Any) -> Any:
        return self.client.post(V3 + path, json, **how)

    def put(self, path: str, json: Any = None, **how: Any) -> Any:
        return self.client.put(V3 + path, json, **how)

    def patch(self, path: str, json: Any = None, **how: Any) -> Any:
        return self.client.patch(V3 + path, json, **how)

    def delete(self, path: str, **how: Any) -> Any:
        return self.client.delete(V3 + path, **how)

    def make(self, noun: str, plural: str, as_: str = "admin", **fields: Any) -> dict[str, Any]:
        answer = self.post(f"/{plural}", {noun: fields}, as_=as_)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()[noun]
        return made

    def user(self, name: str, **fields: Any) -> dict[str, Any]:
        return self.make("user", "users", name=name, password=PASSWORD, **fields)

    def project(self, name: str, **fields: Any) -> dict[str, Any]:
        return self.make("project", "projects", name=name, **fields)

    def domain(self, name: str, **fields: Any) -> dict[str, Any]:
        return self.make("domain", "domains", name=name, **fields)

    def role_id(self, name: str) -> str:
        found: list[dict[str, Any]] = self.get(f"/roles?name={name}").json()["roles"]
        return str(found[0]["id"])

    def grant(self, user_id: str, role: str, place: str) -> None:
        """`place` is `projects/<id>`, `domains/<id>` or `system`."""
        answer = self.put(f"/{place}/users/{user_id}/roles/{self.role_id(role)}")
        assert answer.status_code == 204, answer.text

    def ask(self, identity: dict[str, Any], scope: Any = None) -> Any:
        auth: dict[str, Any] = {"identity": identity}
        if scope is not None:
            auth["scope"] = scope
        return self.post("/auth/tokens", {"auth": auth}, as_=None)

    def log_in(self, user_id: str, scope: Any = None, password: str = PASSWORD) -> Any:
        return self.ask({"methods": ["password"], "password": {"user": {"id": user_id, "password": password}}}, scope)

    def token(self, user_id: str, scope: Any = None, password: str = PASSWORD) -> str:
        answer = self.log_in(user_id, scope, password)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["x-subject-token"])

    def alive(self, token: str) -> bool:
        """Whether a token still opens the door."""
        return bool(self.get("/auth/projects", as_=token).status_code == 200)

    def project_scope(self, project_id: str) -> dict[str, Any]:
        return {"project": {"id": project_id}}


@pytest.fixture
def who(cloud_client: Any) -> Who:
    return Who(cloud_client)
