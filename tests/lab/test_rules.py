"""The Kilo rules against the facts file: who may change a port, and which change says something."""
from __future__ import annotations

import pytest

from virga.lab import kilo_rules as rules
from virga.lab.kilo_rules import ACTIVE, BUILD, DOWN, ERAS, HEALED


def test_transition_table() -> None:
    said = {(old, new): rules.event_of(old, new) for old in (None, ACTIVE, DOWN, BUILD) for new in (ACTIVE, DOWN, BUILD)}
    assert {pair for pair, event in said.items() if event == rules.PLUGGED} == {(None, ACTIVE), (DOWN, ACTIVE), (BUILD, ACTIVE)}
    assert {pair for pair, event in said.items() if event == rules.UNPLUGGED} == {(ACTIVE, DOWN)}


@pytest.mark.parametrize("status", [ACTIVE, DOWN, BUILD])
def test_reports_of_an_unbound_host_change_nothing(status: str) -> None:
    assert rules.status_after_up(status, "host_B", "host_A") == status
    assert rules.status_after_down(status, "host_B", "host_A") == status
    assert rules.status_after_details(status, "host_B", "host_A") == status


def test_details_without_a_host_are_believed() -> None:
    assert rules.status_after_details(ACTIVE, "host_B", None) == BUILD


def test_eras_differ_where_the_facts_file_says() -> None:
    kilo0, kilo1 = ERAS[rules.KILO_0], ERAS[rules.KILO_1]
    assert kilo0.waits_on_revert and not kilo1.waits_on_revert
    assert kilo0.rebind == kilo1.rebind == rules.LAST
    assert kilo0.failed_plug_deletes_disks and not ERAS[rules.REBIND_WAIT].failed_plug_deletes_disks
    assert ERAS[rules.REBIND_FIRST].rebind == rules.FIRST and not ERAS[rules.REBIND_FIRST].waits_on_revert
    assert rules.status_after_rebind(kilo0, ACTIVE, "host_B", "host_A") == ACTIVE
    assert rules.status_after_rebind(HEALED, ACTIVE, "host_B", "host_A") == DOWN


def test_events_go_where_the_row_points_and_since_15_both_ways() -> None:
    assert rules.hosts_of_event(ERAS[rules.KILO_0], "host_B", "host_A", "host_B", True) == ("host_B",)
    assert rules.hosts_of_event(ERAS[rules.REBIND_WAIT], "host_B", "host_A", "host_B", True) == ("host_B", "host_A")
    assert rules.hosts_of_event(ERAS[rules.KILO_0], "", "", "", False) == ()
