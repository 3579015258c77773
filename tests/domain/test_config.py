"""A configuration written as TOML is read back as it was, and what cannot be meant is refused with its name."""
from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virga.domain.config import Compute, Config, Libvirt, Network, dump, load

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NETWORKS = st.builds(Network, physical_interface_mappings=st.dictionaries(TEXT, TEXT, max_size=3), floating_range=st.sampled_from(["", "10.9.0.0/16"]),
                     vni_ranges=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=2), max_size=2), minimize_polling=st.booleans())
CONFIGS = st.builds(Config, state=TEXT, hosts=st.integers(0, 9), virt_type=TEXT, network=NETWORKS, libvirt=st.builds(Libvirt, uri=TEXT),
                    compute=st.builds(Compute, vif_plugging_is_fatal=st.booleans(), vif_plugging_timeout=st.floats(0, 1e6)),
                    fake=st.dictionaries(TEXT, st.floats(0, 9) | TEXT | st.dictionaries(TEXT, st.integers(0, 9), max_size=2), max_size=2))


@given(CONFIGS)
def test_what_is_written_is_read_back(config: Config) -> None:
    assert load(tomllib.loads(dump(config))) == config


def test_defaults_are_left_out() -> None:
    assert dump(Config()).strip() == ""


@pytest.mark.parametrize(("data", "named"), [
    ({"network": {"floating_range": "172.24.4.1/24"}}, "floating_range"), ({"network": {"floating_range": "all"}}, "floating_range"),
    ({"hosts": "two"}, "hosts"), ({"compute": {"nonsense": 1}}, "nonsense"),
])
def test_what_cannot_be_meant_is_refused_by_name(data: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        load(data)
