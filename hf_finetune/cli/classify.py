"""What `predict` and `evaluate` share: a finished classifier, the rows, and the views of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.config.aliases import current
from hf_finetune.data.config import SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Operations, validated
from hf_finetune.utils.files import parse_yaml


@dataclass(frozen=True)
class ClassifyJob:
    """A finished classifier and the rows it is used on."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run or of a model, or a Hub id."""
    data: Annotated[SourceSplit, tyro.conf.arg(name="")]
    batch_size: int | None = None
    """Rows of one forward pass. None: as many as have 2048 tokens together, or 64 images."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Number format. auto: `evaluate` computes in float32; `predict` in bf16 where the hardware multiplies it natively,
    and rows whose label could flip in float32 again."""
    augment: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Test-time augmentation, with --views: operations as in data.augment, `[Flip]` or `[{type: SwapWords, p: 0.2}]`,
    see `hf-finetune train --help`. A row's probabilities are the mean over its views, and --precision auto is
    float32."""
    views: int | None = None
    """Views of every row: the unchanged row, and all others augmented by --augment."""
    seed: int = 0
    """Of the views: with the same one a row has the same views in every run."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    json: bool = False
    """Print the result alone, as JSON."""


def views_of(job: ClassifyJob) -> SeveralViews | None:
    """The views of each row that a job asks for; None: the row as it is alone.

    Raises:
        InputError: no such operation, a field out of range, or --augment without --views or the other way round.
    """
    if job.augment is None:
        if job.views is not None:
            raise InputError(f"--views {job.views}: expected --augment beside it, the operations that make the views")
        return None
    if job.views is None:
        raise InputError(f"--augment {job.augment}: expected --views N beside it, how often each row is seen")
    try:
        value = current(parse_yaml(job.augment), "augment")
    except ValueError as error:
        raise InputError(f"--augment: {error}") from None
    return SeveralViews(validated(value, Operations[Augmentation], "--augment"), job.views, job.seed)
