"""Servers and services that speak OpenAI's protocol, and where they do.

Each is a channel of kind `openai`. Addresses are those of the services' own documents; where one
ends in a version, that version stands in place of `/v1` (see `endpoint_url`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """A known server.

    Attributes:
        base_url: as a channel's; of local servers the port they take when none is given.
        local: it runs on one's own machines, so its models need no price.
    """

    name: str
    base_url: str
    local: bool = False


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("openai", "https://api.openai.com"),
        Preset("deepseek", "https://api.deepseek.com"),
        Preset("dashscope", "https://dashscope.aliyuncs.com/compatible-mode"),
        Preset("zhipu", "https://open.bigmodel.cn/api/paas/v4"),
        Preset("moonshot", "https://api.moonshot.cn"),
        Preset("volcengine", "https://ark.cn-beijing.volces.com/api/v3"),
        Preset("qianfan", "https://qianfan.baidubce.com/v2"),
        Preset("siliconflow", "https://api.siliconflow.cn"),
        Preset("openrouter", "https://openrouter.ai/api"),
        Preset("groq", "https://api.groq.com/openai"),
        Preset("mistral", "https://api.mistral.ai"),
        Preset("vllm", "http://127.0.0.1:8000", local=True),
        Preset("sglang", "http://127.0.0.1:30000", local=True),
        Preset("llama.cpp", "http://127.0.0.1:8080", local=True),
        Preset("lm-studio", "http://127.0.0.1:1234", local=True),
    )
}
