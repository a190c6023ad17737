"""Which base model to start from: a hub's when one answers at once, else the starter."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import urllib.request
from contextlib import suppress

from slipway.core.hubs import Hub, endpoint
from slipway.core.i18n import Language
from slipway.core.web import AGENT
from slipway.store.pull.wheels import STARTER

HUB_BASE = "Qwen/Qwen2.5-0.5B-Instruct"
_PROBES: dict[Hub, str] = {
    "ms": f"/api/v1/models/{HUB_BASE}/repo/files?Revision=master",
    "hf": f"/api/models/{HUB_BASE}",
}
_MAX_ANSWER_BYTES = 4 << 20


def hub_order(language: Language) -> tuple[Hub, Hub]:
    """The hub to ask first: ModelScope for Chinese readers, else Hugging Face."""
    return ("ms", "hf") if language == "zh" else ("hf", "ms")


def hub_reachable(timeout_s: float = 3.0) -> bool:
    """Whether any hub answers; returns within `timeout_s` seconds whatever the network does."""
    return bool(_first_answer(("hf", "ms"), timeout_s, any_will_do=True))


def reachable_hubs(timeout_s: float = 3.0) -> frozenset[Hub]:
    """The hubs that answer within `timeout_s` seconds."""
    return _first_answer(("hf", "ms"), timeout_s, any_will_do=False)


def default_base(language: Language, timeout_s: float = 3.0) -> str:
    """The name to pull when the user names none.

    Args:
        language: decides which hub is preferred when both answer.

    Returns:
        `ms://Qwen/Qwen2.5-0.5B-Instruct` or `hf://...` when that hub answers, else `starter`.
    """
    answered = reachable_hubs(timeout_s)
    for hub in hub_order(language):
        if hub in answered:
            return f"{hub}://{HUB_BASE}"
    return STARTER


def _first_answer(hubs: tuple[Hub, ...], timeout_s: float, *, any_will_do: bool) -> frozenset[Hub]:
    """Ask all hubs at once, each in a thread of its own, and stop listening at the deadline.

    A name server that swallows packets blocks `getaddrinfo` beyond any socket timeout, so the
    threads are daemons and simply left behind.
    """
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return frozenset()
    answers: queue.SimpleQueue[tuple[Hub, bool]] = queue.SimpleQueue()
    deadline = time.monotonic() + timeout_s

    def ask(hub: Hub) -> None:
        answers.put((hub, _answers(hub, timeout_s)))

    for hub in hubs:
        threading.Thread(target=ask, args=(hub,), daemon=True, name=f"probe-{hub}").start()
    found: set[Hub] = set()
    for _ in hubs:
        with suppress(queue.Empty):
            hub, ok = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if ok:
                found.add(hub)
                if any_will_do:
                    break
    return frozenset(found)


def _answers(hub: Hub, timeout_s: float) -> bool:
    """Whether the hub answers as a hub does; a login page of a hotel does not."""
    request = urllib.request.Request(endpoint(hub) + _PROBES[hub], headers=AGENT)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            value = json.loads(answer.read(_MAX_ANSWER_BYTES))
    except Exception:  # any fault at all means: not reachable
        return False
    return isinstance(value, dict) and ("sha" in value or value.get("Code") == 200)
