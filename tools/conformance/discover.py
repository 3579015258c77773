"""Asks a running cloud what it offers and writes the tempest.conf that fits it.

Owns: the questions (identity, image, compute, network), what gets made when it is missing (roles, a second
image, a second flavor, an external network - only when asked to seed), and the filled-in template.
Rule: nothing is switched off because a test fails. A feature flag is false only where the cloud does not
advertise the feature at all, or where the test needs a log-in into a guest.  Every value can be set from
outside (`--set NAME=VALUE`), so that the same tool judges other clouds.
Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TINY_IMAGE_BYTES = 1 << 20
# Named after Nova's filters: the placement rules whose tests are to run (and to fail, where a rule is missing).
SCHEDULER_FILTERS = (
    "AvailabilityZoneFilter,ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,"
    "ServerGroupAntiAffinityFilter,ServerGroupAffinityFilter,SameHostFilter,DifferentHostFilter"
)


class Refused(Exception):
    """The cloud answered in a way that leaves nothing to test."""


@dataclass
class Cloud:
    """One admin session on a cloud."""

    auth_url: str
    password: str
    user: str = "admin"
    project: str = "admin"
    domain: str = "Default"
    region: str = "RegionOne"
    insecure: bool = False
    token: str = ""
    catalog: dict[str, str] = field(default_factory=dict)
    domain_id: str = "default"

    def call(
        self, method: str, url: str, body: Any = None, *, raw: bytes | None = None
    ) -> tuple[int, dict[str, str], Any]:
        data = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        request = urllib.request.Request(url, data=data, method=method)
        request.add_header("Accept", "application/json")
        if data is not None:
            kind = "application/octet-stream" if raw is not None else "application/json"
            request.add_header("Content-Type", kind)
        if self.token:
            request.add_header("X-Auth-Token", self.token)
        context = ssl.create_default_context()
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            with urllib.request.urlopen(request, context=context, timeout=60) as reply:
                status, headers, text = reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            status, headers, text = error.code, dict(error.headers), error.read()
        except urllib.error.URLError as error:
            raise Refused(f"no answer from {url}: {error.reason}") from error
        try:
            parsed = json.loads(text) if text else None
        except ValueError:
            parsed = {"text": text[:300].decode("utf-8", "replace")}
        return status, {k.lower(): v for k, v in headers.items()}, parsed

    def log_in(self) -> None:
        domain = {"name": self.domain}
        status, headers, body = self.call(
            "POST",
            self.auth_url + "/auth/tokens",
            {
                "auth": {
                    "identity": {
                        "methods": ["password"],
                        "password": {
                            "user": {"name": self.user, "password": self.password, "domain": domain}
                        },
                    },
                    "scope": {"project": {"name": self.project, "domain": domain}},
                }
            },
        )
        if status != 201:
            raise Refused(f"log-in of {self.user!r} refused: {status} {body}")
        self.token = headers["x-subject-token"]
        self.domain_id = body["token"]["project"]["domain"]["id"]
        for service in body["token"].get("catalog", []):
            for endpoint in service["endpoints"]:
                here = endpoint.get("region_id") or endpoint.get("region")
                if endpoint["interface"] == "public" and here in (self.region, None):
                    self.catalog.setdefault(service["type"], endpoint["url"].rstrip("/"))

    def rows(self, url: str, key: str) -> list[dict[str, Any]]:
        status, _, body = self.call("GET", url)
        if status != 200 or not isinstance(body, dict):
            return []
        return list(body.get(key, []))


def seed_roles(cloud: Cloud) -> list[str]:
    made = []
    have = {r["name"].lower() for r in cloud.rows(cloud.auth_url + "/roles", "roles")}
    for name in ("member", "reader", "manager"):
        if name not in have:
            cloud.call("POST", cloud.auth_url + "/roles", {"role": {"name": name}})
            made.append("role " + name)
    return made


def public_images(cloud: Cloud, base: str, name: str = "") -> list[str]:
    """Ids of images that every project sees; of that name only, if one is given."""
    found = cloud.rows(base + "/images?status=active&limit=50", "images")
    return [i["id"] for i in found if i.get("visibility") == "public" and name in ("", i.get("name"))]


def seed_images(cloud: Cloud, base: str, content: bytes) -> list[str]:
    """Two images that every project sees; tests rebuild from one to the other."""
    made = []
    for number in range(1, 3 - len(public_images(cloud, base))):
        facts = {
            "name": f"conformance-{number}",
            "disk_format": "raw",
            "container_format": "bare",
            "visibility": "public",
            "min_ram": 0,
            "min_disk": 0,
        }
        status, _, image = cloud.call("POST", base + "/images", facts)
        if status != 201:
            return [*made, f"no image ({status} {image})"]
        status, _, body = cloud.call("PUT", f"{base}/images/{image['id']}/file", raw=content)
        if status != 204:
            return [*made, f"no image content ({status} {body})"]
        made.append("image " + facts["name"])
    return made


def seed_flavors(cloud: Cloud, base: str) -> list[str]:
    made = []
    have = cloud.rows(base + "/flavors/detail", "flavors")
    for name, ram in (("conformance.nano", 128), ("conformance.micro", 192)):
        if len(have) + len(made) < 2:
            body = {"flavor": {"name": name, "ram": ram, "vcpus": 1, "disk": 1}}
            cloud.call("POST", base + "/flavors", body)
            made.append("flavor " + name)
    return made


def seed_public_network(cloud: Cloud, base: str) -> list[str]:
    if cloud.rows(base + "/networks?router:external=true", "networks"):
        return []
    network = {"name": "public", "router:external": True, "shared": False}
    status, _, body = cloud.call("POST", base + "/networks", {"network": network})
    if status != 201:
        return [f"no external network ({status} {body})"]
    subnet = {
        "network_id": body["network"]["id"],
        "cidr": "172.24.4.0/24",
        "ip_version": 4,
        "enable_dhcp": False,
        "name": "public-subnet",
    }
    cloud.call("POST", base + "/subnets", {"subnet": subnet})
    return ["network public"]


def discover(
    cloud: Cloud, work: Path, given: dict[str, str], *, seed: bool
) -> tuple[dict[str, Any], list[str]]:
    """All values of the template, and the names of what was made. `given` wins over what was found."""
    cloud.log_in()
    made: list[str] = seed_roles(cloud) if seed else []
    compute, image, network = (cloud.catalog.get(t) for t in ("compute", "image", "network"))
    volume = next(
        (cloud.catalog[t] for t in ("block-storage", "volumev3", "volume") if t in cloud.catalog), None
    )
    tiny = work / "tiny.img"
    tiny.write_bytes(b"\0" * TINY_IMAGE_BYTES)

    values: dict[str, Any] = {
        "WORK": work,
        "AUTH_URL": cloud.auth_url,
        "ADMIN_USER": cloud.user,
        "ADMIN_PASSWORD": cloud.password,
        "ADMIN_PROJECT": cloud.project,
        "ADMIN_DOMAIN": cloud.domain,
        "DEFAULT_DOMAIN_ID": cloud.domain_id,
        "REGION": cloud.region,
        "TIMEOUT": 60,
        "INSECURE": cloud.insecure,
        # What Virga's identity offers and no call tells; another cloud's operator changes it with --set.
        "ID_TRUST": True,
        "ID_ACCESS_RULES": True,
        "OS_GLANCE_RESERVED": True,
        "SECURITY_COMPLIANCE": False,
        "IDENTITY_EXTS": "OS-INHERIT,OS-EC2,OS-TRUST,OS-EP-FILTER",
        # Features that Virga does not claim; another cloud's operator turns them on with --set.
        "SSH": False,
        "SSH_USER": "cirros",
        "SSH_TIMEOUT": 120,
        "METADATA": False,
        "SCOPE": False,
        "VNC": False,
        "STABLE_RESCUE": True,
        "SCHEDULER_FILTERS": SCHEDULER_FILTERS,
        "IMAGE_FORMAT_ENFORCEMENT": False,
        "HAS_NOVA": bool(compute),
        "HAS_GLANCE": bool(image),
        "HAS_NEUTRON": bool(network),
        # The block-storage tests stay in the list either way; they can pass only where volumes can be made.
        "HAS_CINDER": bool(volume) and volume_works(cloud, volume),
    }
    if image:
        base = re.sub(r"/v2(\.\d+)?$", "", image) + "/v2"
        if seed:
            made += seed_images(cloud, base, tiny.read_bytes())
        ids = public_images(cloud, base, given.get("IMAGE_NAME", ""))
        values["IMAGE_REF"] = ids[0] if ids else ""
        values["IMAGE_REF_ALT"] = ids[1] if len(ids) > 1 else values["IMAGE_REF"]
        status, _, body = cloud.call("GET", base + "/info/import")
        methods = (body or {}).get("import-methods", {}).get("value", []) if status == 200 else []
        values["IMAGE_IMPORT"] = bool(methods)
    if compute:
        if seed:
            made += seed_flavors(cloud, compute)
        flavors = sorted(
            cloud.rows(compute + "/flavors/detail", "flavors"),
            key=lambda f: (f["ram"], f["vcpus"], f["disk"]),
        )
        refs = [f["id"] for f in flavors]
        values["FLAVOR_REF"] = refs[0] if refs else "1"
        values["FLAVOR_REF_ALT"] = refs[1] if len(refs) > 1 else "2"
        _, _, root = cloud.call("GET", compute + "/")
        values["MAX_MICROVERSION"] = ((root or {}).get("version") or {}).get("version") or ""
        services = cloud.rows(compute + "/os-services?binary=nova-compute", "services")
        up = [s for s in services if s.get("state") == "up" and s.get("status") == "enabled"]
        values["COMPUTE_NODES"] = max(1, len(up))
        # tests that name the hosts a server leaves and goes to
        values["SOURCE_HOST"], values["DEST_HOST"] = [s["host"] for s in up[:2]] if len(up) > 1 else ("", "")
    extensions: list[str] = []
    if network:
        base = re.sub(r"/v2\.0$", "", network) + "/v2.0"
        if seed:
            made += seed_public_network(cloud, base)
        extensions = sorted(e["alias"] for e in cloud.rows(base + "/extensions", "extensions"))
        outer = cloud.rows(base + "/networks?router:external=true", "networks")
        values["PUBLIC_NETWORK_ID"] = outer[0]["id"] if outer else ""
        values["FLOATING_NETWORK"] = outer[0]["name"] if outer else ""
        names = [n["name"] for n in cloud.rows(base + "/networks?router:external=false", "networks") if n["name"]]
        values["FIXED_NETWORK"] = next((name for name in names if names.count(name) == 1), "")
    values["NET_EXTS"] = ",".join(extensions) or "none"
    values["FLOATING_IPS"] = "router" in extensions and bool(values.get("PUBLIC_NETWORK_ID"))
    values["PORT_SECURITY"] = "port-security" in extensions
    values["ISOLATED"] = "router" in extensions
    values["MANY_HOSTS"] = int(values.get("COMPUTE_NODES", 1)) > 1
    values.update(given)
    return values, made


def volume_works(cloud: Cloud, base: str) -> bool:
    """A catalog entry alone is no block storage: ask for a list of volumes."""
    status, _, body = cloud.call("GET", base + "/volumes")
    return status == 200 and isinstance(body, dict) and "volumes" in body


def render(values: dict[str, Any], work: Path) -> Path:
    """Fills tempest.conf.in; a name nobody set becomes an empty line's worth of default."""
    template = (Path(__file__).parent / "tempest.conf.in").read_text()
    lines = []
    for line in template.splitlines():
        names = re.findall(r"@([A-Z0-9_]+)@", line)
        if any(values.get(n, "") == "" for n in names) and re.match(r"^\w+ = @[A-Z0-9_]+@$", line):
            continue  # unknown here: let tempest use its own default
        for name in names:
            value = values.get(name, "")
            line = line.replace(f"@{name}@", str(value).lower() if isinstance(value, bool) else str(value))
        lines.append(line)
    for folder in ("etc", "logs", "lock"):
        os.makedirs(work / folder, exist_ok=True)
    path = work / "etc" / "tempest.conf"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path
