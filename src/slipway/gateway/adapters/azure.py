"""Azure OpenAI: OpenAI's bodies below a deployment's path, with a key of another name.

Source: "Azure OpenAI in Microsoft Foundry Models REST API reference" (learn.microsoft.com). The
model's name at the upstream is the deployment's.
"""

from __future__ import annotations

from urllib.parse import quote

from slipway.gateway.adapters.base import ChannelOptions, Face
from slipway.gateway.adapters.openai import OpenAIAdapter, endpoint_url
from slipway.gateway.routing import Target

# the newest dated version that is generally available
API_VERSION = "2024-10-21"


class AzureAdapter(OpenAIAdapter):
    """Deployments with an `api-version`; or Azure's own `/openai/v1`, which needs neither."""

    def url(self, target: Target, endpoint: Face, options: ChannelOptions) -> str:
        """Where a deployment answers an endpoint."""
        base = target.channel.base_url
        if base.endswith("/openai"):
            return endpoint_url(base, endpoint)
        deployment = quote(target.upstream_model, safe="")
        version = quote(options.api_version or API_VERSION, safe="")
        path = endpoint.removeprefix("/v1")
        return f"{base}/openai/deployments/{deployment}{path}?api-version={version}"

    def limit_name(self, target: Target) -> str:
        """OpenAI's newer models refuse `max_tokens`."""
        return "max_completion_tokens"

    def auth(self, key: str | None) -> dict[str, str]:
        """The header with the channel's key."""
        return {"api-key": key} if key else {}
