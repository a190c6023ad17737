"""Datasets: foreign rows -> samples -> tokens, checked and counted on the way.

Nothing here loads torch; transformers and tokenizers are loaded by the functions that need them.
"""

from slipway.datasets.check import CheckReport, SimilarPair, check_dataset
from slipway.datasets.encode import Encoded, EncodedSet, LongRow, encode_all, encode_sample
from slipway.datasets.load import dataset_digest, load_dataset
from slipway.datasets.model import Message, Role, RowProblem, Sample, Split
from slipway.datasets.packing import Pack, pack
from slipway.datasets.rows import split_files
from slipway.datasets.stats import DatasetStats, SplitStats, TokenStats, dataset_stats
from slipway.datasets.tokenizer import load_tokenizer

__all__ = [
    "CheckReport",
    "DatasetStats",
    "Encoded",
    "EncodedSet",
    "LongRow",
    "Message",
    "Pack",
    "Role",
    "RowProblem",
    "Sample",
    "SimilarPair",
    "Split",
    "SplitStats",
    "TokenStats",
    "check_dataset",
    "dataset_digest",
    "dataset_stats",
    "encode_all",
    "encode_sample",
    "load_dataset",
    "load_tokenizer",
    "pack",
    "split_files",
]
