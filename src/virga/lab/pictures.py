"""Writing drawings to files: SVG always, PNG too when a converter is installed.

Owns: the one call of an outside program in the lab. SVG needs nothing; PNG is made by `rsvg-convert` (package librsvg2-bin) if it is on the path, and
otherwise left out, which the caller is told. No Python library is needed for either.
"""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NO_PNG = "PNG files are left out: rsvg-convert (package librsvg2-bin) is not installed; the SVG files are complete"


def write(folder: Path, name: str, svg: str) -> list[Path]:
    """Write NAME.svg and, if possible, NAME.png into `folder`; returns what was written. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    path.write_text(svg, encoding="utf-8")
    program = shutil.which("rsvg-convert")
    if program is None:
        return [path]
    image = folder / f"{name}.png"
    done = subprocess.run([program, "--output", str(image), str(path)], capture_output=True, timeout=120, check=False)
    return [path, image] if done.returncode == 0 else [path]
