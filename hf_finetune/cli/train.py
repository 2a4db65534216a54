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
from hf_finetune.utils.plain import merge, to_plain
from hf_finetune.utils.sequences import SequenceKind


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

    A flag or the `--config` file may decide between texts and images; otherwise the data do. The data of the file are
    the default.

    Raises:
        InputError: see `parse_run`; or there are no such data.
    """
    current = current_flags(arguments)
    if (path := flag_value(current, "--data.path")) is not None:
        raise InputError(f"--data.path {path}: {prog} takes the data as DATA, without a flag")
    fields = read_config_file(current)
    images, is_certain = _reads_images(current, fields)
    data = fields.get("data")
    path = data.get("path") if isinstance(data, dict) else None
    source = path if isinstance(path, str) and path else tyro.MISSING
    blank = blank_recipe(
        images=images, sequence=_sequence(current, fields), own_model=not _names_model(current, fields)
    )
    job = parse_run(kind(blank, source=source), arguments, prog, fields)
    if not is_certain:
        job = _of_the_data(job)
    return dataclasses.replace(job, recipe=job.recipe.with_data(job.source))


def _of_the_data(job: Job) -> Job:
    """Return a job whose recipe is for the kind of its data, which flags and fields left open.

    Raises:
        InputError: there are no such data, or a field was set that only the other kind has.
    """
    from hf_finetune.data.sources import sniff_kind

    recipe = job.recipe
    kind = sniff_kind(dataclasses.replace(recipe.data, path=job.source).source)
    if kind == recipe.kind:
        return job
    before, after = (blank_recipe(images=images) for images in (kind == "text", kind == "image"))
    unset, known = to_plain(before.data), {field.name for field in dataclasses.fields(after.data)}
    changed = {name: value for name, value in to_plain(recipe.data).items() if value != unset[name]}
    if foreign := [name for name in changed if name not in known]:
        raise InputError(f"data.{foreign[0]}: {job.source} holds {kind}s, which have no such field; leave it out")
    is_default = recipe.model.checkpoint == before.model.checkpoint
    model = dataclasses.replace(recipe.model, checkpoint=after.model.checkpoint) if is_default else recipe.model
    data = merge(after.data, changed, "data")
    return dataclasses.replace(job, recipe=dataclasses.replace(recipe, data=data, model=model))


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
    if names & {"text", "text_pair", "sequence", "type: TextData"}:
        return False, True
    operations = {operation.__name__ for operation in typing.get_args(ImageOperation)}
    # An operation on images together with a field of texts: the operation is wrong.
    return bool(operations & set(re.findall(r"\w+", augment))) and not names & (text_fields - image_fields), False


def _sequence(arguments: Sequence[str], fields: dict[str, Any]) -> SequenceKind | None:
    """Return the alphabet that a flag or a field names; None where there is none, or no such alphabet."""
    data = fields.get("data")
    in_file = data.get("sequence") if isinstance(data, dict) else None
    named = flag_value(arguments, "--sequence") or flag_value(arguments, "--data.sequence") or in_file
    return next((kind for kind in typing.get_args(SequenceKind) if kind == named), None)


def _names_model(arguments: Sequence[str], fields: dict[str, Any]) -> bool:
    """Return whether a flag or a field names a checkpoint."""
    model = fields.get("model")
    flags = (flag_value(arguments, "--model"), flag_value(arguments, "--model.checkpoint"))
    return any(flags) or (isinstance(model, dict) and "checkpoint" in model)
