"""A host's memory: whatever was put is there after any death, and a torn end costs only what was being written."""
from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from virga.agent import journal as journal_module
from virga.agent.journal import Journal


def test_the_last_word_on_a_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.put("a", {"n": 1, "bytes": b"\x00\xff"})
    first.put("a", {"n": 2})
    first.put("b", [1, 2])
    first.put("b", None)
    first.put("never", None)
    assert Journal(path).values == {"a": {"n": 2}}  # and nothing was closed: the process died


def test_find_gives_the_rest_of_the_names(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.put("tap/1", 5)
    journal.put("tape", 6)
    assert journal.find("tap/") == {"1": 5}


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_tail_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.put("kept", "x" * 20)
    whole = path.stat().st_size
    journal.put("torn", "y" * 40)
    path.write_bytes(path.read_bytes()[: whole + cut])
    again = Journal(path)
    assert again.values == {"kept": "x" * 20}
    again.put("more", 1)
    assert Journal(path).values == {"kept": "x" * 20, "more": 1}


def test_a_flipped_bit_ends_the_reading_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.put("kept", 1)
    whole = path.stat().st_size
    journal.put("bad", 2)
    data = bytearray(path.read_bytes())
    data[whole + 9] ^= 0x40
    path.write_bytes(bytes(data))
    assert Journal(path).values == {"kept": 1}


def test_a_grown_file_is_written_anew_with_nothing_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_MIN_BYTES", 2000)
    path = tmp_path / "journal"
    journal, model = Journal(path), {}
    rng = random.Random(1)
    sizes = []
    for number in range(2000):
        name, value = f"n{rng.randrange(20)}", None if rng.random() < 0.2 else {"number": number}
        journal.put(name, value)
        if value is None:
            model.pop(name, None)
        else:
            model[name] = value
        sizes.append(path.stat().st_size)
        if number % 97 == 0:
            assert Journal(path).values == model
    assert max(sizes) < 12_000, "it never grows far beyond several times its content"
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes))
    assert Journal(path).values == model


def test_in_memory_it_is_the_disk_of_a_simulated_host() -> None:
    journal = Journal()
    value: dict[str, Any] = {"n": 1}
    journal.put("a", value)
    assert journal.find("") == {"a": {"n": 1}}
    journal.close()
