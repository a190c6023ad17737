"""Datasets: foreign rows -> samples -> tokens, checked and counted on the way.

Nothing here loads torch; transformers and tokenizers are loaded by the functions that need them.
"""

from slipway.datasets.check import CheckOptions, check_dataset
from slipway.datasets.check_report import CheckReport, SimilarPair, SplitReport
from slipway.datasets.encode import (
    Encoded,
    EncodedSet,
    LongRow,
    encode_all,
    encode_documents,
    encode_sample,
)
from slipway.datasets.load import dataset_digest, load_dataset
from slipway.datasets.model import Message, Role, RowProblem, Sample, Split
from slipway.datasets.open import SampleStream, open_samples
from slipway.datasets.packing import Pack, pack, pack_groups
from slipway.datasets.rows import split_files, split_parts
from slipway.datasets.rule import EncodeRule, Thinking
from slipway.datasets.source import DataSource
from slipway.datasets.stats import DatasetStats, SplitStats, dataset_stats
from slipway.datasets.stream import encode_stream
from slipway.datasets.templates import (
    TemplateFinding,
    check_template,
    find_template,
    save_template,
)
from slipway.datasets.token_cache import CachedTokens, list_cached, remove_cached
from slipway.datasets.token_tally import TokenStats
from slipway.datasets.tokenizer import load_tokenizer
from slipway.datasets.tokens import NamedRows, TokenSet, lengths_of

__all__ = [
    "CachedTokens",
    "CheckOptions",
    "CheckReport",
    "DataSource",
    "DatasetStats",
    "EncodeRule",
    "Encoded",
    "EncodedSet",
    "LongRow",
    "Message",
    "NamedRows",
    "Pack",
    "Role",
    "RowProblem",
    "Sample",
    "SampleStream",
    "SimilarPair",
    "Split",
    "SplitReport",
    "SplitStats",
    "TemplateFinding",
    "Thinking",
    "TokenSet",
    "TokenStats",
    "check_dataset",
    "check_template",
    "dataset_digest",
    "dataset_stats",
    "encode_all",
    "encode_documents",
    "encode_sample",
    "encode_stream",
    "find_template",
    "lengths_of",
    "list_cached",
    "load_dataset",
    "load_tokenizer",
    "open_samples",
    "pack",
    "pack_groups",
    "remove_cached",
    "save_template",
    "split_files",
    "split_parts",
]
