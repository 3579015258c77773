"""Choosing a host and a port's status, as pure functions, against what they must always mean."""
from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from virga.domain.placement import UP, Candidate, Host, Request, Room, choose_host, fits
from virga.domain.port import BOUND, OPENING, Binding, Port, Wiring, port_status
from virga.domain.server import STATUS, FlavorSpec, status_of
from virga.ops.placing import room_of

HOSTS = st.builds(
    Host, name=st.sampled_from(["a", "b", "c", "d"]), id=st.just("x"), state=st.sampled_from(["up", "down"]), disabled=st.booleans(),
    forced_down=st.booleans(), vcpus=st.integers(0, 8), ram_mb=st.integers(0, 4096), disk_gb=st.integers(0, 40), cpu_ratio=st.sampled_from([1.0, 4.0]),
    ram_ratio=st.sampled_from([1.0, 1.5]), availability_zone=st.sampled_from(["nova", "z2"]))
ROOMS = st.builds(Room, st.integers(0, 8), st.integers(0, 4096), st.integers(0, 40))
CANDIDATES = st.lists(st.builds(Candidate, HOSTS, ROOMS, st.booleans()), max_size=4, unique_by=lambda candidate: candidate.host.name)
NAMES = st.frozensets(st.sampled_from(["a", "b", "c", "d"]), max_size=2)
REQUESTS = st.builds(Request, ROOMS, st.none() | st.sampled_from(["nova", "z2"]), st.none() | st.sampled_from(["a", "zz"]), NAMES, NAMES)


@given(CANDIDATES, REQUESTS)
def test_a_chosen_host_has_room_and_every_other_has_its_reason(candidates: list[Candidate], request: Request) -> None:
    choice = choose_host(candidates, request)
    names, why = choice.hosts, choice.why
    by_name = {candidate.host.name: candidate for candidate in candidates}
    for name in names:
        host, used = by_name[name].host, by_name[name].used
        assert host.state == "up" and not host.forced_down and name not in request.avoid
        assert not host.disabled or request.only == name
        assert used.vcpus + request.room.vcpus <= host.vcpus * host.cpu_ratio
        assert used.ram_mb + request.room.ram_mb <= host.ram_mb * host.ram_ratio
        assert used.disk_gb + request.room.disk_gb <= host.disk_gb * host.disk_ratio
        assert request.zone in (None, host.availability_zone) and (not request.together or name in request.together)
    for candidate in candidates:
        asked = request.only in (None, candidate.host.name)
        assert (candidate.host.name in names) != (f"{candidate.host.name} " in why and asked) or not asked
    assert why or names
    for name in choice.soon:  # what could be chosen if its connection were back, and nothing else
        back = msgspec.structs.replace(by_name[name].host, state="up")
        assert by_name[name].returning and by_name[name].host.state == "down" and name not in names
        assert choose_host([Candidate(back, by_name[name].used)], request).hosts == [name]


@given(CANDIDATES, REQUESTS)
def test_the_order_does_not_depend_on_the_order_of_the_question(candidates: list[Candidate], request: Request) -> None:
    assert choose_host(candidates, request).hosts == choose_host(candidates[::-1], request).hosts


@given(CANDIDATES, REQUESTS, ROOMS)
def test_asking_for_less_never_leaves_fewer_hosts(candidates: list[Candidate], request: Request, less: Room) -> None:
    smaller = Room(min(less.vcpus, request.room.vcpus), min(less.ram_mb, request.room.ram_mb), min(less.disk_gb, request.room.disk_gb))
    easier = Request(smaller, request.zone, request.only, request.avoid, request.together)
    assert set(choose_host(candidates, request).hosts) <= set(choose_host(candidates, easier).hosts)


@given(HOSTS, ROOMS, ROOMS)
def test_what_fits_leaves_room_that_adds_up(host: Host, used: Room, more: Room) -> None:
    if fits(Candidate(host, used), more):
        after = Room(used.vcpus + more.vcpus, used.ram_mb + more.ram_mb, used.disk_gb + more.disk_gb)
        assert fits(Candidate(host, after), Room(0, 0, 0))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 5000))
def test_swap_and_ephemeral_disks_take_room_in_whole_gib(disk_gb: int, ephemeral_gb: int, swap_mb: int) -> None:
    room = room_of(FlavorSpec("1", "f", 1, 1, disk_gb, ephemeral_gb, swap_mb))
    assert disk_gb + ephemeral_gb + swap_mb / 1024 <= room.disk_gb < disk_gb + ephemeral_gb + swap_mb / 1024 + 1


@given(st.booleans(), st.integers(1, 4), st.sampled_from([OPENING, BOUND]), st.integers(1, 4), st.booleans())
def test_a_port_is_active_only_by_the_wiring_of_its_bindings_own_generation(up: bool, bound: int, state: str, wired_at: int, wired: bool) -> None:
    port, binding = Port("p", "x", "n", "m", admin_state_up=up), Binding("p", "h", bound, state)
    status = port_status(port, binding, Wiring("p", "h", wired_at, wired))
    assert (status == "ACTIVE") == (up and wired and wired_at == bound)
    assert port_status(port, None, Wiring("p", "h", wired_at, wired)) == "DOWN"
    if up and state == OPENING:
        assert port_status(port, binding, None) == "BUILD"


def test_every_state_has_a_status_and_task_states_change_only_their_own() -> None:
    for vm_state, (default, by_task) in STATUS.items():
        assert status_of(vm_state, None) == status_of(vm_state, "unheard-of") == default
        for task_state, status in by_task.items():
            assert status_of(vm_state, task_state) == status != default
    assert status_of("nonsense", None) == "UNKNOWN"


def test_a_server_is_not_given_to_a_host_that_cannot_make_all_its_disks() -> None:
    """A real host has no swap and ephemeral disks: no server at all, with the reason, rather than one that lacks them."""
    hosts = [Host(name, name, UP, vcpus=8, ram_mb=8192, disk_gb=80, hypervisor_type=kind) for name, kind in (("a", "QEMU"), ("b", "fake"))]
    candidates = [Candidate(host, Room(0, 0, 0)) for host in hosts]
    choice = choose_host(candidates, Request(Room(1, 512, 2), more_disks=True))
    assert choice.hosts == ["b"] and choice.why == "a makes no swap or ephemeral disks"
    assert choose_host(candidates, Request(Room(1, 512, 2))).hosts == ["a", "b"]
