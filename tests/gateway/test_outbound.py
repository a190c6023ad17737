from __future__ import annotations

import socket

import pytest
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from slipway.gateway.outbound import GuardedResolver, Reach, may_reach


@pytest.mark.parametrize(
    ("address", "public", "loopback", "private"),
    [
        ("8.8.8.8", True, True, True),
        ("2606:4700::1111", True, True, True),
        ("127.0.0.1", False, True, True),
        ("127.9.9.9", False, True, True),
        ("::1", False, True, True),
        ("::ffff:127.0.0.1", False, True, True),
        ("10.1.2.3", False, False, True),
        ("172.16.0.1", False, False, True),
        ("fd00::1", False, False, True),
        ("::ffff:10.0.0.1", False, False, True),
        ("169.254.169.254", False, False, False),
        ("::ffff:169.254.169.254", False, False, False),
        ("fe80::1%eth0", False, False, False),
        ("0.0.0.0", False, False, False),
        ("::", False, False, False),
        ("224.0.0.1", False, False, False),
    ],
)
def test_reach(address: str, public: bool, loopback: bool, private: bool) -> None:
    reaches: tuple[Reach, ...] = ("public", "loopback", "private")
    assert tuple(may_reach(address, reach) for reach in reaches) == (public, loopback, private)


async def test_a_name_that_resolves_inside_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(
        self: object, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        rows = {"mixed": ["10.0.0.1", "8.8.8.8"], "inside": ["169.254.169.254"]}[host]
        return [
            ResolveResult(hostname=host, host=ip, port=port, family=2, proto=0, flags=0)
            for ip in rows
        ]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    resolver = GuardedResolver("public")
    assert [entry["host"] for entry in await resolver.resolve("mixed", 80)] == ["8.8.8.8"]
    with pytest.raises(OSError, match="reach"):
        await resolver.resolve("inside", 80)
    await resolver.close()
