"""The compute API's smaller nouns: key pairs, host aggregates, server groups, quotas.

Writers: all of it is intent and belongs to the API handlers (api/compute). What ops needs of it (a group's policy,
a project's limits) it reads inside its own transactions through store/quota.py and `Tx.get`. A host's availability
zone is a column of `Host`; an aggregate that names a zone writes it there when hosts come and go, so that choosing
a host never has to join.
"""
from __future__ import annotations

from typing import Any

from virga.domain.row import Row

DEFAULT_ZONE = "nova"
INTERNAL_ZONE = "internal"
POLICIES = ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity")


class Keypair(Row):
    """A public key of a user. The private half of a generated pair is shown once and never stored."""

    __table__ = "keypairs"
    __key__ = ("user_id", "name")

    user_id: str
    name: str
    number: int
    public_key: str
    fingerprint: str
    kind: str = "ssh"
    created_at: float = 0.0


class Aggregate(Row):
    """A named set of hosts. `metadata` may hold `availability_zone`; `hosts` are in the order they joined."""

    __table__ = "aggregates"

    id: int
    uuid: str
    name: str
    metadata: dict[str, str] = {}
    hosts: list[str] = []
    created_at: float = 0.0
    updated_at: float | None = None

    @property
    def availability_zone(self) -> str | None:
        return self.metadata.get("availability_zone")


class ServerGroup(Row):
    """A placement wish shared by servers. Its members are the servers whose `server_group_id` is this id."""

    __table__ = "server_groups"

    id: str
    project_id: str
    user_id: str
    name: str
    policy: str
    rules: dict[str, Any] = {}
    created_at: float = 0.0


class QuotaLimit(Row):
    """One limit set for a project or, with `user_id`, for one user in it; -1 is unlimited.

    Without a row the quota class rules, and without that the configuration.
    """

    __table__ = "quota_limits"
    __key__ = ("project_id", "user_id", "resource")

    project_id: str
    user_id: str
    resource: str
    limit: int


class QuotaClassLimit(Row):
    """One limit of a quota class. Only the class `default` has an effect, as in the compute API."""

    __table__ = "quota_class_limits"
    __key__ = ("class_name", "resource")

    class_name: str
    resource: str
    limit: int


# Resources of os-quota-sets that come from [quota] of the configuration (name there) ...
QUOTA_CONFIGURED = {
    "instances": "instances", "cores": "cores", "ram": "ram", "key_pairs": "key_pairs",
    "metadata_items": "metadata_items", "server_groups": "server_groups",
    "server_group_members": "server_group_members",
}
# ... and those that the API lists for older clients, with the compute API's documented defaults.
QUOTA_FIXED = {
    "injected_files": 5, "injected_file_content_bytes": 10240, "injected_file_path_bytes": 255,
    "fixed_ips": -1, "floating_ips": -1, "security_groups": -1, "security_group_rules": -1, "networks": -1,
}
