"""House rules as a test (house plan, rule 15), and proof that each of the rules can fail.

The first half judges this tree.  The second half builds small wrong trees in a temporary folder: a rule that
does not complain there is a rule that guards nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tidy_rules as rules

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "src" / "virga"


@pytest.fixture(scope="module")
def mods() -> list[rules.Module]:
    return rules.modules(PACKAGE)


@pytest.fixture(scope="module")
def reasons() -> rules.Reasons:
    return rules.Reasons.read(TOP / "tests" / "tidy_reasons.toml")


def clean(complaints: list[str]) -> None:
    assert not complaints, "\n" + "\n".join(complaints)


# ------------------------------------------------------------------ this tree


def test_imports_follow_the_arrows(mods: list[rules.Module], reasons: rules.Reasons) -> None:
    clean(rules.check_arrows(mods, reasons))


def test_time_chance_threads_and_sockets_stay_behind_doors(
    mods: list[rules.Module], reasons: rules.Reasons
) -> None:
    clean(rules.check_doors(mods, reasons))


def test_sql_stays_in_the_store(mods: list[rules.Module]) -> None:
    clean(rules.check_sql(mods))


def test_long_files_and_functions_have_a_reason(mods: list[rules.Module], reasons: rules.Reasons) -> None:
    clean(rules.check_sizes(mods, reasons))


def test_modules_open_with_what_they_own(mods: list[rules.Module]) -> None:
    clean(rules.check_openings(mods))


def test_every_module_has_a_name(mods: list[rules.Module]) -> None:
    clean(rules.check_names(mods))


def test_nothing_unfinished_is_shipped(mods: list[rules.Module]) -> None:
    clean(rules.check_unfinished(mods))


def test_readme_names_only_commands_that_exist() -> None:
    """Also in the sense that they can be loaded: the command line imports a command only when it is called."""
    import click

    from virga.cli import main

    assert isinstance(main, click.Group)
    context = click.Context(main)
    commands = {name for name in main.list_commands(context) if main.get_command(context, name)}
    clean(rules.check_readme((TOP / "README.md").read_text(), (TOP / "Makefile").read_text(), commands))


def test_arrows_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(rules.ARROWS):
        ready = {room for room, needs in rules.ARROWS.items() if needs <= done} - done
        assert ready, f"a circle among {sorted(set(rules.ARROWS) - done)}"
        done |= ready


def test_the_schema_and_the_console_are_packaged() -> None:
    """Files that are not Python reach an installed copy only if package-data names their kind."""
    import fnmatch
    import tomllib

    table = tomllib.loads((TOP / "pyproject.toml").read_text())
    kinds = table["tool"]["setuptools"]["package-data"]["virga"]
    extra = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    missing = [p.name for p in extra if not any(fnmatch.fnmatch(p.name, k.split("/")[-1]) for k in kinds)]
    assert not missing, f"not in package-data: {missing}"
    assert any(p.suffix == ".sql" for p in extra)


# ------------------------------------------------------------------ each rule can fail


def tree(folder: Path, **files: str) -> list[rules.Module]:
    """A package with the given files; `__` in a key stands for the folder separator."""
    for key, text in files.items():
        path = folder / (key.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return rules.modules(folder)


@pytest.mark.parametrize(
    ("where", "text", "broken"),
    [
        ("agent__guest", "from virga.store import db", "agent may not import virga.store.db"),
        ("agent__guest", "from virga.ops.engine import Engine", "agent may not import virga.ops.engine"),
        ("agent__guest", "import virga.api.http", "agent may not import virga.api.http"),
        ("agent__guest", "from ..store import db", "agent may not import virga.store.db"),
        ("domain__port", "def f():\n    from virga.store.db import Tx", "domain may not import"),
        ("api__http", "from virga import lab", "api may not import virga.lab"),
        ("ops__boot", "from virga.sim.loop import SimLoop", "ops may not import"),
        ("ops__boot", "from virga.agent.guest import Guest", "ops may not import"),
        ("runtime__env", "from virga.domain.row import Row", "runtime may not import"),
        ("agent__guest", "from virga.fabric.hub import Hub", "agent may not import virga.fabric.hub.Hub"),
        ("attic__old", "x = 1", "no room 'attic'"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, where: str, text: str, broken: str) -> None:
    found = rules.check_arrows(tree(tmp_path, **{where: text}), rules.Reasons())
    assert len(found) == 1
    assert broken in found[0]


def test_right_arrows_pass(tmp_path: Path) -> None:
    mods = tree(
        tmp_path,
        ops__boot="from virga.store.db import Tx\nfrom . import engine\nfrom ..domain import port\nimport virga",
        agent__guest="from virga.fabric.wire import Frame\nfrom virga.runtime.env import Env",
        cli_demo="from virga.serve import up\nfrom virga import __version__",
    )
    assert rules.check_arrows(mods, rules.Reasons()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "from time import monotonic",
        "import uuid as u",
        "def f():\n    import random",
        "import datetime\nx = datetime.datetime.now()",
        "from datetime import datetime as d\nx = d.utcnow()",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
        "from asyncio import create_task",
        "import asyncio as a\na.to_thread(print)",
        "import concurrent.futures",
        "from concurrent.futures import ThreadPoolExecutor",
        "def f(loop): loop.run_in_executor(None, print)",
        "def f(loop): return loop.create_task(g())",
        "import os\nx = os.urandom(8)",
        "import os as o\nx = o.environ['HOME']",
        "from urllib.request import urlopen",
    ],
)
def test_a_forbidden_call_is_found(tmp_path: Path, text: str) -> None:
    assert rules.check_doors(tree(tmp_path, ops__boot=text), rules.Reasons())


def test_harmless_neighbours_pass(tmp_path: Path) -> None:
    text = (
        "import asyncio, os, datetime\nfrom urllib.parse import parse_qsl\n"
        "x = datetime.datetime.fromtimestamp(0, datetime.UTC)\ny = os.path.join('a', 'b')\n"
        "from virga.api.image import imports\nh = imports.create_task\n"
        "class C:\n    def now(self): return self.time.time()\nz = asyncio.Event\n"
    )
    assert rules.check_doors(tree(tmp_path, ops__boot=text), rules.Reasons()) == []


def test_a_door_needs_a_reason_and_must_be_used(tmp_path: Path) -> None:
    mods = tree(tmp_path, store__db="import sqlite3")
    good = {"path": "store/db.py", "allows": ["sqlite3"], "reason": "the embedded database itself"}
    assert rules.check_doors(mods, rules.Reasons(doors=[good])) == []
    assert "has no reason" in rules.check_doors(mods, rules.Reasons(doors=[good | {"reason": ""}]))[0]
    stale = good | {"allows": ["sqlite3", "threading"]}
    assert rules.check_doors(mods, rules.Reasons(doors=[stale])) == [
        "tidy_reasons.toml: store/db.py does not use threading any more"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "q = 'SELECT * FROM server'",
        "q = f'UPDATE server SET name = {1}'",
        "q = '''\n  INSERT OR REPLACE INTO port VALUES (1)'''",
        "def f(tx): return tx.sql('x')",
    ],
)
def test_sql_outside_the_store_is_found(tmp_path: Path, text: str) -> None:
    assert rules.check_sql(tree(tmp_path, ops__boot=text))
    assert not rules.check_sql(tree(tmp_path / "other", store__db=text))


def test_words_that_only_look_like_sql_pass(tmp_path: Path) -> None:
    assert not rules.check_sql(tree(tmp_path, ops__boot='"""SELECT is a word."""\nx = "Select a flavor"'))


def test_sizes_want_a_reason_and_stale_ones_are_found(tmp_path: Path) -> None:
    long_file = '"""Doc."""\n' + "x = 1\n" * rules.LONG_FILE_LINES
    long_function = "class A:\n    def f(self):\n" + "        x = 1\n" * rules.LONG_FUNCTION_LINES
    mods = tree(tmp_path, ops__big=long_file, ops__deep=long_function)
    found = rules.check_sizes(mods, rules.Reasons())
    assert [line.split(":")[0] for line in found] == ["ops/big.py", "ops/deep.py"]
    why = "a table, which reads best in one piece"
    excused = rules.Reasons(files={"ops/big.py": why}, functions={"ops/deep.py::A.f": why})
    assert rules.check_sizes(mods, excused) == []
    excused.files["ops/gone.py"] = why
    assert "ops/gone.py is not long any more" in rules.check_sizes(mods, excused)[0]


def test_a_missing_or_thin_opening_is_found(tmp_path: Path) -> None:
    thin = '"""One line."""\n' + "x = 1\n" * rules.OPENING_WANTED_ABOVE_LINES
    found = rules.check_openings(tree(tmp_path, ops__none="x = 1", ops__thin=thin, ops__small='"""Fine."""'))
    assert [line.split(":")[0] for line in found] == ["ops/none.py", "ops/thin.py"]


def test_a_nameless_room_is_found(tmp_path: Path) -> None:
    assert rules.check_names(tree(tmp_path, ops__utils="")) == ["ops/utils.py: 'utils' names no room"]


def test_unfinished_work_is_found(tmp_path: Path) -> None:
    word = "TO" + "DO"
    assert rules.check_unfinished(tree(tmp_path, ops__boot=f"x = 1  # {word} later"))
    assert rules.check_unfinished(tree(tmp_path, ops__boot="def f():\n    raise NotImplementedError"))


def test_a_command_that_does_not_exist_is_found() -> None:
    text = "Type `make nothing`.\n```\nmake demo\nvirga up --hosts 3\nvirga fly\n```\n"
    assert rules.check_readme(text, "demo: setup\n", {"up"}) == [
        "README: `virga fly` does not exist",
        "README: `make nothing` does not exist",
    ]


def test_locks_pin_every_version() -> None:
    for lock in (TOP / "requirements").glob("*.txt"):
        for line in lock.read_text().splitlines():
            assert not line or line.startswith("#") or re.fullmatch(r"[\w.\[\]-]+==[\w.!+-]+", line), (lock.name, line)
