"""Measure a model folder, plain or packed by bitsandbytes: `python -m ... ORDER RESULT`.

A process of its own, so that its peak of memory is its own. KLD and top-1 are taken where
llama-perplexity takes them: the text is cut into chunks, each begins with the model's first token
(BOS) where the tokenizer adds one, and the second half of each is scored. The model's own
probabilities, which a packed one is compared with, are kept as float16 log-probabilities.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

_WRITTEN = 32  # tokens written in the decode timing


def main() -> None:
    """Carry out one order."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = _carry_out(order)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


def _carry_out(order: dict[str, Any]) -> dict[str, Any]:
    import torch

    from slipway.export.hf import load_tokenizer
    from slipway.training.memory import peak_memory

    started = time.monotonic()
    model = _load(order)
    load_s = time.monotonic() - started
    tokenizer = load_tokenizer(Path(order["folder"]))
    with torch.inference_mode():
        found = _divergence(model, _chunks(tokenizer, order), Path(order["logits"]), order)
        if order["packing"] == "plain":
            return found
        found |= _speeds(model, order)
        found["answers"] = [_answer(model, tokenizer, talk, order) for talk in order["asked"]]
    weights = sum(t.numel() * t.element_size() for t in _tensors(model))
    numbers = model.num_parameters() if hasattr(model, "num_parameters") else 0
    found |= {"size_bytes": weights, "bpw": round(weights * 8 / max(1, numbers), 3)}
    peak = peak_memory(torch.device("cpu"))
    return {**found, "rss_bytes": peak, "load_s": round(load_s, 3)}


def _load(order: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from slipway.training.quantised import loading_config
    from slipway.training.spec import QuantSpec

    packing, quant = order["packing"], None
    if packing == "int8":
        quant = QuantSpec(bits=8)
    elif packing != "plain":
        quant = QuantSpec(bits=4, type=packing)
    more = {"quantization_config": loading_config(quant, torch.float32)} if quant else {}
    model = AutoModelForCausalLM.from_pretrained(
        order["folder"], local_files_only=True, dtype=torch.float32, **more
    )
    return model.eval()


def _tensors(model: Any) -> Any:
    """Each weight once, and what bitsandbytes keeps beside it."""
    seen = set()
    for parameter in model.parameters():
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        yield parameter
        state = getattr(parameter, "quant_state", None)
        for scales in (
            getattr(state, "absmax", None),
            getattr(getattr(state, "state2", None), "absmax", None),
            getattr(parameter, "SCB", None),
        ):
            if scales is not None:
                yield scales


def _chunks(tokenizer: Any, order: dict[str, Any]) -> list[list[int]]:
    ids = list(tokenizer(order["text"])["input_ids"])
    size = order["context"]
    chunks = [ids[at * size : (at + 1) * size] for at in range(order["chunks"])]
    chunks = [chunk for chunk in chunks if len(chunk) == size]
    first = tokenizer("")["input_ids"][:1]
    bos = first[0] if first and first[0] == tokenizer.bos_token_id else None
    return chunks if bos is None else [[bos, *chunk[1:]] for chunk in chunks]


def _divergence(
    model: Any, chunks: list[list[int]], logits: Path, order: dict[str, Any]
) -> dict[str, Any]:
    """Perplexity, and KLD against the kept log-probabilities; or those are written."""
    import numpy as np
    import torch

    half, plain = order["context"] // 2, order["packing"] == "plain"
    kept = None if plain else np.load(logits, mmap_mode="r")
    losses, klds, same, written = [], [], [], []
    for at, chunk in enumerate(chunks):
        ids = torch.tensor([chunk])
        own = model(ids).logits[0, half:-1].float().log_softmax(-1)
        losses += (-own.gather(1, ids[0, half + 1 :, None])[:, 0]).tolist()
        if kept is None:
            written.append(own.half().numpy())
            continue
        reference = torch.from_numpy(np.array(kept[at])).float().log_softmax(-1)
        klds += (reference.exp() * (reference - own)).sum(-1).tolist()
        same += (reference.argmax(-1) == own.argmax(-1)).float().tolist()
    found: dict[str, Any] = {"ppl": float(np.exp(np.mean(losses)))}
    if plain:
        np.save(logits, np.stack(written))
        return found
    root = len(klds) ** 0.5
    return found | {
        "kld_mean": float(np.mean(klds)),
        "kld_error": float(np.std(klds) / root),
        "kld_median": float(np.median(klds)),
        "kld_p99": float(np.quantile(klds, 0.99)),
        "kld_max": float(np.max(klds)),
        "top1": float(np.mean(same)),
        "top1_error": float(np.std(same) / root),
    }


def _speeds(model: Any, order: dict[str, Any]) -> dict[str, Any]:
    import torch

    def seconds(work: Any) -> float:
        work()
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    reading, writing = {}, {}
    for length in order["prompts"]:
        ids = torch.full((1, length), 10)
        reading[str(length)] = round(length / seconds(lambda ids=ids: model(ids)), 2)
    for depth in order["depths"]:
        ids = torch.full((1, max(1, depth)), 10)
        writing[str(depth)] = round(_WRITTEN / _write(model, ids), 2)
    return {"pp_tps": reading, "tg_tps": writing}


def _write(model: Any, ids: Any) -> float:
    """Seconds that 32 tokens after these take, one after the other."""
    import torch

    past = model(ids, use_cache=True).past_key_values
    token = torch.tensor([[10]])
    started = time.perf_counter()
    for _ in range(_WRITTEN):
        past = model(token, past_key_values=past, use_cache=True).past_key_values
    return time.perf_counter() - started


def _answer(model: Any, tokenizer: Any, talk: list[list[str]], order: dict[str, Any]) -> str:
    """The greedy answer, as the engine gives it."""
    messages = [{"role": role, "content": content} for role, content in talk]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    size = prompt["input_ids"].shape[1]
    made = model.generate(
        **prompt, do_sample=False, max_new_tokens=order["max_new_tokens"],
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
    )  # fmt: skip
    return str(tokenizer.decode(made[0, size:], skip_special_tokens=True)).strip()


if __name__ == "__main__":
    main()
