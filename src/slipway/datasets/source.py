"""Where samples come from, as a recipe says it: a file, a folder, or a name in a registry."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DataSource(BaseModel):
    """One dataset of a mixture.

    Without `info`, `path` is a folder or file. With `info`, `path` is a name in
    `<info>/dataset_info.json` (LLaMA Factory's registry; see `datasets.registry`), or on a hub
    where `info` is `ONLINE` or `REMOTE:owner/name`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="dataset folder or file, or a name in `info`")
    info: str | None = Field(
        default=None,
        description="folder of the dataset_info.json that `path` is a name in; ONLINE: `path` is "
        "a dataset on a hub",
    )
    weight: float = Field(
        default=1.0, gt=0, description="share of the mixture, relative to the other datasets"
    )
    max_samples: int | None = Field(
        default=None, ge=1, description="the first so many samples; default: all"
    )

    @property
    def arguments(self) -> str:
        """What `slipway data check` is to be given for it."""
        return self.path if self.info is None else f"{self.path} --dataset-dir {self.info}"
