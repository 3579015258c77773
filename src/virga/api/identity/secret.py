"""Passwords and secrets: argon2id, with salt from the Env and cost from the configuration; the work runs off
the loop.

Rules: a secret in clear never reaches a row, a trace or a reply (but for the one answer that hands it out).
`verify` takes as long for an unknown user as for a known one, so that names cannot be told apart by the clock.
Tokens and generated secrets are random enough that a plain SHA-256 keeps them.
"""
from __future__ import annotations

import hashlib

from argon2 import exceptions, low_level

from virga.domain.config import Config
from virga.runtime.env import Env

SALT_BYTES = 16
HASH_BYTES = 32
PASSWORD_BYTES_MAX = 4096


def digest(token: str) -> str:
    """How a token is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


async def hash_secret(env: Env, config: Config, secret: str) -> str:
    """The argon2 string to store."""
    salt = bytes.fromhex(env.token_hex(SALT_BYTES))

    def work() -> str:
        return low_level.hash_secret(
            secret.encode("utf-8", "surrogatepass"), salt, time_cost=config.argon2_passes,
            memory_cost=config.argon2_memory_kib, parallelism=1, hash_len=HASH_BYTES, type=low_level.Type.ID,
        ).decode("ascii")

    return await env.offload(work)


async def verify(env: Env, config: Config, stored: str | None, secret: str) -> bool:
    """Whether the secret is the stored one; `stored` None answers False after the usual time."""
    if stored is None:
        await hash_secret(env, config, secret)
        return False

    def work() -> bool:
        try:
            return low_level.verify_secret(
                stored.encode("ascii"), secret.encode("utf-8", "surrogatepass"), low_level.Type.ID)
        except exceptions.Argon2Error:
            return False

    return await env.offload(work)
