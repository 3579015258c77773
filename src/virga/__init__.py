"""Virga: a small real cloud that speaks the OpenStack APIs and can show every step it takes."""

__version__ = "0.1.0"
