"""Where things lie on a host: one folder a server, one folder of cached images; shared by the disk and the hypervisor driver.

Layout under the host's state folder:
  images/<name>                      read-only bases, named by what they contain
  instances/<server id>/disk         the server's disk, a qcow2 overlay; there only when complete
  instances/<server id>/console.log  serial output
  instances/<server id>/config.iso   config drive, if any
The overlay names its base by a relative path (`../../images/<name>`), so that the same bytes are valid on every host.
"""
from __future__ import annotations

from pathlib import Path

from virga.agent.hypervisor import DriverError


class Places:
    """Paths only; makes no file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.images = self.folder / "images"
        self.instances = self.folder / "instances"

    def instance(self, server_id: str) -> Path:
        """Raises DriverError for an id that is no plain name."""
        if not server_id or not all(letter.isalnum() or letter == "-" for letter in server_id):
            raise DriverError(f"{server_id!r} is not a server id", "conflict")
        return self.instances / server_id

    def disk(self, server_id: str) -> Path:
        return self.instance(server_id) / "disk"

    def rescue_disk(self, server_id: str) -> Path:
        return self.instance(server_id) / "disk.rescue"

    def console(self, server_id: str) -> Path:
        return self.instance(server_id) / "console.log"

    def config_drive(self, server_id: str) -> Path:
        return self.instance(server_id) / "config.iso"

    def base(self, name: str) -> Path:
        if "/" in name or name.startswith("."):
            raise DriverError(f"{name!r} is not the name of a cached image", "conflict")
        return self.images / name
