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

from hf_finetune import codec
from hf_finetune.data.augment_image import ImageOperation
from hf_finetune.data.augment_text import TextOperation
from hf_finetune.data.compose import Augmentation
from hf_finetune.data.named import Source
from hf_finetune.data.test_time import SeveralViews
from hf_finetune.embedded import IMAGE_CHECKPOINT, minilm
from hf_finetune.errors import InputError
from hf_finetune.recipe import Distill, ImageData, Launch, Model, Recipe, Supervised, TextData
from hf_finetune.search.budget import SearcherName, seconds_in

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
    data: Annotated[Source, tyro.conf.arg(name="")]
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
    them unless a flag or `--config` says it."""
    if (path := _flag_value(arguments, "--data.path")) is not None:
        raise InputError(f"--data.path {path}: {prog} takes the data as DATA, without a flag")
    fields = _yaml_fields(arguments)
    said, guessed = _kinds(arguments, fields)
    blank = TextData(path=""), Model(checkpoint=minilm())
    pictures = ImageData(path=""), Model(checkpoint=IMAGE_CHECKPOINT)

    def parsed(data: TextData | ImageData, model: Model) -> Train:
        recipe = _merged(Recipe(name="", data=data, model=model), fields, arguments)
        recipe, rest = _operations(recipe, arguments)
        return _parse(kind, kind(recipe, source=tyro.MISSING), rest, prog)

    job = parsed(*(pictures if (said or guessed) is ImageData else blank))
    if said is None:
        from hf_finetune.data.load import sniff

        data = job.recipe.data
        are_pictures = sniff(job.source, config_name=data.config_name, revision=data.revision) == "image"
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
    data, augment = fields.get("data"), _flag_value(arguments, "--data.augment") or ""
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
        recipe = _merged(default.recipe, _yaml_fields(arguments), arguments)
        recipe, arguments = _operations(recipe, arguments)
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
                print(_help_on_operations())
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


def _yaml_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """What the file of `--config` sets. To be read once: it may be a pipe."""
    if (file := _flag_value(arguments, "--config")) is None:
        return {}
    path = Path(file)
    try:
        fields = codec.yaml_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--config {path}: {error}") from None
    if not isinstance(fields, dict | None):
        raise InputError(f"--config {path}: expected a mapping of fields, got {fields!r}")
    return fields or {}


def _merged(recipe: Recipe, fields: dict[str, Any], arguments: Sequence[str]) -> Recipe:
    """The recipe with the fields of a file, which may be a student's where a flag names its teacher.

    Raises:
        InputError: see `codec.merge`; or a flag that is of a student's objective alone, without a teacher.
    """
    written = fields.get("objective")
    written = {"type": written} if isinstance(written, str) else written
    if isinstance(written, dict) and written.get("type") == "Distill":
        # Written out, it begins anew.
        teacher = _teacher(arguments)
        fields = fields | {"objective": written if teacher is None else {"teacher": teacher, **written}}
    else:
        recipe = _with_teacher(recipe, arguments)
    # Again, for the file may say `type: Supervised`.
    recipe = _with_teacher(codec.merge(recipe, fields), arguments)
    if isinstance(recipe.objective, Distill) or _flag_value(arguments, "--objective") is not None:
        return recipe
    own = {f.name for f in dataclasses.fields(Distill)} - {f.name for f in dataclasses.fields(Supervised)}
    for flag in (argument.partition("=")[0] for argument in arguments):
        group, _, name = flag.partition(".")
        if group == "--objective" and name.partition(".")[0].replace("-", "_") in own:
            raise InputError(f"{flag}: this is asked of a student; name its teacher beside it, --teacher MODEL")
    return recipe


def _with_teacher(recipe: Recipe, arguments: Sequence[str]) -> Recipe:
    """A flag that names a teacher makes the objective one that has one; all that it said before stays."""
    teacher = _teacher(arguments)
    if teacher is None or isinstance(recipe.objective, Distill):
        return recipe
    return dataclasses.replace(recipe, objective=Distill(teacher=teacher, **vars(recipe.objective)))


def _teacher(arguments: Sequence[str]) -> str | None:
    """The first one that a flag names."""
    return _flag_value(arguments, "--teacher") or _flag_value(arguments, "--objective.teacher")


def _operations(recipe: Recipe, arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Set the operations that a flag gives whole, as YAML; the other arguments are left: `--model.surgery.0.first 3`."""
    # A PEFT config is none of ours, but is given in the same way; its fields, too (`--adapter.r 16`).
    fields, rest = {name: [m.__name__ for m in members] for name, members in operation_fields(Recipe).items()}, []
    fields["adapter"] = list(codec.ADAPTERS)
    fields["model.from_config"] = ["'{num_hidden_layers: 4}'"]
    left = iter(arguments)
    for argument in left:
        flag, given, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        of_adapter = name.startswith("adapter.")
        if not flag.startswith("--") or not (name in fields or of_adapter):
            rest.append(argument)
            continue
        try:
            changes = codec.yaml_value(value if given else next(left))
        except StopIteration:
            such = "" if of_adapter else f", such as {fields[name][0]}"
            raise InputError(f"{flag}: expected a value{such}") from None
        except ValueError as error:
            raise InputError(f"{flag}: {error}") from None
        for part in reversed(name.split(".")):
            changes = {part: changes}
        recipe = codec.merge(recipe, changes)
    return recipe, rest


def operation_fields(kind: type, prefix: str = "") -> dict[str, list[type]]:
    """Fields below the dataclass `kind` that hold one of several operations, or a list of them, with those they may hold."""
    found: dict[str, list[type]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        members = codec.operations(hint)
        dotted = f"{prefix}{name}"
        if len(members) > 1 and dotted != "data":
            found[dotted] = members
        # What a tuple will hold, or which optimiser it will be, has no flags yet.
        for member in members if len(members) == 1 or dotted in ("data", "objective") else ():
            for inner, of in operation_fields(member, f"{dotted}.").items():
                # Texts and pictures have fields of one name that hold other operations.
                found[inner] = list(dict.fromkeys([*found.get(inner, []), *of]))
    return found


def _help_on_operations() -> str:
    """The part of the help that flags of configured operations cannot give: which others there are."""
    lines = ["", "operations, as YAML: a name, {type: NAME, field: value}, or a list of such:"]
    for name, members in operation_fields(Recipe).items():
        lines.append(f"  --{name.replace('_', '-')}")
        for member in members:
            fields = ", ".join(f.name for f in dataclasses.fields(member))
            first = " ".join((member.__doc__ or "").partition("\n\n")[0].split())
            lines.append(f"      {member.__name__}({fields}): {first}")
    lines += [
        "  --adapter",
        "      a PEFT config, {peft_type: NAME, field: value}, or its name for PEFT's defaults; fields of one that is",
        "      configured are flags, --adapter.r 4; one of:",
    ]
    lines += [f"      {', '.join(codec.ADAPTERS)}"]
    lines += [
        "  --model.from-config",
        "      random weights, in a network with these fields of the checkpoint's config: {num_hidden_layers: 4, hidden_size: 192}",
    ]
    return "\n".join(lines)


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
        value = codec.yaml_value(job.augment)
    except ValueError as error:
        raise InputError(f"--augment: {error}") from None
    return SeveralViews(codec.checked(value, tuple[Augmentation, ...], "--augment"), job.views, job.seed)


def _flag_value(arguments: Sequence[str], flag: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


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
