"""Store suite: markers, the small named values that services keep beside the events."""

import pytest
from tests.component.store_world import Backend, World, on_store
from tests.factory import fake_event

from orly.store.base import (
    MAX_MARKER_BYTES,
    MAX_MARKER_KEY_BYTES,
    MAX_MARKERS,
    MAX_MARKERS_BYTES,
    Marker,
)


class MarkerSuite:
    backend: Backend

    @on_store()
    async def test_markers_are_kept(self, world: World) -> None:
        await world.store.change_markers({"a": b"1", "b/x": b"", "\u00e4\u0000": b"\x00\xff"})
        assert await world.store.marker("a") == b"1"
        assert await world.store.marker("b/x") == b""
        assert await world.store.marker("b") is None
        assert await world.store.marker("\u00e4\u0000") == b"\x00\xff"
        await world.store.change_markers({"a": b"2", "b/x": None, "absent": None})
        await world.reopen()
        assert await world.store.markers("") == [Marker("a", b"2"), Marker("\u00e4\u0000", b"\x00\xff")]
        assert await world.store.last_serial() == 0

    @on_store()
    async def test_pages_are_in_order(self, world: World) -> None:
        keys = [f"p/{n:04}" for n in range(50)]
        await world.store.change_markers(
            {key: key.encode() for key in reversed(keys)} | {"p": b"", "p0": b"", "q": b""}
        )
        found: list[str] = []
        while page := await world.store.markers("p/", after=found[-1] if found else "", limit=7):
            assert len(page) <= 7
            assert all(marker.value == marker.key.encode() for marker in page)
            found += [marker.key for marker in page]
        assert found == keys
        assert [marker.key for marker in await world.store.markers("", after="p/0049")] == ["p0", "q"]
        assert [marker.key for marker in await world.store.markers("p/", after="a", limit=1)] == ["p/0000"]
        assert await world.store.markers("p/", after="p0") == []
        assert await world.store.markers("r") == []
        assert await world.store.markers("p", limit=0) == []
        assert [marker.key for marker in await world.store.markers("p", limit=2)] == ["p", "p/0000"]

    @on_store()
    async def test_as_many_as_a_page_has(self, world: World) -> None:
        await world.store.change_markers({f"{n:04}": b"" for n in range(MAX_MARKERS)})
        await world.store.change_markers({f"{MAX_MARKERS:04}": b""})
        assert len(await world.store.markers("", limit=10 * MAX_MARKERS)) == MAX_MARKERS
        with pytest.raises(ValueError, match="1001 markers are more than the 1000"):
            await world.store.change_markers({f"x{n}": b"" for n in range(MAX_MARKERS + 1)})
        assert await world.store.markers("x") == []

    @on_store()
    async def test_as_much_as_a_page_has(self, world: World) -> None:
        n_markers = MAX_MARKERS_BYTES // MAX_MARKER_BYTES
        value = bytes(MAX_MARKER_BYTES - 4)
        await world.store.change_markers({f"{n:04}": value for n in range(n_markers)})
        with pytest.raises(ValueError, match="markers of 4194305 bytes are more than the 4194304"):
            await world.store.change_markers({f"{n:04}": value + bytes(n == 0) for n in range(n_markers)})
        assert len(await world.store.markers("")) == n_markers
        await world.store.change_markers({"0000": value + b"1"})
        assert len(await world.store.markers("")) == n_markers - 1
        assert len(await world.store.markers("", after=f"{n_markers - 2:04}")) == 1

    @on_store()
    async def test_keys_and_values_at_their_bounds(self, world: World) -> None:
        longest = "\u00e4" * (MAX_MARKER_KEY_BYTES // 2)
        await world.store.change_markers({longest: bytes(MAX_MARKER_BYTES)})
        assert await world.store.marker(longest) == bytes(MAX_MARKER_BYTES)
        for key in ("", longest + "x"):
            with pytest.raises(ValueError, match="must have 1 to 400 bytes"):
                await world.store.change_markers({"fine": b"", key: b""})
        with pytest.raises(ValueError, match="the marker 'a' has 65537 bytes, the maximum is 65536"):
            await world.store.change_markers({"fine": b"", "a": bytes(MAX_MARKER_BYTES + 1)})
        assert await world.store.marker("fine") is None
        with pytest.raises(ValueError, match="prefix is longer"):
            await world.store.markers(longest + "x")
        with pytest.raises(ValueError, match="after is longer"):
            await world.store.markers("", after=longest + "x")

    @on_store()
    async def test_markers_and_events_leave_each_other_alone(self, world: World) -> None:
        event = fake_event()
        await world.store.change_markers({event.event.id: b"x"})
        await world.put(event)
        await world.store.change_markers({"other": b"y"})
        assert await world.store.delete([event.id]) == 1
        assert await world.store.marker(event.event.id) == b"x"
        assert await world.ids() == []
