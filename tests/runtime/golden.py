"""Golden files: what a drawing gave when a person last looked at it. `VIRGA_GOLDEN=write` writes them anew."""
from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check(name: str, drawn: str) -> None:
    path = FOLDER / name
    if os.environ.get("VIRGA_GOLDEN") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(drawn, encoding="utf-8")
    assert drawn == path.read_text(encoding="utf-8"), f"{name} differs: look at it, then VIRGA_GOLDEN=write"
