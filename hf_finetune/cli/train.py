"""`hf-finetune train`: a recipe from flags, for the user's own data."""

import dataclasses
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import tyro

from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.cli.overrides import flag_value, parse_run, read_config_file
from hf_finetune.cli.run import importing, start
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.aliases import current_flags
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.config.recipe import blank_recipe
from hf_finetune.errors import InputError


@dataclass(frozen=True)
class TrainJob(RunJob):
    """Fine-tune a classifier on your own data."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ""
    """Hub id, csv/tsv/json/jsonl/xlsx/parquet file, or folder."""


Job = TypeVar("Job", bound=TrainJob)


def train(arguments: Sequence[str]) -> None:
    with importing():
        job = parse_train(TrainJob, arguments, "hf-finetune train")
    start(job, ["hf-finetune", "train", *arguments])


def parse_train(kind: type[Job], arguments: Sequence[str], prog: str) -> Job:
    """Parse the arguments of `train`, or of a job with further flags.

    A flag or the `--config` file may decide between texts and images; otherwise the data do.

    Raises:
        InputError: see `parse_run`; or there are no such data.
    """
    arguments = current_flags(arguments)
    if (path := flag_value(arguments, "--data.path")) is not None:
        raise InputError(f"--data.path {path}: {prog} takes the data as DATA, without a flag")
    fields = read_config_file(arguments)

    def parse(images: bool) -> Job:
        return parse_run(kind(blank_recipe(images=images), source=tyro.MISSING), arguments, prog, fields)

    images, is_certain = _reads_images(arguments, fields)
    job = parse(images)
    if not is_certain:
        from hf_finetune.data.sources import sniff_kind

        data = dataclasses.replace(job.recipe.data, path=job.source)
        kind_of_data = sniff_kind(data.source)
        if kind_of_data != data.kind:
            job = parse(images=kind_of_data == "image")  # refuses operations of the other kind by name
    return dataclasses.replace(job, recipe=job.recipe.with_data(job.source))


def _reads_images(arguments: Sequence[str], fields: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether flags or fields speak of images, and whether that is certain.

    A column or field that only one kind of data has decides. Operations are a guess: the data may refute it.
    """
    names = {a.split("=")[0].removeprefix("--").removeprefix("data.") for a in arguments if a.startswith("--")}
    data, augment = (
        fields.get("data"),
        flag_value(arguments, "--data.augment") or flag_value(arguments, "--augment") or "",
    )
    if isinstance(data, dict):
        names |= {str(name) for name in data} | {f"type: {data.get('type')}"}
        augment += str(data.get("augment", ""))
    names = {name.replace("-", "_").removeprefix("no_") for name in names}
    text_fields, image_fields = ({f.name for f in dataclasses.fields(kind)} for kind in (TextData, ImageData))
    if names & (image_fields - text_fields | {"type: ImageData"}):
        return True, True
    if names & {"text", "text_pair", "type: TextData"}:
        return False, True
    operations = {operation.__name__ for operation in typing.get_args(ImageOperation)}
    # An operation on images together with a field of texts: the operation is wrong.
    return bool(operations & set(re.findall(r"\w+", augment))) and not names & (text_fields - image_fields), False
