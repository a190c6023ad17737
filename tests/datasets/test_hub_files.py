"""Which files of a repository are the rows of a split."""

from __future__ import annotations

from contextlib import suppress

import pytest

from slipway.core.errors import InputError, NotFoundError, SlipwayError
from slipway.datasets.hub_files import Choice, choose_files, head_of


def chosen(paths: list[str], readme: str = "", **choice: str) -> list[str]:
    return list(choose_files(paths, head_of(readme), Choice(**choice), "hub/org/set"))


NOISE = [
    ".gitattributes",
    "README.md",
    "dataset_infos.json",
    "LICENSE",
    "pic.png",
    ".hidden/a.json",
]


def test_without_names_that_tell_every_file_is_train() -> None:
    paths = [*NOISE, "b.json", "deep/a.json"]
    assert chosen(paths) == ["b.json", "deep/a.json"]
    with pytest.raises(NotFoundError, match="no split `test`") as caught:
        chosen(paths, split="test")
    assert caught.value.hint_en == "it has: train"


@pytest.mark.parametrize(
    ("paths", "split", "wanted"),
    [
        (["train.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["my_train_file.csv", "my-dev-file.csv"], "validation", ["my-dev-file.csv"]),
        (
            ["train/0.json", "train/1.json", "eval/0.json"],
            "train",
            ["train/0.json", "train/1.json"],
        ),
        (["a/testing/x.json", "a/training/x.json"], "test", ["a/testing/x.json"]),
        (["constraints.json"], "train", ["constraints.json"]),  # `train` inside of a word
    ],
)
def test_words_in_names_tell_the_split(paths: list[str], split: str, wanted: list[str]) -> None:
    assert chosen([*NOISE, *paths], split=split) == wanted


def test_numbered_parts_in_data_go_before_other_names() -> None:
    paths = [
        "data/train_sft-00001-of-00002-ab.parquet",
        "data/train_sft-00000-of-00002-cd.parquet",
        "data/test_sft-00000-of-00001.parquet",
        "train.json",
    ]
    assert chosen(paths, split="train_sft") == [
        "data/train_sft-00000-of-00002-cd.parquet",
        "data/train_sft-00001-of-00002-ab.parquet",
    ]


CONFIGS = """\
---
license: mit
configs:
- config_name: en
  data_files:
  - split: train
    path: en/*.json
  - split: test
    path: [en/held/one.json, "en/**/two.json"]
- config_name: zh
  data_files: "zh-[0-9].jsonl"
- config_name: by_split
  data_files: {train: "zh-?.jsonl", validation: en/a.json}
- config_name: inside
  data_dir: en/held
---
# A set
"""
HELD = ["en/held/one.json", "en/held/two.json"]
PATHS = ["en/a.json", "en/b.json", *HELD, "zh-1.jsonl", "zh-x.jsonl"]


@pytest.mark.parametrize(
    ("subset", "split", "wanted"),
    [
        ("en", "train", ["en/a.json", "en/b.json"]),
        ("en", "test", HELD),
        ("zh", "train", ["zh-1.jsonl"]),
        ("by_split", "train", ["zh-1.jsonl", "zh-x.jsonl"]),
        ("by_split", "validation", ["en/a.json"]),
        ("inside", "train", HELD),
    ],
)
def test_the_head_of_the_readme_decides(subset: str, split: str, wanted: list[str]) -> None:
    assert chosen(PATHS, CONFIGS, subset=subset, split=split) == wanted


def test_several_subsets_and_none_named_is_an_error_unless_one_is_the_default() -> None:
    with pytest.raises(InputError, match="several subsets") as caught:
        chosen(PATHS, CONFIGS)
    assert "en, zh, by_split, inside" in caught.value.hint_en
    marked = CONFIGS.replace("config_name: zh\n", "config_name: zh\n  default: true\n")
    assert chosen(PATHS, marked) == ["zh-1.jsonl"]
    named = CONFIGS.replace("config_name: zh\n", "config_name: default\n")
    assert chosen(PATHS, named) == ["zh-1.jsonl"]


def test_an_unknown_subset_is_told_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match="no subset `fr`") as caught:
        chosen(PATHS, CONFIGS, subset="fr")
    assert "en, zh" in caught.value.hint_en
    with pytest.raises(NotFoundError, match="no subset `fr`"):
        chosen(["a.json"], subset="fr")
    assert chosen(["a.json"], subset="default") == ["a.json"]


def test_a_folder_goes_before_the_readme() -> None:
    assert chosen(PATHS, CONFIGS, folder="en/held/") == HELD
    with pytest.raises(NotFoundError):
        chosen(PATHS, folder="none")


def test_of_two_types_the_commoner_is_read_and_json_and_jsonl_are_one() -> None:
    assert chosen(["a.csv", "b.parquet", "c.parquet"]) == ["b.parquet", "c.parquet"]
    assert chosen(["a.json", "b.jsonl", "c.csv"]) == ["a.json", "b.jsonl"]


def test_a_repository_with_a_program_only_says_so() -> None:
    with pytest.raises(InputError, match="no file of rows") as caught:
        chosen(["set.py", "README.md"])
    assert "refs/convert/parquet" in caught.value.hint_en
    converted = ["default/train/0000.parquet", "default/test/0000.parquet"]
    assert chosen(converted, folder="default") == converted[:1]


@pytest.mark.parametrize(
    "readme",
    ["", "# no head", "---\nbroken: [\n---\n", "---\n- a list\n---\n", "text\n---\na: 1\n---\n"],
)
def test_a_readme_without_a_head_says_nothing(readme: str) -> None:
    assert head_of(readme) == {}


@pytest.mark.parametrize("configs", ["3", "[1, 2]", "[{config_name: a, data_files: {train: 3}}]"])
def test_a_strange_head_means_nothing_or_is_an_error_of_ours(configs: str) -> None:
    with suppress(SlipwayError):
        assert chosen(["a.json"], f"---\nconfigs: {configs}\n---\n") == ["a.json"]
