"""Models whose TEMPLATE is in Go's language, through every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon

from slipway.api.templated import taken_apart
from slipway.store import create_model
from slipway.testing.gguf import write_gguf

TEMPLATE = """{{- range .Messages }}<{{ .Role }}> {{ .Content }}
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}{{ end }}
{{- if .Tools }}tools {{ len .Tools }} {{ end }}
{{- if .Think }}<think> {{ end }}
{{- if .Suffix }}PRE {{ .Prompt }} SUF {{ .Suffix }} MID {{ end }}<assistant>"""
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@pytest.fixture
def go(daemon: RunningDaemon, tmp_path: Path) -> str:
    gguf = write_gguf(tmp_path / "go.gguf")
    text = f'FROM {gguf}\nSYSTEM Be brief.\nTEMPLATE """{TEMPLATE}"""'
    return create_model("go:q4", text, home=daemon.home).name.display


def talk(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "go:q4", "messages": [{"role": "user", "content": text}], **more}


def test_every_door_renders_with_it(http: httpx.Client, go: str) -> None:
    rendered = "<system> Be brief.\n<user> hi\n<assistant>"
    chat = http.post("/api/chat", json=talk("hi", stream=False)).json()
    assert chat["message"]["content"] == "echo: " + " ".join(rendered.split())
    shown = http.post("/api/chat", json=talk("hi", _debug_render_only=True)).json()
    assert shown["_debug_info"]["rendered_template"] == rendered
    prompt = {"model": go, "prompt": "hi", "stream": False}
    assert "<user> hi <assistant>" in http.post("/api/generate", json=prompt).json()["response"]
    answer = http.post("/v1/chat/completions", json=talk("hi")).json()
    assert "<user> hi <assistant>" in answer["choices"][0]["message"]["content"]
    stream = http.post("/v1/chat/completions", json=talk("hi", stream=True)).text
    assert "<user>" in stream and stream.endswith("data: [DONE]\n\n")


def test_thinking_tools_and_suffix_are_the_templates_to_know(http: httpx.Client, go: str) -> None:
    shown = http.post("/api/show", json={"model": go}).json()
    assert shown["capabilities"] == ["completion", "tools", "insert", "thinking"]
    body = talk("hi", think=True, tools=TOOLS, _debug_render_only=True)
    text = http.post("/api/chat", json=body).json()["_debug_info"]["rendered_template"]
    assert text.endswith("tools 1 <think> <assistant>")
    filled = {"model": go, "prompt": "a", "suffix": "b", "stream": False}
    answer = http.post("/api/generate", json=filled).json()["response"]
    assert answer == "echo: PRE a SUF b MID <assistant>"


def test_a_format_becomes_a_grammar(http: httpx.Client, go: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = {"model": go, "prompt": "/dump", "raw": True, "format": schema, "stream": False}
    assert json.loads(http.post("/api/generate", json=body).json()["response"])["json_schema"]


def test_an_answer_that_is_a_call_is_told_as_one(start_daemon: StartDaemon, go: str) -> None:
    daemon = start_daemon()
    create_model(
        "calls",
        f'FROM {go}\nSYSTEM ""\nTEMPLATE """/call {{{{ range .Messages }}}}'
        '{{ .Content }}{{ end }}{{ if .Tools }}{{ end }}"""',
        home=daemon.home,
    )
    call = '<tool_call> {"name": "find", "arguments": {"n": 1}} </tool_call>'
    body = {"model": "calls", "messages": [{"role": "user", "content": call}], "tools": TOOLS}
    with daemon.client() as http:
        got = http.post("/api/chat", json={**body, "stream": False}).json()["message"]
        assert got["tool_calls"][0]["function"] == {
            "index": 0,
            "name": "find",
            "arguments": {"n": 1},
        }
        choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"n":1}'


@pytest.mark.parametrize(
    ("text", "calls", "rest"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', ["f"], ""),
        ('{"name": "f", "parameters": {}}', ["f"], ""),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', ["f"], ""),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', ["f", "g"], ""),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {}}]', ["f"], ""),
        ('{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}', ["f", "g"], ""),
        ('Sure. <tool_call>{"name": "f", "arguments": {}}</tool_call>', ["f"], "Sure."),
        ('{"name": "f"}', [], '{"name": "f"}'),
        ('{"answer": 42}', [], '{"answer": 42}'),
        ("no call {", [], "no call {"),
        ('[{"name": "f", "arguments": {}}, 3]', [], '[{"name": "f", "arguments": {}}, 3]'),
    ],
)
def test_calls_are_found_in_the_forms_that_models_write(
    text: str, calls: list[str], rest: str
) -> None:
    said = taken_apart(text)
    assert [call["function"]["name"] for call in said.tool_calls] == calls
    assert said.text == rest
    thought = taken_apart(f"<think>hm</think>{text}")
    assert (thought.thinking, thought.text) == ("hm", rest)
