"""The network API v2.0: a file per noun, one table of routes.

Rules and checks live with the noun they are about, what all nouns share in noun.py, what ports drag along in
ops/ports.py, so that servers and users make ports by one and the same code. `bootstrap_network` makes the networks a
fresh cloud starts with.
"""
from __future__ import annotations

from virga.api.network.bootstrap import bootstrap_network
from virga.api.network.service import service

__all__ = ["bootstrap_network", "service"]
