"""Go's templates: what Go itself makes of them, Ollama's rules, and bounds."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.store.gotemplate import TemplateError, parse
from slipway.store.gotemplate.evaluate import Evaluation
from slipway.store.gotemplate.parser import parse_tree
from slipway.store.gotemplate.template import _NAMES
from slipway.store.gotemplate.values import to_json

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["template"][:60])
def test_the_text_is_gos(case: dict[str, Any]) -> None:
    """`golden.json` was written by Go's own text/template, see `make_golden.go`."""
    if case["error"]:
        with pytest.raises(TemplateError):
            Evaluation(parse_tree(case["template"], _NAMES)).run(case["data"])
    else:
        assert Evaluation(parse_tree(case["template"], _NAMES)).run(case["data"]) == case["want"]


CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
OLD = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
INST = "[INST] {{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} [/INST]"
TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "more"},
]


def test_a_template_with_messages_gets_the_whole_conversation() -> None:
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert parse(CHATML).chat(TALK) == (
        f"{start}system\nS{end}{start}user\nhi{end}{start}assistant\nyo{end}"
        f"{start}user\nmore{end}{start}assistant\n"
    )


def test_an_older_template_is_carried_out_for_each_exchange_and_cut_after_the_response() -> None:
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert parse(OLD).chat(TALK) == (
        f"{start}system\nS{end}{start}user\nhi{end}{start}assistant\nyo{end}"
        f"{start}user\nmore{end}{start}assistant\n"
    )


def test_a_template_without_a_place_for_the_response_gets_one_at_its_end() -> None:
    assert parse(INST).chat(TALK) == "[INST] S hi [/INST]yo[INST] more [/INST]"


def test_a_condition_on_the_response_is_kept_and_what_follows_it_cut() -> None:
    text = "A{{ .Prompt }}B{{ if .Response }}{{ .Response }}C{{ end }}D"
    template = parse(text)
    assert template.chat([{"role": "user", "content": "x"}]) == "AxB"
    assert template.chat([*TALK[1:]]) == "AhiByoCDAmoreB"


def test_messages_of_one_role_are_put_together_but_results_of_tools_stay_apart() -> None:
    text = "{{ range .Messages }}<{{ .Role }}:{{ .Content }}>{{ end }}"
    talk = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    assert parse(text).chat(talk) == "<user:a\n\nb><tool:1><tool:2>"


TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find <it>",
        "parameters": {
            "properties": {"n": {"description": "N", "type": "string", "extra": 1}},
            "required": ["n"],
            "type": "object",
            "additionalProperties": False,
        },
    },
}
FUNCTION = (
    '{"name":"find","description":"Find \\u003cit\\u003e","parameters":{"type":"object",'
    '"required":["n"],"properties":{"n":{"type":"string","description":"N"}}}}'
)


def test_tools_print_as_json_in_ollamas_order_and_their_fields_can_be_read() -> None:
    def rendered(body: str) -> str:
        text = "{{ range .Messages }}{{ end }}" + body
        return parse(text).chat([{"role": "user", "content": "x"}], [TOOL])

    assert rendered("{{ .Tools }}") == f'[{{"type":"function","function":{FUNCTION}}}]'
    assert rendered("{{ range .Tools }}{{ .Function }}{{ end }}") == FUNCTION
    assert rendered("{{ json .Tools }}") == f'[{{"type":"function","function":{FUNCTION}}}]'
    names = (
        "{{ range .Tools }}{{ .Type }} {{ .Function.Name }} {{ .Function.Description }}{{ end }}"
    )
    assert rendered(names) == "function find Find <it>"
    each = (
        "{{ range .Tools }}{{ range $k, $p := .Function.Parameters.Properties }}"
        "{{ $k }}: {{ toTypeScriptType $p }} {{ $p.Description }}{{ end }}{{ end }}"
    )
    assert rendered(each) == "n: string N"


def test_calls_of_tools_and_thoughts_are_seen() -> None:
    text = (
        "{{ range .Messages }}{{ .Thinking }}{{ range .ToolCalls }}"
        '{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}'
        "{{ if eq .Role `tool` }}{{ .ToolName }}={{ .Content }}{{ end }}{{ end }}"
    )
    talk = [
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm ",
            "tool_calls": [{"function": {"name": "f", "arguments": '{"b": 1, "a": "<"}'}}],
        },
        {"role": "tool", "content": "42", "tool_name": "f"},
    ]
    expected = 'hm {"name": "f", "arguments": {"b":1,"a":"\\u003c"}}f=42'
    assert parse(text).chat(talk) == expected


def test_thinking_is_told_to_the_template() -> None:
    text = "{{ range .Messages }}{{ end }}{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}"
    template = parse(text)
    assert template.chat(TALK) == "false  false"
    assert template.chat(TALK, think=True) == "true  true"
    assert template.chat(TALK, think="high") == "true high true"


def test_a_suffix_is_filled_in() -> None:
    text = (
        "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}"
    )
    template = parse(text + "{{ .Response }}")
    assert template.capabilities == ["insert"]
    assert template.fill("a", "b") == "<PRE>a<SUF>b<MID>"


def test_dates_are_todays() -> None:
    assert date.today().isoformat() in parse("{{ currentDate }}{{ .Response }}").chat(TALK)


def test_json_is_that_of_encoding_json() -> None:
    assert to_json({"b": 1, "a": ["<", "é", None]}) == '{"a":["\\u003c","é",null],"b":1}'
    assert to_json([1.0, 1e6, 1.5, {"x": 2.0}]) == '[1,1000000,1.5,{"x":2}]'


def test_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match="line 3"):
        parse("a\nb\n{{ if .x }}")
    with pytest.raises(TemplateError, match="line 2: can't evaluate field Nope"):
        parse("{{ range .Messages }}\n{{ .Nope }}{{ end }}").chat(TALK)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 1000000000 }}x{{ end }}",
        "{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}",
        '{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}',
        '{{ $s := "xxxxxxxxxx" }}{{ range 60 }}{{ $s = print $s $s }}{{ end }}{{ $s }}',
        '{{ printf "%999999999d" 1 }}',
        "{{ if .a }}" * 5000,
        "{{ " + "(" * 5000,
        "{{ range 900000 }}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{ end }}",
    ],
)
def test_a_template_that_wants_too_much_is_stopped(text: str) -> None:
    with pytest.raises(TemplateError):
        Evaluation(parse_tree(text, _NAMES)).run({})


pieces = st.sampled_from(
    [
        "{{",
        "}}",
        "{{-",
        "-}}",
        ".",
        ".a",
        ".b",
        ".Messages",
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        "template",
        "block",
        "break",
        "eq",
        "len",
        "slice",
        "index",
        "printf",
        '"s"',
        "`r`",
        "1",
        "2.5",
        "nil",
        "true",
        ",",
        "text",
        "\n",
        "$",
        ".a.b",
        "and",
        "or",
        "not",
        "json",
    ]
)


@given(st.lists(pieces, max_size=25).map(" ".join))
@settings(max_examples=300)
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(TemplateError):
        parse(text).chat(TALK, [TOOL])


@given(st.text(max_size=60))
def test_no_random_text_does_either(text: str) -> None:
    with suppress(TemplateError):
        Evaluation(parse_tree("{{" + text + "}}", _NAMES)).run({"a": 1})
