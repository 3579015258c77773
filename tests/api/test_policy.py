"""The shared role table."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from virga.api.http import Caller
from virga.api.policy import RULES, least_role, may, need
from virga.domain.errors import Problem

CHAIN = ["reader", "member", "manager", "admin"]


def caller(*roles: str, project_id: str = "p") -> Caller:
    return Caller("u", "u", "default", project_id, "p", "default", None, frozenset(roles))


@pytest.mark.parametrize(("rule", "role"), [
    ("compute:server:list", "reader"), ("compute:server:show", "reader"), ("compute:server:create", "member"),
    ("compute:server:anything_new", "member"), ("compute:flavor:create", "admin"), ("compute:flavor:list", "reader"),
    ("compute:hypervisor:list", "admin"), ("compute:server:migrate", "manager"), ("network:network:set_shared", "admin"),
    ("image:image:publicize", "admin"),
])
def test_the_least_role_of_a_rule(rule: str, role: str) -> None:
    assert least_role(rule) == role
    for held in CHAIN:
        assert may(caller(held), rule) == (CHAIN.index(held) >= CHAIN.index(role))
    assert not may(caller("service"), rule)
    assert not may(caller(), rule)


def test_service_rules_take_service_and_admin_only() -> None:
    rule = "placement:allocation:update"
    assert may(caller("service"), rule)
    assert may(caller("admin"), rule)
    assert not may(caller("manager", "member", "reader"), rule)


def test_need_names_the_rule_and_minds_the_project() -> None:
    call: Any = SimpleNamespace(caller=caller("member"))
    need(call, "compute:server:create", "p")
    with pytest.raises(Problem, match="in project q") as foreign:
        need(call, "compute:server:create", "q")
    with pytest.raises(Problem, match=r"compute:flavor:create.*admin") as weak:
        need(call, "compute:flavor:create")
    assert foreign.value.status == weak.value.status == 403
    need(SimpleNamespace(caller=caller("admin")), "compute:server:create", "q")  # type: ignore[arg-type]


def test_every_rule_is_well_formed() -> None:
    for rule, role in RULES.items():
        assert rule.count(":") == 2, rule
        assert role in {*CHAIN, "service"}, rule
