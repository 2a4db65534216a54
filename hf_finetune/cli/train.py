"""`hf-finetune train`: a recipe from flags, for the user's own data."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.cli.arguments import RunJob, blank_recipe, flag_value, merged, with_operations, yaml_fields
from hf_finetune.cli.parsing import parse_flags
from hf_finetune.cli.run import importing, start
from hf_finetune.config.aliases import current_flags
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.data.config import Source
from hf_finetune.errors import InputError


@dataclass(frozen=True)
class TrainJob(RunJob):
    """Fine-tune a classifier on your own data."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ""
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""


Train = TypeVar("Train", bound=TrainJob)


def train(arguments: Sequence[str]) -> None:
    """fine-tune a classifier on your own data"""
    with importing():
        job = train_job(arguments, "hf-finetune train")
    start(job, ["hf-finetune", "train", *arguments])


def train_job(arguments: Sequence[str], prog: str) -> TrainJob:
    """Parse the arguments of `train`, see `job_on_data`."""
    return job_on_data(arguments, prog, TrainJob)


def job_on_data(arguments: Sequence[str], prog: str, kind: type[Train]) -> Train:
    """Parse the arguments of `train`, or of a job that takes them too; whether the data are texts or images is read
    from them, unless a flag or `--config` says it.

    Raises:
        InputError: see `parse`; or there are no such data.
    """
    arguments = current_flags(arguments)
    if (path := flag_value(arguments, "--data.path")) is not None:
        raise InputError(f"--data.path {path}: {prog} takes the data as DATA, without a flag")
    fields = yaml_fields(arguments)
    named, guessed = _kinds(arguments, fields)

    def parsed(*, images: bool) -> Train:
        recipe, rest = with_operations(merged(blank_recipe(images=images), fields, arguments), arguments)
        return parse_flags(kind, kind(recipe, source=tyro.MISSING), rest, prog)

    job = parsed(images=(named or guessed) is ImageData)
    if named is None:
        from hf_finetune.data.sources import sniff_kind

        data = job.recipe.data
        data_kind = sniff_kind(Source(job.source, data.config_name, data.revision))
        if data_kind != data.kind:
            job = parsed(images=data_kind == "image")  # what is for the other kind is refused by name
    recipe = job.recipe
    stem = re.sub(
        r"\.(csv|tsv|jsonl?|parquet)$",
        "",
        Path(job.source).absolute().name if Path(job.source).exists() else job.source.rpartition("/")[2],
    )
    recipe = dataclasses.replace(
        recipe,
        name=recipe.name or f"{stem}-{recipe.effective_method}",
        data=dataclasses.replace(recipe.data, path=job.source),
    )
    return dataclasses.replace(job, recipe=recipe)


def _kinds(arguments: Sequence[str], fields: dict[str, Any]) -> tuple[type | None, type | None]:
    """The kind of data that a flag or the YAML file names by a column or field that only one kind has; and the kind
    that the operations are for, from which the data may differ. None: neither."""
    names = {a.split("=")[0].removeprefix("--").removeprefix("data.") for a in arguments if a.startswith("--")}
    data, augment = fields.get("data"), flag_value(arguments, "--data.augment") or ""
    if isinstance(data, dict):
        names |= {str(name) for name in data} | {f"type: {data.get('type')}"}
        augment += str(data.get("augment", ""))
    names = {name.replace("-", "_").removeprefix("no_") for name in names}
    fields_of = {kind: {f.name for f in dataclasses.fields(kind)} for kind in (TextData, ImageData)}
    of_images, of_texts = fields_of[ImageData] - fields_of[TextData], fields_of[TextData] - fields_of[ImageData]
    words = set(re.findall(r"\w+", augment))
    if names & (of_images | {"type: ImageData"}):
        return ImageData, None
    if names & {"text", "text_pair", "type: TextData"}:
        return TextData, None
    if words & {o.__name__ for o in typing.get_args(ImageOperation)}:
        # Beside a field of texts it is the operation that is wrong, and is refused by name.
        return None, TextData if names & of_texts else ImageData
    return None, TextData if words & {o.__name__ for o in typing.get_args(TextOperation)} else None
