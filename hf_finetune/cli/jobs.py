"""From a command's arguments to a job: its flags, which are the fields of a recipe, with a YAML file under them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.cli.arguments import flag_value, help_on_operations, merged, with_operations, yaml_fields
from hf_finetune.cli.embedded import IMAGE_CHECKPOINT, minilm
from hf_finetune.config.recipe import Distill, ImageData, Launch, Model, Recipe, TextData
from hf_finetune.data.config import Source, SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.search.budget import seconds_in
from hf_finetune.search.config import SearcherName
from hf_finetune.utils.config import validated
from hf_finetune.utils.files import parse_yaml

T = TypeVar("T")
Config = Annotated[str | None, tyro.conf.arg(metavar="FILE.yaml")]


@dataclass(frozen=True)
class RunJob:
    """A recipe with its fields as flags."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = Launch()
    config: Config = None
    """YAML file of recipe fields; flags win over it."""
    find_lr: bool = False
    """In place of the run: 100 steps at a learning rate that grows (arXiv:1506.01186), their losses as a table and a picture,
    and a proposal. Reads training rows alone, keeps nothing it trained."""
    plot_schedule: Annotated[str | None, tyro.conf.arg(metavar="FILE.svg")] = None
    """With plan: draw the learning rate of every step, a line for each group of parameters that has its own."""
    json: bool = False
    """Print the result alone, as JSON."""


@dataclass(frozen=True)
class TrainJob(RunJob):
    """Fine-tune a classifier on your own data."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ""
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""


Train = TypeVar("Train", bound=TrainJob)


@dataclass(frozen=True)
class SearchJob(TrainJob):
    """Search a policy of augmentation for your own data, and judge it against none."""

    searcher: SearcherName = "sweep"
    """sweep: one or two numbers, as in RandAugment and TrivialAugment, the least that can be chosen wrongly in few trials.
    tpe: Optuna's Parzen estimator (the extra `search`). population: several trainings that learn from each other and end in a
    schedule of policies, `Phases`, as in PBA. reinforce: a recurrent controller that learns by its rewards, as in AutoAugment."""
    budget: str = "10m"
    """Time of the whole command: 90s, 10m, 1h30m. Trials have 0.4 of it, or more where what decides needs less: runs with the
    policy and without, of as many of the recipe's steps as fit into all that is left."""
    trials: int | None = None
    """Trials of policies; a number of them is done whatever the budget says, by sweep and population the next lower one that
    their rungs add up to. None: as many as there is time for."""
    seeds: int | None = None
    """Runs with the best policy, and as many without, each pair with a seed of its own: train.seed and those after it. None:
    at least three, and up to ten while time is left."""
    rows: int | None = None
    """Training rows at most: as --max-train-rows."""


@dataclass(frozen=True)
class ApplyJob:
    """A finished classifier and the rows it is used on."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run or of a model, or a Hub id."""
    data: Annotated[SourceSplit, tyro.conf.arg(name="")]
    batch_size: int | None = None
    """Rows of one forward pass. None: as many as have 2048 tokens together, or 64 pictures."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Number format. auto: `evaluate` computes in float32; `predict` in bf16 where the hardware multiplies it natively, and
    in float32 again what could have another label there."""
    augment: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Test-time augmentation, beside --views: operations as in data.augment, `[Flip]` or `[{type: SwapWords, p: 0.2}]`, see
    `hf-finetune train --help`. A row's probabilities are then the mean over its views, and --precision auto is float32."""
    views: int | None = None
    """How often every row is seen: once as it is, and all other times as --augment changes it."""
    seed: int = 0
    """Of the views: with the same one a row has the same views in every run."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    json: bool = False
    """Print the result alone, as JSON."""


@dataclass(frozen=True)
class PredictJob(ApplyJob):
    """Label rows."""

    output: Annotated[str, tyro.conf.arg(metavar="FILE.(csv|parquet|jsonl)")] = "predictions.csv"
    """File to write."""
    digests: bool = False
    """Write the SHA-256 of each row's text, or of its picture's file, as well: then a .parquet file can be a teacher,
    `train DATA --teacher FILE`, on a machine that has not the model."""


@dataclass(frozen=True)
class EvaluateJob(ApplyJob):
    """Score labelled rows."""


@dataclass(frozen=True)
class CopyJob:
    """Copy a shipped recipe to own it."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the recipe, see `hf-finetune list`."""
    dest: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    """File or folder to copy it to."""


@dataclass(frozen=True)
class CardJob:
    """Render the model card of a finished run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""


@dataclass(frozen=True)
class PushJob:
    """Publish a finished run on the Hub."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """Repository, `your-name/its-name`; created when it is not there."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    include_predictions: bool = False
    """Send predictions.parquet too: it quotes the labels of your data."""


# Parsing


def search_job(arguments: Sequence[str], prog: str) -> tuple[SearchJob, float]:
    """Parse the arguments of `search augmentation`: the job, and its budget in seconds.

    Raises:
        InputError: see `parse`; or a flag that is for other commands.
    """
    job, _ = train_job(arguments, prog, SearchJob)
    for flag, given in (
        ("--find-lr", job.find_lr),
        ("--plot-schedule", job.plot_schedule is not None),
        ("--num-processes", job.launch.num_processes not in (None, 1)),
        ("--push", job.recipe.hub.repo_id is not None),
        ("--teacher", isinstance(job.recipe.objective, Distill)),
        ("--model.from-config", job.recipe.model.from_config is not None),
        ("--pretrain.objective", job.recipe.pretrain.objective is not None),
    ):
        if given:
            raise InputError(f"{flag}: this is not for search; leave it out")
    if job.rows is not None:
        data = dataclasses.replace(job.recipe.data, max_train_rows=job.rows)
        job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, data=data))
    return job, seconds_in(job.budget)


def train_job(arguments: Sequence[str], prog: str, kind: type[Train] = TrainJob) -> tuple[Train, list[str]]:
    """Parse the arguments of `train`, or of a job that takes them too; whether the data are texts or pictures is asked of
    them unless a flag or `--config` says it.

    Returns:
        The job, and the command that starts it.

    Raises:
        InputError: see `parse`; or there are no such data.
    """
    if (path := flag_value(arguments, "--data.path")) is not None:
        raise InputError(f"--data.path {path}: {prog} takes the data as DATA, without a flag")
    fields = yaml_fields(arguments)
    said, guessed = _kinds(arguments, fields)
    blank = TextData(path=""), Model(checkpoint=minilm())
    pictures = ImageData(path=""), Model(checkpoint=IMAGE_CHECKPOINT)

    def parsed(data: TextData | ImageData, model: Model) -> Train:
        recipe = merged(Recipe(name="", data=data, model=model), fields, arguments)
        recipe, rest = with_operations(recipe, arguments)
        return _parse(kind, kind(recipe, source=tyro.MISSING), rest, prog)

    job = parsed(*(pictures if (said or guessed) is ImageData else blank))
    if said is None:
        from hf_finetune.data.sources import sniff_kind

        data = job.recipe.data
        are_pictures = sniff_kind(Source(job.source, data.config_name, data.revision)) == "image"
        if are_pictures != isinstance(data, ImageData):
            job = parsed(*(pictures if are_pictures else blank))  # what is for the other kind is refused by name
    recipe = job.recipe
    stem = re.sub(
        r"\.(csv|tsv|jsonl?|parquet)$",
        "",
        Path(job.source).absolute().name if Path(job.source).exists() else job.source.rpartition("/")[2],
    )
    recipe = dataclasses.replace(
        recipe,
        name=recipe.name or f"{stem}-{recipe.trained}",
        data=dataclasses.replace(recipe.data, path=job.source),
    )
    return dataclasses.replace(job, recipe=recipe), ["hf-finetune", "train"]


def _kinds(arguments: Sequence[str], fields: dict[str, Any]) -> tuple[type | None, type | None]:
    """What a flag, or the YAML file, says of the data by naming a column or a field that only one kind has; and what the
    operations beside it are for, from which the data may differ. None: nothing."""
    names = {a.split("=")[0].removeprefix("--").removeprefix("data.") for a in arguments if a.startswith("--")}
    data, augment = fields.get("data"), flag_value(arguments, "--data.augment") or ""
    if isinstance(data, dict):
        names |= {str(name) for name in data} | {f"type: {data.get('type')}"}
        augment += str(data.get("augment", ""))
    names = {name.replace("-", "_").removeprefix("no_") for name in names}
    fields_of = {kind: {f.name for f in dataclasses.fields(kind)} for kind in (TextData, ImageData)}
    of_pictures, of_texts = fields_of[ImageData] - fields_of[TextData], fields_of[TextData] - fields_of[ImageData]
    words = set(re.findall(r"\w+", augment))
    if names & (of_pictures | {"type: ImageData"}):
        return ImageData, None
    if names & {"text", "text_pair", "type: TextData"}:
        return TextData, None
    if words & {o.__name__ for o in typing.get_args(ImageOperation)}:
        # Beside a field of texts it is the operation that is wrong, and is refused by name.
        return None, TextData if names & of_texts else ImageData
    return None, TextData if words & {o.__name__ for o in typing.get_args(TextOperation)} else None


def parse(kind: type[T], default: T | None, arguments: Sequence[str], prog: str) -> T:
    """A job of type `kind` from its flags, over the fields of the file that `--config` names, over `default`.

    Raises:
        InputError: for a flag or a field that there is not, or a value of another type.
    """
    if default is not None:
        recipe = merged(default.recipe, yaml_fields(arguments), arguments)
        recipe, arguments = with_operations(recipe, arguments)
        default = dataclasses.replace(default, recipe=recipe)
    return _parse(kind, default, arguments, prog)


def _parse(kind: type[T], default: T | None, arguments: Sequence[str], prog: str) -> T:
    """tyro's parser, with its complaint as one plain line first."""
    complaint = io.StringIO()
    # PEFT's configs are no flags; tyro would look into this one all the same, and complain of its types.
    adapter = default.recipe.adapter if isinstance(default, RunJob) else None
    if isinstance(default, RunJob) and adapter is not None:
        default = _with_adapter(default, None)
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint), _unfolded(arguments):
            job = tyro.cli(kind, args=list(arguments), prog=prog, **given)
            return job if adapter is None else _with_adapter(job, adapter)
    except SystemExit as stop:
        if not stop.code:
            if issubclass(kind, RunJob):
                print(help_on_operations())
            raise
        spaced = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") else [a])]
        if "Unrecognized options" in complaint.getvalue() and len(spaced) > len(arguments):
            # tyro compares a flag that it does not know with others only without a value behind it.
            return _parse(kind, default if adapter is None else _with_adapter(default, adapter), spaced, prog)
        # tyro draws a box, in ASCII where the terminal has no other; its first line is the title.
        lines = [re.sub(r"^[│|╭╰+]|[│|╮╯+]$", "", line.strip()).strip() for line in complaint.getvalue().splitlines()]
        lines = [line for line in lines if line.strip("─-")]
        title, body = lines[0].strip("─- "), lines[1:]
        if len(body) > 1 and body[0].startswith("Missing from"):
            body = [f"missing {body[1]}", *body[2:]]
        if len(body) > 2 and body[1].startswith("Perhaps you meant"):
            body = [f"{body[0]}; perhaps you meant {body[2]}", *body[3:]]
        raise InputError("\n".join([f"{prog}: {body[0] if body else title}", *body[1:10]])) from None


def _with_adapter(job: T, adapter: Any) -> T:
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, adapter=adapter))


@contextlib.contextmanager
def _unfolded(arguments: Sequence[str]) -> Iterator[None]:
    """Room for a complaint of tyro's on one line; its help keeps the width of the terminal."""
    if {"-h", "--help"} & set(arguments):
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def views_of(job: ApplyJob) -> SeveralViews | None:
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
        value = parse_yaml(job.augment)
    except ValueError as error:
        raise InputError(f"--augment: {error}") from None
    return SeveralViews(validated(value, tuple[Augmentation, ...], "--augment"), job.views, job.seed)


def first_positional(arguments: Sequence[str], text: str) -> tuple[str, list[str]]:
    """The argument that comes before all flags, and the others.

    Raises:
        InputError: there is none; `text` is the usage.
    """
    if not arguments or arguments[0].startswith("-"):
        raise usage_or_help(arguments, text, f"usage: {text}")
    return arguments[0], list(arguments[1:])


def usage_or_help(arguments: Sequence[str], text: str, complaint: str) -> InputError:
    """The error for arguments that a command does not take; when they ask for help, it is given instead."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {text}")
        raise SystemExit(0)
    return InputError(complaint)
