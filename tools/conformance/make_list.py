"""Makes lists/api.txt: every API test of tempest that a cloud without volumes and guest log-ins has to pass.

    tools/conformance/make-list

Owns: the choice.  All tests of tempest.api.compute, .network, .identity.v3 and .image.v2 are taken, and two kinds
are left out: those that need block storage, and those that log in to a guest.  Which is which is read from
tempest itself: the tags of a test, the conditions of its decorators, the skip conditions and set-ups of its class,
and the helpers it calls.  Nothing is left out because Virga fails it, and what is left out is printed as a remark
at the end of the list, with the sign it was known by.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tempfile
from pathlib import Path

from runner import all_tests, prepare_folder

WANTED = re.compile(r"^tempest\.api\.(compute|network|identity\.v3|image\.v2)\.")
VOLUME_SIGNS = {
    r"service_available\.cinder": "asks for block storage in its class",
    r"\bcreate_volume\(|\battach_volume\(|\bcreate_volume_snapshot\(": "makes or attaches a volume",
    r"volumes?_client\b": "uses the volume client",
}
LOGIN_SIGNS = {
    r"skip(Unless|If)\([^)]*run_validation": "decorated: needs a log-in",
    r"if not CONF\.validation\.run_validation": "its class skips without a log-in",
}


def source(thing: object) -> str:
    """The code of a function without its remarks, which talk about volumes where the code does not use any."""
    try:
        text = inspect.getsource(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    return re.sub(r"#.*", "", text)


def class_texts(cls: type) -> list[str]:
    """Skip checks and set-ups of a class and of the test classes above it (not tempest's own base classes)."""
    texts = []
    for parent in cls.__mro__:
        if "test_" not in parent.__module__.rsplit(".", 1)[-1]:
            continue
        for name in ("skip_checks", "resource_setup", "setup_clients", "setUp"):
            if name in vars(parent):
                texts.append(source(getattr(parent, name)))
    return texts


def sign(text: str, signs: dict[str, str]) -> str:
    return next((why for pattern, why in signs.items() if re.search(pattern, text, re.S)), "")


def helpers(cls: type, text: str) -> str:
    """The methods of the class that a test calls on itself, one step deep, unless they belong to a base class."""
    out = []
    for name in set(re.findall(r"self\.(_\w+)\(", text)):
        found = getattr(cls, name, None)
        if found is not None and "test_" in getattr(found, "__module__", ""):
            out.append(source(found))
    return "\n".join(out)


def left_out(test: str) -> str:
    """Why a test is not on the list, or an empty string."""
    name, _, tags = test.partition("[")
    if re.search(r"\bvolume\b", tags) or name.startswith("tempest.api.compute.volumes."):
        return "block storage: tagged so, or in the folder of volume tests"
    module, cls_name, method = name.rsplit(".", 2)
    cls = getattr(importlib.import_module(module), cls_name)
    own = source(getattr(cls, method))
    for part, text in (("class", "\n".join(class_texts(cls))), ("test", own + helpers(cls, own))):
        if why := sign(text, VOLUME_SIGNS):
            return f"block storage: {why} ({part})"
        if why := sign(text, LOGIN_SIGNS):
            return f"guest log-in: {why} ({part})"
    if getattr(cls, "volume_backed", False):
        return "block storage: boots from a volume (class)"
    return ""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare_folder(work)
        tests = sorted(t for t in all_tests(work) if WANTED.match(t))
    taken: list[str] = []
    rest: list[str] = []
    for test in tests:
        why = left_out(test)
        (rest if why else taken).append(f"# {test.split('[')[0]}: {why}" if why else test)
    lines = [
        "# Every API test of tempest for compute, network, identity v3 and image v2 that needs neither block",
        "# storage nor a log-in into a guest. Made by tools/conformance/make-list; what it left out is at the end.",
        f"# {len(taken)} tests; {len(rest)} left out.",
        "",
    ]
    for test in taken:
        name, _, tags = test.partition("[")
        uuid = re.search(r"id-[0-9a-f-]{36}", tags)
        lines.append(f"^{re.escape(name)}\\[(.*,)?{uuid.group(0)}" if uuid else f"^{re.escape(name)}$")
    # Written to the file and not to stdout, where tempest's own logging may put a line between.
    target = Path(__file__).parent / "lists" / "api.txt"
    target.write_text("\n".join([*lines, "", "# ---- left out", *rest, ""]))
    print(f"{target}: {len(taken)} tests, {len(rest)} left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
