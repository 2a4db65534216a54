"""`hf-finetune doctor`: what is wrong with a data set, and how augmentation would show its rows."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
import tempfile
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hf_finetune.augmentation.compose import depends_on_progress, generative_operations
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.cli import shipped
from hf_finetune.cli.arguments import blank_recipe, load_recipe
from hf_finetune.cli.parsing import parse
from hf_finetune.config.aliases import current
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.rules import check
from hf_finetune.data.config import Kind, Source, SplitOptions
from hf_finetune.errors import InputError
from hf_finetune.utils.files import parse_yaml, write_bytes
from hf_finetune.utils.plain import merge, short_repr

if TYPE_CHECKING:
    from hf_finetune.doctor.preview import ImagePreview, TextPreview

SHEET = "augmentation.png"
MIXING = {operation.__name__ for operation in typing.get_args(Mixing)}
NOTHING_TO_SEE = "objective.mix: there is nothing to look at, of texts it mixes the word embeddings"
# Fields of a recipe's data that say where they are; the others say what is done with them.
WHERE = ("config_name", "revision", "validation", "test", "text", "text_pair", "image", "label", "encoding")


@dataclass(frozen=True)
class DoctorJob:
    """Look for what is wrong with a data set before it is trained on, or at what augmentation does to it."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    validation: str | None = None
    """Validation rows: the name of a split of the data, or a file of its own."""
    test: str | None = None
    """Test rows: the name of a split of the data, or a file of its own."""
    text: str | None = None
    """Column of the text. Default: the obvious one."""
    text_pair: str | None = None
    """Column of the second text."""
    image: str | None = None
    """Column of the image. Default: the obvious one."""
    label: str | None = None
    """Column of the class. Default: the obvious one."""
    encoding: Annotated[str | None, tyro.conf.arg(aliases=("--data.encoding",))] = None
    """Encoding of text files. None: utf-8."""
    model: str | None = None
    """Checkpoint whose tokens are counted; with --show-augmentation, in place of the recipe's."""
    max_length: int = 128
    """Tokens that training would read of a text; without --model, words are counted."""
    show_augmentation: Annotated[str | None, tyro.conf.arg(metavar="RECIPE|YAML")] = None
    """In place of the findings: some rows and their views in the first epochs, exactly those that training with this
    seed sees. A recipe by name or path, a YAML file of recipe fields or of operations, or these inline: `[Flip, {type:
    Rotate, degrees: 20}]`, `[CutMix]`. Texts stand side by side. Images go to a contact sheet, see --output; mixing
    operations mix them with one another."""
    views: int = 3
    """With --show-augmentation: views of each row."""
    rows: int = 6
    """With --show-augmentation: rows, of every class in turn."""
    seed: int | None = None
    """With --show-augmentation: seed of the training. None: the recipe's, else 0."""
    output: Annotated[str, tyro.conf.arg(metavar="DIR")] = "."
    """Folder that the contact sheet, augmentation.png, is written to."""
    json: bool = False
    """Print the result alone, as JSON: with all rows of every finding."""


def doctor(arguments: Sequence[str]) -> None:
    """what is wrong with a data set; what augmentation does to it"""
    job = parse(DoctorJob, None, arguments, "hf-finetune doctor")
    for name in ("views", "rows", "max_length"):
        if getattr(job, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(job, name)}: expected at least 1")
    if job.seed is not None and job.seed < 0:
        raise InputError(f"--seed {job.seed}: expected at least 0")
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    if job.show_augmentation is not None:
        _show_augmentation(job, job.show_augmentation)
        return
    from hf_finetune.doctor.examination import examine

    source = Source(
        job.source,
        job.config_name,
        job.revision,
        text=job.text,
        text_pair=job.text_pair,
        image=job.image,
        label=job.label,
        encoding=job.encoding or "utf-8",
    )
    options = SplitOptions(validation=job.validation, test=job.test)
    report = examine(source, _kind(job), options, checkpoint=job.model, max_length=job.max_length)
    print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if job.json else report.describe())


def _kind(job: DoctorJob) -> Kind:
    if job.image is not None:
        return "image"
    if job.text is not None or job.text_pair is not None:
        return "text"
    from hf_finetune.data.sources import sniff_kind

    return sniff_kind(Source(job.source, job.config_name, job.revision))


# Preview


def _show_augmentation(job: DoctorJob, requested: str) -> None:
    """Print texts, or write images, as the requested augmentation shows them."""
    recipe = augmented_recipe(job, requested, _kind(job))
    check(recipe)
    mix, reads_images = recipe.objective.mix, recipe.kind == "image"
    if mix and reads_images and job.rows < 2:
        raise InputError(f"--rows {job.rows}: expected at least 2, as rows are mixed with one another")
    sheet = Path(job.output) / SHEET
    if Path(job.output).exists() and not Path(job.output).is_dir():
        raise InputError(f"--output {job.output}: this is a file, expected a folder for {SHEET}")
    if reads_images:
        _check_writable(job.output)
    from hf_finetune.doctor.contact_sheet import draw_contact_sheet
    from hf_finetune.doctor.preview import ImagePreview
    from hf_finetune.doctor.side_by_side import text_table

    preview = _load_preview(recipe, job)
    augmentation = _described(recipe)
    if preview is None:
        _print(job, {**augmentation, "rows": []}, NOTHING_TO_SEE)
    elif isinstance(preview, ImagePreview):
        write_bytes(sheet, draw_contact_sheet(preview))
        mixed = ", mixed with one another" if mix else ""
        line = f"{len(preview.rows)} images, {len(preview.views)} views of each{mixed} -> {sheet}"
        _print(job, {**augmentation, **preview.to_dict(), "sheet": str(sheet)}, line)
    else:
        table = text_table(preview, width=shutil.get_terminal_size((120, 24)).columns)
        _print(job, {**augmentation, **preview.to_dict()}, table, *([NOTHING_TO_SEE] if mix else []))


def _load_preview(recipe: Recipe, job: DoctorJob) -> TextPreview | ImagePreview | None:
    """The first rows of every class and their views, as in training; None: only mixing is requested, of texts."""
    from hf_finetune.augmentation.generative.paraphraser import check_checkpoints
    from hf_finetune.data.image_processing import check_augmentable
    from hf_finetune.doctor.preview import first_views, preview_rows, rows_of_every_class
    from hf_finetune.models.safety import inspect_checkpoint
    from hf_finetune.pipeline.augment import augmenter_of
    from hf_finetune.pipeline.load_data import image_inputs, load_splits
    from hf_finetune.training.classifier import quiet_libraries
    from hf_finetune.training.precision import default_device

    data, model, cache_gb = recipe.data, recipe.model, recipe.batching.cache_gb
    quiet_libraries()
    check_checkpoints(data.augment)
    inputs = None
    if data.kind == "image":
        checkpoint = inspect_checkpoint(
            model.checkpoint, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
        inputs = image_inputs(model, checkpoint, decode_once=data.decode_once, cache_gb=cache_gb)
    splits = load_splits(data)
    if inputs is not None:
        flag = "data.augment" if data.augment else "--show-augmentation"
        check_augmentable(inputs.processor, splits.train["image"], flag)
    elif not data.augment:
        return None
    return preview_rows(
        splits.train,
        splits.labels,
        rows_of_every_class(splits.train.with_format("numpy")["label"][:], job.rows),
        augmenter_of(data.augment, splits, seed=recipe.train.seed, device=default_device(), cache_gb=cache_gb),
        first_views(job.views, data.augment_copies),
        inputs,
        recipe.objective.mix if inputs is not None else (),
        epochs=_epochs(recipe, len(splits.train)),
    )


def _epochs(recipe: Recipe, rows: int) -> float:
    """How often a training of the recipe sees so many rows.

    Raises:
        InputError: its steps are counted in tokens, and the texts here have none yet.
    """
    train, batching = recipe.train, recipe.batching
    if train.max_steps <= 0:
        return train.num_train_epochs
    if batching.token_budget is not None and depends_on_progress(recipe.data.augment):
        raise InputError(
            f"train.max_steps {train.max_steps}: expected train.num_train_epochs for a preview of Phases beside "
            "batching.token_budget, as the steps of an epoch depend on the tokens"
        )
    rows_per_step = batching.rows_per_step or train.per_device_train_batch_size * train.gradient_accumulation_steps
    return train.max_steps / math.ceil(rows / rows_per_step)


def _described(recipe: Recipe) -> dict[str, Any]:
    """The augmentation that is shown."""
    mix = [short_repr(o) for o in recipe.objective.mix]
    augment = {"operations": [short_repr(o) for o in recipe.data.augment], "seed": recipe.train.seed}
    return {**augment, "mix": mix} if mix else augment


def _print(job: DoctorJob, result: dict[str, Any], *lines: str) -> None:
    """Print a result: as JSON, or the augmentation and further lines."""
    if job.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(f"{', '.join([*result['operations'], *result.get('mix', [])])}; seed {result['seed']}", *lines, sep="\n")


def _check_writable(output: str) -> None:
    """Raises: InputError: no file can be made in the folder, or in the nearest one above it that there is."""
    folder = Path(output).absolute()
    home = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=home))
    except OSError as error:
        raise InputError(f"--output {output}: nothing can be written to {home} ({error.strerror})") from None


def augmented_recipe(job: DoctorJob, requested: str, kind: Kind) -> Recipe:
    """The recipe whose augmentation is to be shown, on the rows of the job.

    Args:
        requested: name or path of a recipe, path of a YAML file, or YAML.

    Raises:
        InputError: there is no such recipe or operation, it is for data of another kind, or nothing is augmented.
    """
    flag = f"--show-augmentation {requested}"
    if requested.endswith(".py") or shipped.is_known(requested):
        recipe = load_recipe(requested)
        if recipe.kind != kind:
            of_recipe, of_data = ("texts", "images") if kind == "image" else ("images", "texts")
            raise InputError(f"{flag}: this recipe is for {of_recipe}, and {job.source} holds {of_data}")
    else:
        blank = blank_recipe(images=kind == "image", name="preview")
        recipe = merge(blank, current(_fields(requested, flag)))
    here = {name: getattr(job, name) for name in WHERE if name in {f.name for f in dataclasses.fields(recipe.data)}}
    if recipe.data.path != job.source:
        # What the recipe says of its own source does not hold here.
        defaults = {f.name: f.default for f in dataclasses.fields(recipe.data)}
        recipe = merge(recipe, {"data": {"path": job.source} | {name: defaults[name] for name in here}})
    recipe = merge(recipe, {"data": {name: value for name, value in here.items() if value is not None}})
    if job.model is not None:
        recipe = merge(recipe, {"model": {"checkpoint": job.model}})
    if job.seed is not None:
        recipe = merge(recipe, {"train": {"seed": job.seed}})
    if not recipe.data.augment and not recipe.objective.mix:
        raise InputError(
            f"{flag}: it augments nothing, data.augment and objective.mix are empty; expected operations, or inline: "
            f"{'[Flip]' if kind == 'image' else '[SwapWords]'}"
        )
    if generative_operations(recipe.data.augment) and recipe.data.augment_copies == 0:
        # What a language model changes is stored; as many copies as are to be seen.
        recipe = merge(recipe, {"data": {"augment_copies": job.views}})
    return recipe


def _fields(requested: str, flag: str) -> dict[str, Any]:
    """Fields of a recipe from a YAML file or from YAML: as they are, or operations alone."""
    text, path = requested, Path(requested)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{flag}: cannot be read ({error})") from None
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{flag}: {error}") from None
    if value is None:
        # The policy of a search in which none helped: comments alone.
        return {}
    if isinstance(value, dict) and "type" not in value:
        return value
    if isinstance(value, str | dict):
        value = [value]
    if not isinstance(value, list):
        raise InputError(f"{flag}: expected a recipe, or operations such as [Flip], got {value!r}")
    mix = [operation for operation in value if _name(operation) in MIXING]
    return {
        "data": {"augment": [operation for operation in value if operation not in mix]},
        "objective": {"mix": mix},
    }


def _name(operation: Any) -> Any:
    """Of an operation as YAML has it."""
    return operation.get("type") if isinstance(operation, dict) else operation
