"""A GGUF back into a Hugging Face folder: bf16 safetensors, tokenizer, chat template.

transformers reads the GGUF but refuses to save the model it got that way (its config says
"quantised"), so the weights are put into a fresh model made from the cleaned config. Training
needs real weights; what quantisation took away does not come back.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from slipway.core.errors import InputError, missing_extra
from slipway.core.i18n import tr


def write_model_folder(gguf: Path, folder: Path) -> None:
    """Write the model in `gguf` to `folder` as bf16.

    Raises:
        ResourceError: torch, transformers or gguf is not installed.
        InputError: the GGUF lacks weights that the architecture has.
    """
    try:
        import gguf as _  # noqa: F401  (transformers needs it and says so late and unclearly)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "train") from error
    with _quiet():
        where = str(gguf.parent)
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(
            where,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config._name_or_path = ""
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        missing, unexpected = model.load_state_dict(read.state_dict(), strict=False)
        model.tie_weights()
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
            name for name, _ in model.named_parameters()
        }
        if lost := [name for name in [*missing, *unexpected] if name not in tied]:
            raise InputError(
                "pull.weights_missing",
                tr(
                    "{file} does not fit its architecture: {names}",
                    file=gguf,
                    names=", ".join(lost),
                ),
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors are written for the owner alone


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or notes from transformers while we work; restored afterwards.

    The bar of the GGUF reader obeys no setting, so what is written to stderr is dropped, too.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
