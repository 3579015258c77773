"""The page about a hanging server says what is awaited, who drops it, and what ends it."""
from __future__ import annotations

from virga.lab import kilo_rules as rules
from virga.lab.explain import look
from virga.lab.options import Options


def hanging(options: Options, at_s: float) -> str:
    return next((page for page in (look(seed, options, at_s, 20.0) for seed in range(1, 40)) if page), "")


def test_a_hang_is_explained() -> None:
    page = hanging(Options(), 60.0)
    for words in ("REVERT_RESIZE", "network-vif-plugged-", "Circular wait", "the binding says host_B, the caller says host_A", "bound to host_B",
                  "guest paused", "tap present", "vif_plugging_timeout (300 s), in 24", "the last one there is"):
        assert words in page


def test_remedy_1_has_another_end() -> None:
    page = hanging(Options(nonfatal=True), 60.0)
    assert "resumed all the same" in page and "the last one there is" not in page


def test_after_the_timeout_it_tells_the_fault() -> None:
    page = hanging(Options(), 400.0)
    assert "status ERROR" in page and "Virtual Interface creation failed" in page and "no disk" in page


def test_an_era_that_does_not_wait_has_nothing_to_explain() -> None:
    assert hanging(Options(era=rules.KILO_1), 30.0) == ""
