"""The report's figures: the numbers that come out are the report's, from real runs."""
from __future__ import annotations

import pytest

from virga.lab import drawings
from virga.lab.options import Options
from virga.runtime.sequence_rows import Row
from virga.runtime.trace import Event


@pytest.fixture(scope="module")
def good() -> list[Event]:
    return drawings.find(1, lambda events: not drawings.failed(events) and drawings.read_before_down(events), Options())[1]


@pytest.fixture(scope="module")
def bad() -> list[Event]:
    return drawings.find(1, drawings.failed, Options())[1]


def rows(events: list[Event]) -> dict[str, Row]:
    return {row.number: row for row in drawings.diagram(events, "").story().rows if row.number}


def test_success_has_the_reports_numbers(good: list[Event]) -> None:
    told = {number: row.text for number, row in rows(drawings.flow(good)).items()}
    expected = {"1": "finish_revert_resize", "1.1": "network info", "1.1.1": "vif.active is true", "1.2": "setup_networks_on_host", "1.2.1": "does nothing",
                "1.3": "finish_revert_migration", "1.3.1": "_create_domain_and_network", "1.3.1.1": "no event to wait for", "1.3.2": "libvirt creates the VM",
                "1.3.2.1": "nothing to wait for", "1.4": "migrate_instance_finish", "1.4.1.1": "host_B becomes host_A"}
    for number, words in expected.items():
        assert words in told[number]


def test_failure_has_the_reports_numbers(bad: list[Event]) -> None:
    told = {number: row.text for number, row in rows(drawings.flow(bad)).items()}
    expected = {"1.1.1": "vif.active is false", "1.3.1.1": "registered", "1.3.2.1": "waits for network-vif-plugged", "2": "process_network_devices",
                "2.1": "treat_devices_added_updated", "2.1.1": "update_device_up(host_A)", "2.1.1.1.1": "the binding says host_B, the caller says host_A"}
    for number, words in expected.items():
        assert words in told[number]
    assert not any("migrate_instance_finish" in text for text in told.values())


def test_vif_status_in_both_orders(good: list[Event], bad: list[Event]) -> None:
    for events, first in ((good, "1.2.1.1"), (bad, "2.1.1.1")):
        told = rows(drawings.status(events))
        assert "libvirt removes the tap" in told["1.1"].text
        assert told["1.2"].text == "finish_revert_resize"
        assert "_build_network_info_model" in told["1.2.1.1"].text
        assert told["2.1.1.1"].text == "port status ACTIVE becomes DOWN"
        order = sorted(("1.2.1.1", "2.1.1.1"), key=lambda number: told[number].at_s)
        assert order[0] == first


def test_success_and_failure_differ_first_in_what_was_read(good: list[Event], bad: list[Event]) -> None:
    comparison = drawings.side_by_side(drawings.diagram(drawings.flow(good), "good"), drawings.diagram(drawings.flow(bad), "bad"))
    assert comparison.first_difference is not None
    pair = comparison.pairs[comparison.first_difference]
    assert pair.left is not None and pair.right is not None
    assert "vif.active is true" in comparison.left.rows[pair.left].text
    assert "vif.active is false" in comparison.right.rows[pair.right].text


def test_virgas_revert_ends_well_in_both_orders() -> None:
    for destroy_s in (0.05, 0.9):
        texts = [event.text for event in drawings.virga_revert(1, destroy_s)]
        assert "the server is ACTIVE on host_A" in texts
        assert not any("failed" in text or "turns back" in text for text in texts)
