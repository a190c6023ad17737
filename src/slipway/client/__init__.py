"""A typed client of the gateway and the daemon, for people and for the command line.

    client = GatewayClient("http://127.0.0.1:3000", key)
    stream = client.chat("kefu", [{"role": "user", "content": "hello"}])
    for text in stream:
        print(text, end="")
    print(stream.usage)

Loads httpx only when a client is made.
"""

from __future__ import annotations

from slipway.client.answer import Answer, Piece, Timings
from slipway.client.daemon import DaemonClient
from slipway.client.http import ChatStream, ChatUsage, GatewayClient, Message
from slipway.client.profile import Profile, load_profile, save_profile

__all__ = [
    "Answer",
    "ChatStream",
    "ChatUsage",
    "DaemonClient",
    "GatewayClient",
    "Message",
    "Piece",
    "Profile",
    "Timings",
    "load_profile",
    "save_profile",
]
