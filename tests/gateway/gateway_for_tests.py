from __future__ import annotations

from dataclasses import dataclass

import httpx

from slipway.gateway import Price, Store

MAX_BODY = 200_000
BUSY_MS = 400
PRICE = Price(input=1_000_000, output=2_000_000)  # one and two micro-units a token


@dataclass
class Gateway:
    """A running gateway with one user, `ada`, one key and one priced channel, `main`."""

    url: str
    key: str
    store: Store

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False)

    def post(self, body: object, key: str | None = None, **options: object) -> httpx.Response:
        with self.client(key) as client:
            return client.post("/v1/chat/completions", json=body, **options)  # type: ignore[arg-type]
