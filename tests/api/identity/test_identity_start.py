"""The first start, the second one, and two processes on one database."""
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from virga.api import identity
from virga.api.cloud import Cloud
from virga.api.identity.tokens import Proof, issue
from virga.domain import identity as domain
from virga.domain.config import Config
from virga.domain.identity import Assignment, Endpoint, Target, Token, User
from virga.domain.row import Row
from virga.runtime.env import real_env
from virga.runtime.trace import Trace
from virga.store.blobs import MemoryBlobs
from virga.store.db import SqliteDb
from virga.store.identity import touch

CONFIG = Config(region="Here", argon2_memory_kib=8, argon2_passes=1)


def test_a_second_start_changes_nothing(who: Any) -> None:
    client = who.client

    def again(tx: Any) -> Any:
        return identity.bootstrap(tx, client.cloud.config, "another", "another")

    def state(tx: Any) -> Any:
        return tx.find(User), tx.find(Assignment), tx.find(Endpoint)

    before = client.run(client.db.read(state))
    made = client.run(client.db.run(again))
    assert client.run(client.db.read(state)) == before
    assert (made.projects, made.users) == (client.founders.projects, client.founders.users)
    assert who.log_in(made.users["admin"]).status_code == 201, "the old password still holds"


def test_another_process_sees_a_revocation_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        clouds = []
        for name in ("one", "two"):
            env = real_env(name)
            trace = Trace(env.now)
            db = SqliteDb(env, trace, tmp_path / "db.sqlite")
            clouds.append(Cloud(env, db, trace, CONFIG, None, MemoryBlobs()))  # type: ignore[arg-type]
        one, two = clouds
        made = await one.db.run(lambda tx: identity.bootstrap(tx, CONFIG, "x", "x"))
        target = Target("project", made.projects["demo"])
        text, _ = await one.db.run(lambda tx: issue(tx, Proof(made.users["demo"], ["password"]), target, 60.0))
        for cloud in clouds:
            caller = await identity.authenticate(cloud, text)
            assert caller is not None
            assert caller.roles == {"member", "reader"}

        def revoke(tx: Any) -> None:
            tx.delete_where(Token, user_id=made.users["demo"])
            touch(tx)

        await one.db.run(revoke)
        assert await identity.authenticate(one, text) is None
        assert await identity.authenticate(two, text) is None
        for cloud in clouds:
            cloud.db.close()

    asyncio.run(story())


def test_hashes_are_salted_and_cost_what_the_configuration_says() -> None:
    async def story() -> tuple[str, str]:
        env = real_env()
        return (await identity.hash_secret(env, CONFIG, "same"), await identity.hash_secret(env, CONFIG, "same"))

    one, two = asyncio.run(story())
    assert one != two
    assert "$m=8,t=1,p=1$" in one


def test_every_row_has_its_table_with_the_same_columns(who: Any) -> None:
    rows = [item for item in vars(domain).values()
            if isinstance(item, type) and issubclass(item, Row) and item.__module__ == domain.__name__]
    assert len(rows) > 15
    for row in rows:
        found = who.client.run(who.client.db.read(
            lambda tx, name=row.__table__: {column[1] for column in tx.sql(f'PRAGMA table_info("{name}")')}))
        assert found == set(row.__struct_fields__), row.__table__
