"""`hf-finetune doctor`: check a data set for problems, or preview its augmentation."""

import json
import logging
import shutil
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from hf_finetune.augmentation.compose import generative_operations
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.cli import shipped
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.cli.run_job import load_recipe
from hf_finetune.config.aliases import current
from hf_finetune.config.recipe import blank_recipe
from hf_finetune.config.rules import check
from hf_finetune.data.config import Kind, Source, SplitOptions
from hf_finetune.errors import InputError
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.utils.console import Progress
from hf_finetune.utils.files import check_writable, check_writable_file, parse_yaml, write_bytes
from hf_finetune.utils.messages import counted
from hf_finetune.utils.plain import merge, short_repr

SHEET = "augmentation.png"
MIXING = {operation.__name__ for operation in typing.get_args(Mixing)}
NO_PREVIEW = "objective.mix: no preview for texts, as it mixes word embeddings"


@dataclass(frozen=True)
class DoctorJob(Source):
    """Check a data set for problems before training on it, or preview its augmentation."""

    validation: str | None = None
    """Validation rows: the name of a split of the data, or a file of its own."""
    test: str | None = None
    """Test rows: the name of a split of the data, or a file of its own."""
    model: str | None = None
    """Checkpoint whose tokens are counted. With --show-augmentation it takes the place of the recipe's."""
    checkpoint_limits: Annotated[CheckpointLimits, tyro.conf.arg(name="model")] = CHECKPOINT_LIMITS
    """Limits on this checkpoint."""
    max_length: int = 128
    """Tokens that training would read of a text. Without --model, words are counted."""
    show_augmentation: Annotated[str | None, tyro.conf.arg(metavar="RECIPE|YAML")] = None
    """Instead of checking, show some rows and their augmented views in the first epochs, exactly as training with this
    seed sees them. Takes a recipe by name or path, or a YAML file of recipe fields or of operations. Operations can
    also be written inline: `[Flip, {type: Rotate, degrees: 20}]`, `[CutMix]`. Texts are printed side by side. Images go
    to a contact sheet, see --output. Mixing operations mix the shown images with one another."""
    views: int = 3
    """With --show-augmentation: views of each row."""
    rows: int = 6
    """With --show-augmentation: number of rows, taken from every class in turn."""
    seed: int | None = None
    """With --show-augmentation: seed of the training. None: the recipe's, else 0."""
    output: Annotated[str, tyro.conf.arg(metavar="DIR")] = "."
    """Folder of the contact sheet, augmentation.png."""
    json: bool = False
    """Print only the result, as JSON, with all rows of every finding."""


def doctor(arguments: Sequence[str]) -> None:
    job = parse(DoctorJob, arguments, "hf-finetune doctor")
    for name, least in (("views", 1), ("rows", 1), ("max_length", 1), ("seed", 0)):
        if (value := getattr(job, name)) is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    logging.getLogger("hf_finetune").setLevel(logging.INFO)
    if job.show_augmentation is not None:
        _show_augmentation(job, job.show_augmentation)
        return
    with importing():
        from hf_finetune.data.sources import sniff_kind
        from hf_finetune.doctor.examination import examine

    options = SplitOptions(validation=job.validation, test=job.test)
    with Progress("examine", quiet=True):
        report = examine(
            job,
            sniff_kind(job),
            options,
            checkpoint=job.model,
            limits=job.checkpoint_limits,
            max_length=job.max_length,
        )
    print(_json(report.to_dict()) if job.json else report.describe())


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2, ensure_ascii=False)


# Preview


def _show_augmentation(job: DoctorJob, requested: str) -> None:
    """Print augmented texts, or write a contact sheet of augmented images."""
    from hf_finetune.data.sources import sniff_kind

    recipe = augmented_recipe(job, requested, sniff_kind(job))
    check(recipe)
    mix, sheet = recipe.objective.mix, Path(job.output) / SHEET
    _check_preview(job, sheet, of_images=recipe.data.kind == "image", mixes=bool(mix))
    with importing():
        from hf_finetune.doctor.contact_sheet import draw_contact_sheet
        from hf_finetune.doctor.preview import ImagePreview, load_preview
        from hf_finetune.doctor.side_by_side import text_table

    preview = load_preview(
        recipe.data,
        mix,
        model=recipe.model,
        train=recipe.train,
        batching=recipe.batching,
        rows=job.rows,
        views=job.views,
    )
    result: dict[str, Any] = {
        "operations": [short_repr(operation) for operation in recipe.data.augment],
        "seed": recipe.train.seed,
        **({"mix": [short_repr(operation) for operation in mix]} if mix else {}),
        **({"rows": []} if preview is None else preview.to_dict()),
    }
    lines = [f"{', '.join([*result['operations'], *result.get('mix', [])])}; seed {result['seed']}"]
    if isinstance(preview, ImagePreview):
        write_bytes(sheet, draw_contact_sheet(preview))
        result["sheet"] = str(sheet)
        mixed = ", mixed with one another" if mix else ""
        lines.append(
            f"{counted(len(preview.rows), 'image')}, {counted(len(preview.views), 'view')} of each{mixed} -> {sheet}"
        )
    else:
        width = shutil.get_terminal_size((120, 24)).columns
        lines += [] if preview is None else [text_table(preview, width=width)]
        lines += [NO_PREVIEW] if mix else []
    print(_json(result) if job.json else "\n".join(lines))


def _check_preview(job: DoctorJob, sheet: Path, *, of_images: bool, mixes: bool) -> None:
    """Check that a preview can be made and written, before anything is loaded."""
    if mixes and of_images and job.rows < 2:
        raise InputError(f"--rows {job.rows}: expected at least 2, as rows are mixed with one another")
    if sheet.parent.exists() and not sheet.parent.is_dir():
        raise InputError(f"--output {job.output}: this is a file, expected a folder for {SHEET}")
    if of_images:
        check_writable(sheet.parent)
        check_writable_file(sheet)


def augmented_recipe(job: DoctorJob, requested: str, kind: Kind) -> Any:
    """Return the recipe whose augmentation is previewed, with the job's rows, checkpoint and seed.

    Args:
        requested: name or path of a recipe, path of a YAML file, or YAML.

    Raises:
        InputError: there is no such recipe or operation, it is for data of another kind, or it augments nothing.
    """
    option = f"--show-augmentation {requested}"
    if requested.endswith(".py") or shipped.is_known(requested):
        recipe = load_recipe(requested)
        if recipe.data.kind != kind:
            raise InputError(f"{option}: this recipe is for {recipe.data.kind}s, and {job.path} holds {kind}s")
    else:
        recipe = merge(blank_recipe(images=kind == "image", name="preview"), current(_recipe_fields(requested, option)))
    if not recipe.data.augment and not recipe.objective.mix:
        raise InputError(
            f"{option}: it augments nothing, data.augment and objective.mix are empty; expected operations, or inline: "
            f"{'[Flip]' if kind == 'image' else '[SwapWords]'}"
        )
    changes: dict[str, Any] = {"data": _data_fields(job, recipe)}
    if generative_operations(recipe.data.augment) and recipe.data.augment_copies == 0:
        # Generative operations need stored copies: one for each view.
        changes["data"]["augment_copies"] = job.views
    if job.model is not None:
        changes["model"] = {"checkpoint": job.model, **vars(job.checkpoint_limits)}
    if job.seed is not None:
        changes["train"] = {"seed": job.seed}
    return merge(recipe, changes)


def _data_fields(job: DoctorJob, recipe: Any) -> dict[str, Any]:
    """Return the fields that replace the recipe's data by the job's."""
    defaults = {field.name: field.default for field in fields(recipe.data)}
    names = {"validation", "test", *(field.name for field in fields(Source))} & defaults.keys()
    requested = {name: getattr(job, name) for name in names if getattr(job, name) is not None}
    # Splits and columns of the recipe hold for its own data only.
    return requested if recipe.data.path == job.path else {name: defaults[name] for name in names} | requested


def _recipe_fields(requested: str, option: str) -> dict[str, Any]:
    """Read recipe fields, or operations alone, from a YAML file or from inline YAML."""
    path = Path(requested)
    value = parse_yaml(path if path.suffix in (".yaml", ".yml") else requested, option)
    if value is None:
        # The policy of a search in which no augmentation helped consists of comments.
        return {}
    if isinstance(value, dict) and "type" not in value:
        return value
    operations = [value] if isinstance(value, str | dict) else value
    if not isinstance(operations, list):
        raise InputError(f"{option}: expected a recipe, or operations such as [Flip], got {value!r}")
    names = [operation.get("type") if isinstance(operation, dict) else operation for operation in operations]
    mix = [operation for operation, name in zip(operations, names, strict=True) if name in MIXING]
    return {"data": {"augment": [each for each in operations if each not in mix]}, "objective": {"mix": mix}}
