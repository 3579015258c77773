"""Users' regular expressions: as Python matches them, and never slowly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virga.api.compute.pattern import Pattern, TooCostly

PIECES = [
    "a",
    "b",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    "[ab]",
    "[^a]",
    "[a-c]",
    "{1,2}",
    "{2}",
    "{0,3}",
    "{1,}",
    "^",
    "$",
    "(?:",
    "\\d",
]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.text("abc1", max_size=7))
def test_it_finds_what_python_finds(text: str, value: str) -> None:
    try:
        pattern = Pattern(text)
        expected = re.compile(text)
    except (ValueError, re.error):
        return
    assert pattern.search(value) == bool(expected.search(value))


@pytest.mark.parametrize(
    "text", ["(", ")", "[a", "*", "a**", "a{3,1}", "a{99}", "a{x}", "\\", "\\b", "[z-a]", "x" * 256, "(" * 60]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Pattern(text)


def test_letters_match_without_regard_to_case() -> None:
    assert Pattern("^WEB").search("web-1")
    assert Pattern("web").search("my-WEB-1")


def test_hostile_expressions_take_linear_time() -> None:
    steps = 0

    class Counted(str):
        def __getitem__(self, index: object) -> str:  # type: ignore[override]
            nonlocal steps
            steps += 1
            return str.__getitem__(self, index)  # type: ignore[index]

        def lower(self) -> str:
            return self

    assert not Pattern("(a+)+(a+)+$b").search(Counted("a" * 250))
    assert steps <= 251


def test_the_work_of_one_expression_has_an_end() -> None:
    pattern = Pattern("((a?){9}){9}b")
    with pytest.raises(TooCostly):
        for _ in range(10_000):
            pattern.search("a" * 255)
