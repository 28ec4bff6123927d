"""What the router knows while the store is read and written at once."""

from __future__ import annotations

from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.domain.status import Endpoint
from dcf.gateway.endpoint_sync import EndpointSync
from dcf.gateway.router import Router
from dcf.store.redis_store import RedisStore


class DeletedWhileRead:
    """The real store, where somebody deletes `echo` through this gateway between two reads of one turn."""

    def __init__(self, store: RedisStore, router: Router) -> None:
        self.read_specs = store.read_specs
        self.read_spec = store.read_spec
        self.read_statuses = store.read_statuses
        self.changes = store.changes
        self._store = store
        self._router = router

    async def read_endpoints(self) -> dict[str, tuple[Endpoint, ...]]:
        assert await self._store.delete_spec("echo")
        self._router.remove("echo")
        return await self._store.read_endpoints()


async def test_a_function_deleted_while_the_store_is_read_does_not_come_back(store: RedisStore) -> None:
    router = Router()
    await store.write_spec(FunctionSpec(name=FunctionName("echo"), image="x", uid="u1"), expected_revision=0)
    await store.write_spec(FunctionSpec(name=FunctionName("other"), image="x", uid="u2"), expected_revision=0)
    await EndpointSync(store, router).turn()
    assert set(router.functions) == {"echo", "other"}

    await EndpointSync(DeletedWhileRead(store, router), router).turn()

    assert set(router.functions) == {"other"}


async def test_a_function_deployed_again_under_its_old_name_is_known_at_once(store: RedisStore) -> None:
    router = Router()
    await store.write_spec(FunctionSpec(name=FunctionName("echo"), image="x", uid="u1"), expected_revision=0)
    sync = EndpointSync(store, router)
    await sync.turn()
    await store.delete_spec("echo")
    router.remove("echo")

    await store.write_spec(FunctionSpec(name=FunctionName("echo"), image="y", uid="u2"), expected_revision=0)
    await sync.turn()

    assert router.functions["echo"].spec.uid == "u2"
