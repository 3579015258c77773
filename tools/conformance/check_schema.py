"""Holds compute answers against the JSON schemas that tempest ships, without a cloud and without a tempest.conf.

    .venv-tempest/bin/python tools/conformance/check_schema.py < samples.jsonl
    .venv-tempest/bin/python tools/conformance/check_schema.py --methods

The second form prints one JSON object: the client methods of tempest whose answers have a schema, by client.

Reads one JSON object a line: {"client": "servers", "method": "show_server", "version": "2.96", "status": 200,
"body": {...}, "headers": {...}, "kwargs": {...}} and prints one JSON object a line: {"ok": true} or
{"ok": false, "why": "..."}.

How: the very client method that tempest's tests call is run with its transport replaced by the given answer, so
the schema for a microversion is picked by tempest's own code.  An extra key, a missing key, a wrong type or another
2xx code is refused.  It is a filter between two processes because tempest lives in an environment of its own.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
from typing import Any

from tempest.lib.services import compute
from tempest.lib.services.compute import base_compute_client

VERBS = ("get", "post", "put", "patch", "delete", "head", "request", "raw_request")


class Answer(dict[str, str]):
    """What tempest's transport returns first: headers, and the status as an attribute."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})
        self.status = status


def client_class(name: str) -> type:
    module = importlib.import_module(f"tempest.lib.services.compute.{name}_client")
    own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return own[0]


def check(sample: dict[str, Any]) -> None:
    """Raises what tempest would raise."""
    cls = client_class(sample["client"])
    client = cls.__new__(cls)
    # what its constructor takes from tempest.conf
    client.enable_instance_password, client.ssh_key_type = True, "ed25519"
    body = sample.get("body")
    text = b"" if body is None else json.dumps(body).encode()

    def answer(*_args: Any, **_kwargs: Any) -> tuple[Answer, bytes]:
        return Answer(sample["status"], sample.get("headers") or {}), text

    for verb in VERBS:
        setattr(client, verb, answer)
    method = getattr(client, sample["method"])
    given = dict(sample.get("kwargs") or {})
    needed = [
        given.pop(p.name, "x")
        for p in inspect.signature(method).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    base_compute_client.COMPUTE_MICROVERSION = sample["version"]
    try:
        method(*needed, **given)
    finally:
        base_compute_client.COMPUTE_MICROVERSION = None


def methods() -> dict[str, list[str]]:
    """client -> its methods that validate a response."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(compute.__path__):
        if not module.name.endswith("_client"):
            continue
        name = module.name.removesuffix("_client")
        for method, function in inspect.getmembers(client_class(name), inspect.isfunction):
            source = inspect.getsource(function) if function.__module__.endswith(module.name) else ""
            if not method.startswith("_") and ("validate_response" in source or "self.action(" in source):
                found.setdefault(name, []).append(method)
    return found


def main() -> int:
    if sys.argv[1:] == ["--methods"]:
        print(json.dumps(methods()))
        return 0
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            check(json.loads(line))
        except Exception as error:  # the border of one sample: whatever tempest raises is its verdict
            text = str(error).strip()
            print(json.dumps({"ok": False, "why": f"{type(error).__name__}: {text[:1500]}"}), flush=True)
        else:
            print(json.dumps({"ok": True}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
