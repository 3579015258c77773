"""The house rules that a program can check, as plain functions from a source tree to complaints.

Owns: the arrows between rooms, the list of calls that only a door may make, the marks of SQL, the sizes that
want a reason, and the words that name no room.
Rules: every function takes the tree and the reasons and returns sentences a person can act on; an empty list
means clean.  An exception is an entry in tidy_reasons.toml with a reason, and an entry that nothing needs any
more is itself a complaint - otherwise the list would only ever grow.
Why ast and not imports: a check must not run the code it judges, and must see imports inside functions too.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONG_FILE_LINES = 400
LONG_FUNCTION_LINES = 60
# A module of some size owes its reader a proper opening, not one line.
OPENING_WANTED_ABOVE_LINES = 120
OPENING_LINES = 3

# room -> the rooms it may import. `runtime` is open to all; the composers at the end put everything together.
ARROWS: dict[str, set[str]] = {
    "runtime": set(),
    "domain": set(),
    "store": {"domain"},
    "fabric": {"domain"},
    "ops": {"domain", "store", "fabric"},
    "agent": {"domain", "fabric"},
    "api": {"domain", "store", "ops"},
    "console": {"domain", "store", "ops", "api"},
    "sim": {"domain", "store", "fabric", "ops", "agent", "api"},
    "lab": {"domain", "store", "fabric", "ops", "agent", "api", "sim"},
    "doorway": {"domain", "store", "fabric", "ops"},
    "hostagent": {"domain", "fabric", "agent"},
    "serve": {"domain", "store", "fabric", "ops", "agent", "api", "console", "doorway"},
    "cli": {"domain", "serve", "hostagent", "doorway", "lab", "sim"},
}

# Closed even where the room as a whole is open: a host has no database, so it may not load what needs one.
CLOSED = {("agent", "virga.fabric.hub")}

# Modules that reach outside the process or ask for time or chance.
DOOR_MODULES = {
    "time", "random", "uuid", "secrets", "threading", "_thread", "queue", "multiprocessing", "concurrent.futures",
    "socket", "socketserver", "ssl", "select", "selectors", "subprocess", "signal", "fcntl", "tempfile", "sqlite3",
    "psycopg", "psycopg_pool", "urllib.request", "http.client", "http.server", "requests", "httpx", "httpx2",
    "websockets", "uvicorn", "libvirt", "libvirtaio", "pyroute2", "asyncio.subprocess",
}  # fmt: skip

# Single names of otherwise harmless modules.
DOOR_CALLS = {
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
    "os.urandom", "os.getrandom", "os.fork", "os.kill", "os.system", "os.popen", "os.environ", "os.getenv",
    "asyncio.sleep", "asyncio.create_task", "asyncio.ensure_future", "asyncio.run", "asyncio.Runner",
    "asyncio.to_thread", "asyncio.get_event_loop", "asyncio.new_event_loop",
    "asyncio.open_connection", "asyncio.start_server", "asyncio.open_unix_connection",
    "asyncio.start_unix_server", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell",
}  # fmt: skip

# Methods that lead out through a loop, whatever the variable is called.
DOOR_METHODS = {
    "run_in_executor", "create_task", "create_connection", "create_server", "add_signal_handler", "call_later",
}  # fmt: skip

SQL = re.compile(
    r"^\s*(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+(TABLE|INDEX|UNIQUE)\b"
    r"|ALTER\s+TABLE\s|DROP\s+(TABLE|INDEX)\s|PRAGMA\s|BEGIN\s+IMMEDIATE\b)"
)
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "stuff", "tools", "lib"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")


@dataclass
class Reasons:
    """tidy_reasons.toml: who may be long, and who may open which door."""

    files: dict[str, str] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    doors: list[dict[str, Any]] = field(default_factory=list)
    arrows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Reasons:
        table = tomllib.loads(path.read_text())
        return cls(
            dict(table.get("long_files", {})),
            dict(table.get("long_functions", {})),
            list(table.get("door", [])),
            list(table.get("arrow", [])),
        )


@dataclass
class Module:
    """One parsed file; `path` is relative to the package folder, e.g. ops/engine.py."""

    path: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder, or for a file at the top its name up to an underscore (cli_demo.py belongs to cli)."""
        first = self.path.split("/")[0]
        return first if "/" in self.path else first.removesuffix(".py").split("_")[0]

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())


def modules(package: Path) -> list[Module]:
    """Every Python file of the package, sorted by path."""
    found = []
    for file in sorted(package.rglob("*.py")):
        text = file.read_text()
        found.append(Module(file.relative_to(package).as_posix(), text, ast.parse(text, str(file))))
    return found


# ------------------------------------------------------------------ arrows


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything an import statement names, also inside functions, also relative."""
    here = ["virga", *module.path.removesuffix(".py").split("/")[:-1]]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"


def check_arrows(mods: list[Module], reasons: Reasons) -> list[str]:
    """Imports between rooms follow ARROWS; an unknown room is a complaint of its own."""
    complaints = []
    used: set[int] = set()
    for module in mods:
        if module.path == "__init__.py" or module.path == "__main__.py":
            continue
        if module.room not in ARROWS:
            complaints.append(f"{module.path}: the plan has no room {module.room!r}; name its arrows in ARROWS")
            continue
        allowed = ARROWS[module.room] | {"runtime", module.room}
        for line, name in imported(module):
            parts = name.split(".")
            if parts[0] != "virga" or len(parts) < 2 or parts[1] == "__version__":
                continue
            target = parts[1].split("_")[0] if parts[1] not in ARROWS else parts[1]
            closed = any(module.room == room and name.startswith(what) for room, what in CLOSED)
            if target in allowed and not closed:
                continue
            excuse = [
                i for i, a in enumerate(reasons.arrows) if a["from"] == module.path and name.startswith(a["to"])
            ]
            used.update(excuse)
            if not excuse:
                complaints.append(f"{module.path}:{line}: {module.room} may not import {name}")
    for index, entry in enumerate(reasons.arrows):
        if len(str(entry.get("reason", ""))) < 15:
            complaints.append(f"tidy_reasons.toml: the arrow from {entry['from']} has no reason")
        if index not in used:
            complaints.append(f"tidy_reasons.toml: arrow {entry['from']} -> {entry['to']} is not needed any more")
    return sorted(set(complaints))


# ------------------------------------------------------------------ doors


def names_used(module: Module) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of attribute chains and names, with import aliases resolved."""
    alias: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                alias[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for item in node.names:
                alias[item.asname or item.name] = f"{node.module}.{item.name}"
    for node in ast.walk(module.tree):
        chain: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            chain.append(at.attr)
            at = at.value
        ours = isinstance(at, ast.Name) and alias.get(at.id, "").startswith("virga")
        if chain and chain[0] in DOOR_METHODS and not ours:
            yield getattr(node, "lineno", 0), f"loop.{chain[0]}"
        if isinstance(at, ast.Name) and at.id in alias:
            yield getattr(node, "lineno", 0), ".".join([alias[at.id], *reversed(chain)])


def door_of(name: str) -> str | None:
    """The banned module or call that a dotted name stands for."""
    if name in DOOR_CALLS or name.removeprefix("loop.") in DOOR_METHODS:
        return name
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in DOOR_MODULES:
            return ".".join(parts[:size])
    return None


def check_doors(mods: list[Module], reasons: Reasons) -> list[str]:
    """Time, chance, threads, sockets and processes only where tidy_reasons.toml gives a reason."""
    complaints = []
    needed: dict[int, set[str]] = {}
    for module in mods:
        seen = [(line, door_of(name)) for line, name in [*imported(module), *names_used(module)]]
        for line, door in seen:
            if door is None:
                continue
            open_here = [
                (i, pattern)
                for i, entry in enumerate(reasons.doors)
                if fnmatch.fnmatch(module.path, entry["path"])
                for pattern in entry["allows"]
                if door == pattern or door.startswith(pattern + ".")
            ]
            for index, pattern in open_here:
                needed.setdefault(index, set()).add(pattern)
            if not open_here:
                complaints.append(f"{module.path}:{line}: {door} belongs behind a door (Env, store, fabric link)")
    for index, entry in enumerate(reasons.doors):
        if len(str(entry.get("reason", ""))) < 15:
            complaints.append(f"tidy_reasons.toml: the door of {entry['path']} has no reason")
        for pattern in entry["allows"]:
            if pattern not in needed.get(index, set()):
                complaints.append(f"tidy_reasons.toml: {entry['path']} does not use {pattern} any more")
    return sorted(set(complaints))


# ------------------------------------------------------------------ SQL


def docstrings(tree: ast.Module) -> set[int]:
    """ids of the constant nodes that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def check_sql(mods: list[Module]) -> list[str]:
    """SQL text, and the raw door `tx.sql()`, only in the store."""
    complaints = []
    for module in mods:
        if module.room == "store":
            continue
        texts = docstrings(module.tree)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
                if SQL.match(node.value):
                    complaints.append(f"{module.path}:{node.lineno}: SQL outside the store")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sql":
                complaints.append(f"{module.path}:{node.lineno}: the raw door .sql() outside the store")
    return complaints


# ------------------------------------------------------------------ shape


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """(qualified name, lines) of every function, decorators not counted."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + child.name, (child.end_lineno or child.lineno) - child.lineno + 1
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(module.tree, "")


def check_sizes(mods: list[Module], reasons: Reasons) -> list[str]:
    """Long files and functions are named with a reason, and only those."""
    complaints = []
    long_files = {m.path: m.lines for m in mods if m.lines > LONG_FILE_LINES}
    long_functions = {
        f"{m.path}::{name}": size for m in mods for name, size in functions(m) if size > LONG_FUNCTION_LINES
    }
    for kind, found, listed in (
        ("file", long_files, reasons.files),
        ("function", long_functions, reasons.functions),
    ):
        for name, size in found.items():
            if len(listed.get(name, "")) < 15:
                complaints.append(f"{name}: {kind} of {size} lines without a reason (split it into rooms, or say why)")
        for name in listed:
            if name not in found:
                complaints.append(f"tidy_reasons.toml: {kind} {name} is not long any more, or is gone")
    return sorted(complaints)


def check_openings(mods: list[Module]) -> list[str]:
    """Each module opens with what it owns; one of some size with more than a line."""
    complaints = []
    for module in mods:
        text = ast.get_docstring(module.tree) or ""
        if not text:
            complaints.append(f"{module.path}: no module docstring")
        elif module.lines > OPENING_WANTED_ABOVE_LINES and len(text.splitlines()) < OPENING_LINES:
            complaints.append(f"{module.path}: {module.lines} lines, but its opening says too little")
    return complaints


def check_names(mods: list[Module]) -> list[str]:
    """No room is called after nothing."""
    complaints = []
    for module in mods:
        parts = module.path.removesuffix(".py").split("/")
        complaints += [f"{module.path}: {part!r} names no room" for part in parts if part in NAMELESS]
    return complaints


def check_unfinished(mods: list[Module]) -> list[str]:
    """What is shipped is done; what is not done is an issue, not a remark."""
    complaints = []
    for module in mods:
        for number, line in enumerate(module.text.splitlines(), 1):
            if UNFINISHED.search(line):
                complaints.append(f"{module.path}:{number}: unfinished: {line.strip()[:80]}")
    return complaints


# ------------------------------------------------------------------ the README and the Makefile


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))


def code_lines(markdown: str) -> Iterator[str]:
    """Lines of fenced blocks and what stands between back-ticks."""
    for block in re.findall(r"```[a-z]*\n(.*?)```", markdown, re.S):
        yield from (line.strip() for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.S))


def check_readme(markdown: str, makefile: str, virga_commands: set[str] | None = None) -> list[str]:
    """Every `make X` and `virga X` that the README names can be typed."""
    complaints = []
    targets = make_targets(makefile)
    for line in code_lines(markdown):
        for name in re.findall(r"^(?:\$ )?make ([a-z][a-z-]*)", line):
            if name not in targets:
                complaints.append(f"README: `make {name}` does not exist")
        if virga_commands is not None:
            for name in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?virga ([a-z][a-z-]*)", line):
                if name not in virga_commands:
                    complaints.append(f"README: `virga {name}` does not exist")
    return complaints
