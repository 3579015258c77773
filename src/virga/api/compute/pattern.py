"""Regular expressions from users, matched in linear time.

The list filters of the compute API (`name`, `ip`) are regular expressions that are searched for anywhere in the
value. Python's own matcher backtracks: a short hostile expression would hold the whole process for minutes. This
one runs all alternatives side by side (Thompson's construction), so that its time is at most
(length of value) x (size of expression).
Known: literals, `.`, `[...]` with ranges and `^`, `\\d \\w \\s` and escapes, `^`, `$`, `|`, groups, `*`, `+`, `?`,
`{m,n}` up to 64. An expression beyond that raises ValueError with the reason, one that has done STEPS_MAX of work
TooCostly.
"""

from __future__ import annotations

from collections.abc import Callable

PATTERN_CHARS_MAX = 255
REPEAT_MAX = 64
STATES_MAX = 1024
STEPS_MAX = 400_000  # of one Pattern over all its searches: about 0.2 s of one core

_Test = Callable[[str], bool]
_START, _END = "start", "end"


class TooCostly(ValueError):
    """The expression has had its share of work; a narrower one is wanted."""


class _State:
    """Either a test on one character (then `next`), an anchor, or a fork; `accept` has none of these."""

    __slots__ = ("test", "anchor", "targets")

    def __init__(self, test: _Test | None = None, anchor: str = "") -> None:
        self.test = test
        self.anchor = anchor
        self.targets: list[_State] = []


_Part = tuple[_State, _State]  # first and last state of a piece; the last one's targets are still open


class Pattern:
    """A compiled expression. Letters match without regard to case, as the database of the original API compares."""

    def __init__(self, text: str) -> None:
        if len(text) > PATTERN_CHARS_MAX:
            raise ValueError(f"the expression has more than {PATTERN_CHARS_MAX} characters")
        self._text = text.lower()
        self._at = 0
        self._states = 0
        self._steps = 0
        self._plain = text.lower() if not any(letter in "\\.[]^$|()*+?{}" for letter in text) else None
        if self._plain is None:
            first, last = self._either(0)
            if self._at < len(self._text):
                raise ValueError("a ')' has no '('")
            self._first, self._accept = first, last

    def search(self, value: str) -> bool:
        """Whether the expression matches anywhere in `value`. Raises TooCostly beyond STEPS_MAX."""
        value = value.lower()
        if self._plain is not None:
            return self._plain in value
        now: set[_State] = set()
        for index in range(len(value) + 1):
            now |= self._spread({self._first}, index, len(value))
            now = self._spread(now, index, len(value))
            self._steps += len(now)
            if self._steps > STEPS_MAX:
                raise TooCostly("it takes too long to match; use a simpler one")
            if self._accept in now:
                return True
            if index < len(value):
                letter = value[index]
                now = {target for state in now if state.test and state.test(letter) for target in state.targets}
        return False

    @staticmethod
    def _spread(states: set[_State], index: int, length: int) -> set[_State]:
        """All states reachable without a character."""
        seen = set(states)
        work = list(states)
        while work:
            state = work.pop()
            if state.test or (state.anchor == _START and index) or (state.anchor == _END and index < length):
                continue
            for target in state.targets:
                if target not in seen:
                    seen.add(target)
                    work.append(target)
        return seen

    # the parser ---------------------------------------------------------------------------------------------
    def _new(self, test: _Test | None = None, anchor: str = "") -> _State:
        self._states += 1
        if self._states > STATES_MAX:
            raise ValueError("the expression is too large")
        return _State(test, anchor)

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self) -> str:
        letter = self._peek()
        if not letter:
            raise ValueError("the expression ends too early")
        self._at += 1
        return letter

    def _either(self, depth: int) -> _Part:
        if depth > 50:
            raise ValueError("groups are nested too deeply")
        first, last = self._new(), self._new()
        while True:
            part = self._sequence(depth)
            first.targets.append(part[0])
            part[1].targets.append(last)
            if self._peek() != "|":
                return first, last
            self._at += 1

    def _sequence(self, depth: int) -> _Part:
        first = last = self._new()
        while self._peek() and self._peek() not in "|)":
            part = self._repeated(depth)
            last.targets.append(part[0])
            last = part[1]
        return first, last

    def _repeated(self, depth: int) -> _Part:
        begin = self._at
        part = self._one(depth)
        least, most = self._bounds()
        if (least, most) == (1, 1):
            return part
        end = self._at
        first, last = self._new(), self._new()
        tail = first
        for copy in range(max(least, 1 if most is None else most)):
            if copy:
                self._at = begin
                part = self._one(depth)
            if copy >= least:
                tail.targets.append(last)
            tail.targets.append(part[0])
            tail = part[1]
        if most is None:
            tail.targets.append(part[0])
        tail.targets.append(last)
        if most == 0:
            first.targets = [last]
        self._at = end
        return first, last

    def _bounds(self) -> tuple[int, int | None]:
        """How often: (least, most), most None for without end."""
        sign = self._peek()
        if sign and sign in "*+?":
            self._at += 1
            bounds: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        elif sign == "{":
            inside, closed, _ = self._text[self._at + 1 :].partition("}")
            low, comma, high = inside.partition(",")
            if not closed or not low.isdecimal() or not (high.isdecimal() or not high):
                raise ValueError("a '{' needs numbers and a '}'")
            self._at += len(inside) + 2
            bounds = (int(low), (int(high) if high else None) if comma else int(low))
            if max(bounds[0], bounds[1] or 0) > REPEAT_MAX or (bounds[1] is not None and bounds[1] < bounds[0]):
                raise ValueError(f"a repetition goes from 0 to {REPEAT_MAX}")
        else:
            return 1, 1
        if self._peek() and self._peek() in "*+?{":
            raise ValueError("a repetition of a repetition needs a group")
        return bounds

    def _one(self, depth: int) -> _Part:
        letter = self._take()
        if letter in "*+?{":
            raise ValueError(f"there is nothing for '{letter}' to repeat")
        if letter == "(":
            if self._text.startswith("?:", self._at):
                self._at += 2
            part = self._either(depth + 1)
            if self._take() != ")":
                raise ValueError("a '(' has no ')'")
            return part
        if letter in "^$":
            state = self._new(anchor=_START if letter == "^" else _END)
        elif letter == ".":
            state = self._new(_anything)
        elif letter == "[":
            state = self._new(self._class())
        elif letter == "\\":
            state = self._new(_escape(self._take()))
        else:
            state = self._new(_is(letter))
        if state.test is None:
            return state, state
        last = self._new()
        state.targets.append(last)
        return state, last

    def _class(self) -> _Test:
        negated = self._peek() == "^"
        if negated:
            self._at += 1
        tests: list[_Test] = []
        while self._peek() != "]" or not tests:
            letter = self._take()
            if letter == "\\":
                tests.append(_escape(self._take()))
            elif self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                tests.append(_range(letter, self._take()))
            else:
                tests.append(_is(letter))
        self._at += 1
        return lambda letter: any(test(letter) for test in tests) is not negated


def _anything(letter: str) -> bool:
    return True


def _is(wanted: str) -> _Test:
    return lambda letter: letter == wanted


def _range(low: str, high: str) -> _Test:
    if low > high:
        raise ValueError(f"the range {low}-{high} is empty")
    return lambda letter: low <= letter <= high


def _escape(letter: str) -> _Test:
    known: dict[str, _Test] = {"d": str.isdigit, "s": str.isspace, "w": lambda found: found.isalnum() or found == "_"}
    if letter in known:
        return known[letter]
    if letter.isalnum():
        raise ValueError(f"\\{letter} is not known")
    return _is(letter)
