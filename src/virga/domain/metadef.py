"""Metadata definitions: what operators have written down about the properties, tags and objects that resources may carry.

Writers: administrators, through api/image/metadefs.py; nothing else here reads them, they are there for people and for
the forms of clients. A namespace holds parts of four kinds; deleting it takes them along. Parts keep the JSON they were
given, checked for shape.
"""
from __future__ import annotations

from typing import Any

from virga.domain.row import Row

OBJECT, PROPERTY, TAG, RESOURCE_TYPE = "object", "property", "tag", "resource_type"
# resource types that exist without anybody having made them
RESOURCE_TYPES = ("OS::Glance::Image", "OS::Nova::Flavor", "OS::Nova::Server", "OS::Nova::Aggregate")


class MetadefNamespace(Row):
    """A named set of definitions. `owner` is a project id; `visibility` is public or private."""

    __table__ = "metadef_namespaces"
    __key__ = ("namespace",)

    namespace: str
    owner: str
    visibility: str = "private"
    display_name: str | None = None
    description: str | None = None
    protected: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0


class MetadefPart(Row):
    """One object, property, tag or resource type association of a namespace. `body` is what the API shows but for the name."""

    __table__ = "metadef_parts"
    __key__ = ("namespace", "kind", "name")

    namespace: str
    kind: str
    name: str
    body: dict[str, Any] = {}
    created_at: float = 0.0
    updated_at: float = 0.0
