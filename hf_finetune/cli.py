"""The command line: `hf-finetune COMMAND`, and `main(recipe)` for a recipe script.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from hf_finetune import codec, shipped
from hf_finetune.embedded import IMAGE_CHECKPOINT, minilm
from hf_finetune.errors import GateError, InputError, PushError, StoppedBySignal, TrainingError
from hf_finetune.recipe import ImageData, Launch, Model, Recipe, TextData

T = TypeVar("T")
Config = Annotated[str | None, tyro.conf.arg(metavar="FILE.yaml")]


@dataclass(frozen=True)
class RunJob:
    """A recipe with its fields as flags."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = Launch()
    config: Config = None
    """YAML file of recipe fields; flags win over it."""
    json: bool = False
    """Print the result alone, as JSON."""


@dataclass(frozen=True)
class TrainJob(RunJob):
    """Fine-tune a classifier on your own data."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ""
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""


@dataclass(frozen=True)
class ApplyJob:
    """A finished classifier and the rows it is used on."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run or of a model, or a Hub id."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    split: str | None = None
    """Split of the data. Default: test, else validation, else train; said aloud."""
    text: str | None = None
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text."""
    image: str | None = None
    """Column of the picture."""
    label: str | None = None
    """Column of the class."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    batch_size: int = 64
    """Rows of one forward pass."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


@dataclass(frozen=True)
class PredictJob(ApplyJob):
    """Label rows."""

    output: Annotated[str, tyro.conf.arg(metavar="FILE.(csv|parquet|jsonl)")] = "predictions.csv"
    """File to write."""


@dataclass(frozen=True)
class EvaluateJob(ApplyJob):
    """Score labelled rows."""

    json: bool = False
    """Print the result alone, as JSON."""


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


# Metrics of the table at the end of a run; result.json has them all.
SHOWN = ("accuracy", "macro_f1", "log_loss")

RUN_HELP = """hf-finetune run RECIPE [flags]

Run a recipe: a .py file of your own, or the name of a shipped one (`hf-finetune list`).
Every field of it is a flag: `hf-finetune run RECIPE --help` tells them."""
PLAN_HELP = """hf-finetune plan (train DATA | run RECIPE | DATA | RECIPE) [flags]

What `train DATA` or `run RECIPE` with the same flags would do: rows, lengths, steps, time and memory. Trains nothing.
`hf-finetune train --help` and `hf-finetune run RECIPE --help` tell the flags; `--json` prints the plan as JSON."""
LIST_HELP = """hf-finetune list

The shipped recipes, each with its first line."""


# Commands


def quickstart(arguments: Sequence[str]) -> None:
    """the main job on an embedded checkpoint and data set, offline, in minutes"""
    _run_job(shipped.load_recipe("quickstart"), arguments, ["hf-finetune", "quickstart"])


def train(arguments: Sequence[str]) -> None:
    """fine-tune a classifier on your own data"""
    job, started = _train_job(arguments, "hf-finetune train")
    _start(job, [*started, *arguments])


def run(arguments: Sequence[str]) -> None:
    """run a recipe, by path or by name"""
    name, rest = _first_positional(arguments, RUN_HELP)
    _run_job(shipped.load_recipe(name), rest, ["hf-finetune", "run", name])


def plan(arguments: Sequence[str]) -> None:
    """what train DATA or run RECIPE would do and cost; trains nothing"""
    name, rest = _first_positional(arguments, PLAN_HELP)
    if name == "run" or name.endswith(".py") or name in shipped.names():
        if name == "run":
            name, rest = _first_positional(rest, PLAN_HELP)
        job = _parse(RunJob, RunJob(shipped.load_recipe(name)), rest, "hf-finetune plan")
    else:
        job, _ = _train_job(rest if name == "train" else arguments, "hf-finetune plan")
    from hf_finetune.planning import describe
    from hf_finetune.planning import plan as make_plan

    made = make_plan(job.recipe)
    print(json.dumps(made, indent=2) if job.json else describe(made))


def predict(arguments: Sequence[str]) -> None:
    """label rows with a finished model"""
    job = _parse(PredictJob, None, arguments, "hf-finetune predict")
    from hf_finetune import apply

    apply.check_output(Path(job.output), job.data)
    classifier = apply.load_trained(job.model, trust_remote_code=job.trust_remote_code)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    rows = apply.predict(classifier, _source(job), Path(job.output), batch_size=job.batch_size)
    print(f"{rows} rows -> {job.output}")


def evaluate(arguments: Sequence[str]) -> None:
    """score a finished model on labelled rows"""
    job = _parse(EvaluateJob, None, arguments, "hf-finetune evaluate")
    from hf_finetune import apply
    from hf_finetune.evaluation.report import comparison_table

    classifier = apply.load_trained(job.model, trust_remote_code=job.trust_remote_code)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    result = apply.evaluate(classifier, _source(job), batch_size=job.batch_size)
    if job.json:
        print(json.dumps(result, indent=2))
    else:
        print(comparison_table([{"name": Path(job.model).name, **result["metrics"]}]))


def list_recipes(arguments: Sequence[str]) -> None:
    """the shipped recipes"""
    if arguments:
        raise _usage_or_help(arguments, LIST_HELP, f"hf-finetune list: takes no arguments, got {arguments[0]!r}")
    described = shipped.described()
    width = max(map(len, described))
    for name, line in described.items():
        print(f"{name:<{width}}  {line}")


def copy_recipe(arguments: Sequence[str]) -> None:
    """copy a shipped recipe to own it"""
    job = _parse(CopyJob, None, arguments, "hf-finetune cp")
    print(shipped.copy(job.name, Path(job.dest)))


def card(arguments: Sequence[str]) -> None:
    """render the model card of a run again"""
    job = _parse(CardJob, None, arguments, "hf-finetune card")
    from hf_finetune.hub.card import render_card

    recipe, result = read_run(Path(job.run))
    text = render_card(recipe, result)
    codec.write_text(Path(job.run) / "README.md", text)
    print(text, end="")


def push(arguments: Sequence[str]) -> None:
    """publish a finished run on the Hub, pull it back and compare"""
    job = _parse(PushJob, None, arguments, "hf-finetune push")
    from hf_finetune.publishing import publish

    pushed = publish(
        Path(job.run),
        job.repo,
        private=job.private,
        revision=job.revision,
        create_pr=job.create_pr,
        include_predictions=job.include_predictions,
    )
    print(pushed.url)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "quickstart": quickstart,
    "train": train,
    "run": run,
    "list": list_recipes,
    "cp": copy_recipe,
    "plan": plan,
    "evaluate": evaluate,
    "predict": predict,
    "card": card,
    "push": push,
}


# From arguments to a job


def _train_job(arguments: Sequence[str], prog: str) -> tuple[TrainJob, list[str]]:
    """Parse `train`'s arguments; whether the data are texts or pictures is asked of the data unless a flag says it."""
    if (path := _flag_value(arguments, "--data.path")) is not None:
        raise InputError(f"--data.path {path}: {prog} takes the data as DATA, without a flag")
    image = any(a.split("=")[0] in ("--image", "--data.image") for a in arguments)
    blank = TextData(path=""), Model(checkpoint=minilm())
    pictures = ImageData(path=""), Model(checkpoint=IMAGE_CHECKPOINT)

    def parse(data: TextData | ImageData, model: Model) -> TrainJob:
        return _parse(TrainJob, TrainJob(Recipe(name="", data=data, model=model), source=tyro.MISSING), arguments, prog)

    job = parse(*(pictures if image else blank))
    if not image and not any(a.split("=")[0] in ("--text", "--data.text") for a in arguments):
        from hf_finetune.data.load import sniff

        data = job.recipe.data
        if sniff(job.source, config_name=data.config_name, revision=data.revision) == "image":
            job = parse(*pictures)
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


def _run_job(recipe: Recipe, arguments: Sequence[str], started: list[str]) -> None:
    _start(_parse(RunJob, RunJob(recipe), arguments, shlex.join(started)), [*started, *arguments])


def _parse(kind: type[T], default: T | None, arguments: Sequence[str], prog: str) -> T:
    """tyro's parser, with a YAML file under the flags and its complaint as one plain line first."""
    file = _flag_value(arguments, "--config") if default is not None else None
    if file is not None:
        default = dataclasses.replace(default, recipe=codec.merge(default.recipe, _read_yaml(Path(file))))
    complaint = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint), _unfolded(arguments):
            return tyro.cli(kind, args=list(arguments), prog=prog, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box, in ASCII where the terminal has no other; its first line is the title.
        lines = [re.sub(r"^[│|╭╰+]|[│|╮╯+]$", "", line.strip()).strip() for line in complaint.getvalue().splitlines()]
        lines = [line for line in lines if line.strip("─-")]
        title, body = lines[0].strip("─- "), lines[1:]
        if len(body) > 1 and body[0].startswith("Missing from"):
            body = [f"missing {body[1]}", *body[2:]]
        if len(body) > 2 and body[1].startswith("Perhaps you meant"):
            body = [f"{body[0]}; perhaps you meant {body[2]}", *body[3:]]
        raise InputError("\n".join([f"{prog}: {body[0] if body else title}", *body[1:10]])) from None


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


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: {' '.join(str(error).split())}") from None
    return fields or {}


def _flag_value(arguments: Sequence[str], flag: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _first_positional(arguments: Sequence[str], text: str) -> tuple[str, list[str]]:
    if not arguments or arguments[0].startswith("-"):
        raise _usage_or_help(arguments, text, f"usage: {text}")
    return arguments[0], list(arguments[1:])


def _usage_or_help(arguments: Sequence[str], text: str, complaint: str) -> InputError:
    """The error for arguments that a command does not take; when they ask for help, it is given instead."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {text}")
        raise SystemExit(0)
    return InputError(complaint)


def _source(job: ApplyJob) -> Any:
    from hf_finetune.apply import Source

    fields = {f.name: getattr(job, f.name) for f in dataclasses.fields(Source) if f.name != "path"}
    return Source(path=job.data, **fields)


# From a job to a result


def _start(job: RunJob, command: list[str]) -> None:
    processes = job.launch.num_processes
    if processes is not None and processes < 1:
        raise InputError(f"--num-processes {processes}: expected at least 1")
    if processes is not None and processes > 1 and "WORLD_SIZE" not in os.environ:
        from hf_finetune.launcher import launch

        launch(command, processes, mixed_precision=job.recipe.precision.mixed_precision)
        return
    from hf_finetune.pipeline import run as run_recipe

    result = run_recipe(job.recipe, job.launch, command=public_command(command))
    if result is not None:
        _report(job, result)


def _report(job: RunJob, result: dict[str, Any]) -> None:
    if job.json:
        print(json.dumps(result, indent=2))
        return
    from hf_finetune.evaluation.report import comparison_table

    judged = "test" if "test" in result["metrics"] else "validation"
    rows = [{"name": "this model", **result["metrics"][judged]}]
    rows += [{**found, "name": f"{key} ({found['name']})"} for key, found in result["baselines"].items()]
    print(f"{result['name']} on {result['rows'][judged]} {judged} rows, 95% intervals")
    print(comparison_table(rows, metrics=SHOWN))
    folder = result["folder"]
    for what, name in (
        ("model", "model"),
        ("adapter", "adapter"),
        ("card", "README.md"),
        ("predictions", "predictions.parquet"),
    ):
        if (Path(folder) / name).exists():
            print(f"{what:<12} {Path(folder) / name}")


def public_command(command: Sequence[str]) -> str:
    """A command line without what only this machine has: local paths become names; output, push and resume go."""
    kept, skip = [], False
    for argument in command:
        flag = argument.split("=")[0]
        if skip:
            skip = False
        elif flag in ("--output", "--push", "--hub.repo-id"):
            skip = "=" not in argument
        elif flag in ("--resume", "--json"):
            continue
        elif os.sep in argument and Path(argument.partition("=")[2] if flag.startswith("--") else argument).exists():
            value = argument.partition("=")[2] if flag.startswith("--") else argument
            kept.append(argument.replace(value, Path(value).absolute().name))
        else:
            kept.append(argument)
    return shlex.join(kept)


def read_run(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and result of a finished run.

    Raises:
        InputError: when the folder holds none.
    """
    try:
        record = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder}: no {Path(error.filename).name}; expected the folder of a finished run") from None
    except ValueError as error:
        raise InputError(f"{folder}: recipe.json or result.json is not valid JSON ({error})") from None
    if not isinstance(record, dict) or "recipe" not in record:
        raise InputError(f"{folder}: recipe.json holds no recipe; expected the folder of a finished run")
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    return codec.merge(blank, record["recipe"]), result


# Entry points


def main_command(arguments: Sequence[str] | None = None) -> None:
    """`hf-finetune`: run a command and leave with its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("hf_finetune"))
        return
    with exit_status():
        command = COMMANDS.get(arguments[0])
        if command is None:
            raise InputError(f"hf-finetune {arguments[0]}: no such command; one of {', '.join(COMMANDS)}")
        command(arguments[1:])


def main(recipe: Callable[[], Recipe]) -> None:
    """Run a recipe script: `python recipe.py --train.seed 1`, or under `accelerate launch`."""
    with exit_status():
        _run_job(shipped.make(recipe, Path(sys.argv[0])), sys.argv[1:], [sys.argv[0]])


def _usage() -> str:
    lines = [f"  {name:<11} {' '.join((command.__doc__ or '').split())}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-finetune COMMAND ...",
            "",
            "From labelled text or images to a verified classifier on the Hugging Face Hub.",
            "",
            *lines,
            "",
            "hf-finetune COMMAND --help tells a command's flags; every field of a recipe is one.",
        ]
    )


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Turn the package's errors into one line on stderr and an exit status; show its notes on stderr."""
    main_process = os.environ.get("RANK", "0") == "0"
    if not sys.stderr.isatty():
        # Bars of downloads would stand before the one line that says what is wrong; read when the libraries are imported.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with _notes_shown(), _terminated_like_interrupted():
            yield
    except InputError as error:
        _leave(error, 2, main_process)
    except StoppedBySignal as error:
        _leave(error, 3, main_process)
    except GateError as error:
        _leave(error, 4, main_process)
    except (TrainingError, PushError) as error:
        _leave(error, 1, main_process)
    except KeyboardInterrupt:
        _leave("stopped before there was anything to save", 3, main_process)
    except BrokenPipeError:
        # Whoever read our output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _leave(message: object, status: int, main_process: bool) -> None:
    if main_process:
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


class _HeldBack(logging.StreamHandler):
    """Holds back what the loaders say until the run itself speaks, or all is done: an error is then the first line."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.held: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, now or later."""
        if record.name == "hf_finetune.run":
            self.show()
        if self.held is None:
            super().emit(record)
        else:
            self.held.append(record)

    def show(self) -> None:
        """Show what was held back, and from now on everything at once."""
        held, self.held = self.held or [], None
        for record in held:
            super().emit(record)


@contextlib.contextmanager
def _notes_shown() -> Iterator[None]:
    """Notes of a run and warnings go to stderr, one plain line each; chatter of the libraries does not."""
    handler = _HeldBack()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger, run_logger = logging.getLogger("hf_finetune"), logging.getLogger("hf_finetune.run")
    before = logger.handlers, logger.propagate, logger.level, run_logger.level
    logger.handlers, logger.propagate = [handler], False
    quiet = os.environ.get("RANK", "0") != "0"
    logger.setLevel(logging.ERROR if quiet else logging.WARNING)
    # A loader's notes are said again by the run.
    run_logger.setLevel(logging.ERROR if quiet else logging.INFO)
    warnings.simplefilter("ignore")
    try:
        yield
        handler.show()
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
        run_logger.setLevel(before[3])


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM is Ctrl-C; training itself, which has something to save first, handles both otherwise."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
