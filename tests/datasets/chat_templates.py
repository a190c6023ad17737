"""Chat templates in the wire formats of the model families, written for these tests.

The markers, their order and what is dropped are the families' own; the instructions around tools
are shortened. `family(name)` gives a small tokenizer that has the markers as control tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.datasets import load_tokenizer
from slipway.testing.tiny import CHATML, tiny_tokenizer

# Qwen2.5: a default system turn, tools in the system turn, results inside a user turn
QWEN25 = """\
{%- if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] %}
{%- else %}{% set first = 'You are a helpful assistant.' %}{% endif %}
{{- '<|im_start|>system\\n' + first }}
{%- if tools %}{{- '\\n\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}
{{- '\\n</tools>' }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first)
       or (message.role == 'assistant' and not message.tool_calls) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{% endif %}
{%- for call in message.tool_calls %}
{%- set f = call.function %}
{{- '\\n<tool_call>\\n{"name": "' }}{{- f.name }}{{- '", "arguments": ' }}
{{- f.arguments | tojson }}{{- '}\\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}
{{- '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

# Qwen3: no default system turn; thoughts after the last question stay, earlier ones are forgotten;
# the last answer always has one, perhaps empty; enable_thinking=false gives the empty one
QWEN3 = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
{{- '# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}
{%- set ns = namespace(last=messages|length - 1, search=true) %}
{%- for message in messages[::-1] %}
{%- if ns.search and message.role == 'user' and not (
      message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')
    ) %}
{%- set ns.search = false %}{% set ns.last = messages|length - 1 - loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{{- content.lstrip('\\n') }}
{%- else %}{{- '<|im_start|>assistant\\n' + content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or content %}{{- '\\n' }}{% endif %}
{%- set f = call.function %}
{{- '<tool_call>\\n{"name": "' }}{{- f.name }}{{- '", "arguments": ' }}
{%- if f.arguments is string %}{{- f.arguments }}{% else %}{{- f.arguments | tojson }}{% endif %}
{{- '}\\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""

# Qwen3-Thinking-2507: the prompt opens the thought itself
QWEN3_THINKING = QWEN3[: QWEN3.rindex("{%- if add_generation_prompt")] + (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)

# DeepSeek-V2: words as roles
DEEPSEEK2 = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- 'User: ' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- 'Assistant: ' + message['content'] + eos_token }}
{%- else %}{{- message['content'] + '\\n\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{% endif %}"""

# DeepSeek-V3: the arguments of a call are text
_DEEPSEEK3 = """\
{%- set ns = namespace(system='') %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% endif %}
{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- if tools %}{%- for tool in tools %}{{- '\\n' + tool.function.name + ': ' }}
{{- tool.function.parameters | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] }}
{%- elif message['role'] == 'assistant' and message['tool_calls'] is defined %}
{{- '<｜Assistant｜>' + message['content'] }}
{%- for call in message['tool_calls'] %}
{{- '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>' }}
{{- call['function']['arguments'] + '<｜tool▁call▁end｜>' }}{% endfor %}
{{- '<｜end▁of▁sentence｜>' }}
{%- elif message['role'] == 'assistant' %}
{%- set content = message['content'] %}
%STRIP%
{{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
{%- elif message['role'] == 'tool' %}
{{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜>%OPEN%' }}{% endif %}"""
_STRIP = (
    "{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
)
DEEPSEEK3 = _DEEPSEEK3.replace("%STRIP%\n", "").replace("%OPEN%", "")
# DeepSeek-R1: thoughts are dropped from every turn, and (since its revision) opened by the prompt
DEEPSEEK_R1 = _DEEPSEEK3.replace("%STRIP%", _STRIP).replace("%OPEN%", "<think>\\n")
DEEPSEEK_R1_FIRST = _DEEPSEEK3.replace("%STRIP%", _STRIP).replace("%OPEN%", "")

# Llama 3.x: header tokens, every text trimmed, one call for each turn
LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set first = messages[0]['content'] | trim %}{% set rest = messages[1:] %}
{%- else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n\\n' }}
{%- if tools %}{%- for tool in tools %}{{- tool | tojson }}{{- '\\n\\n' }}{% endfor %}{% endif %}
{{- first }}{{- '<|eot_id|>' }}
{%- for message in rest %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}
{{- raise_exception('one call at a time') }}{% endif %}
{%- set f = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + f.name + '", "parameters": ' }}
{{- f.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim }}{{- '<|eot_id|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

_DEEPSEEK_TOKENS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)
_LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
_QWEN_TOKENS = ("<|endoftext|>", "<|im_end|>")

# name -> template, control tokens (beginning and end of sequence first)
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (CHATML, _QWEN_TOKENS),
    "qwen": (QWEN25, _QWEN_TOKENS),
    "qwen3": (QWEN3, _QWEN_TOKENS),
    "qwen3_thinking": (QWEN3_THINKING, _QWEN_TOKENS),
    "deepseek": (DEEPSEEK2, _DEEPSEEK_TOKENS),
    "deepseek3": (DEEPSEEK3, _DEEPSEEK_TOKENS),
    "deepseekr1": (DEEPSEEK_R1, _DEEPSEEK_TOKENS),
    "deepseekr1_first": (DEEPSEEK_R1_FIRST, _DEEPSEEK_TOKENS),
    "llama3": (LLAMA3, _LLAMA_TOKENS),
}


def family(name: str, folder: Path) -> Any:
    """A tokenizer of this family: tiny vocabulary, the family's template and control tokens."""
    from tokenizers import AddedToken

    template, tokens = FAMILIES[name]
    tokenizer = load_tokenizer(tiny_tokenizer(folder))
    tokenizer.add_special_tokens(
        {
            "bos_token": tokens[0],
            "eos_token": tokens[1],
            "additional_special_tokens": [
                AddedToken(token, special=True, normalized=False) for token in tokens[2:]
            ],
        }
    )
    words = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer.chat_template = template
    return tokenizer
