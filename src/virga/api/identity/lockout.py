"""Users that gave wrong passwords too often are locked for a while.

Owns: `failures` and `failed_at` of users. Rules: off unless `[identity] lockout_failure_attempts` is set; a locked user's right password is refused with
the same words as a wrong one, so that nobody can learn of a lock, or of a password, by trying; the lock ends by itself after `lockout_duration` seconds
since the last counted failure. What is tried while locked is not counted: a stranger cannot keep somebody out for good by trying on. A user with the
option `ignore_lockout_failure_attempts` is never locked.
"""
from __future__ import annotations

from virga.api.cloud import Cloud
from virga.domain.identity import User
from virga.store.db import Tx


async def passes(cloud: Cloud, user: User, right: bool) -> bool:
    """Whether a user whose password was `right` or not is let in; counts."""
    rules = cloud.config.identity
    if rules.lockout_failure_attempts <= 0 or user.options.get("ignore_lockout_failure_attempts"):
        return right

    def closure(tx: Tx) -> bool:
        row = tx.get(User, user.id)
        if row is None:
            return False
        if row.failures >= rules.lockout_failure_attempts and tx.now - (row.failed_at or 0.0) < rules.lockout_duration:
            return False
        failures = 0 if row.failures >= rules.lockout_failure_attempts else row.failures
        if not right:
            tx.update(User, row.id, failures=failures + 1, failed_at=tx.now)
        elif row.failures:
            tx.update(User, row.id, failures=0, failed_at=None)
        return right

    if right and not user.failures:
        return True
    return await cloud.db.run(closure)
