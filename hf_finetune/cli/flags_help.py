"""`train --help` and `run RECIPE --help`: the flags that people use. `--help-all [SECTION]`: the others."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from hf_finetune.cli.parsing import parse
from hf_finetune.errors import InputError

COMMON: dict[str, tuple[tuple[str, str], ...]] = {
    "data": (
        ("--text COL, --text-pair COL", "columns of the text, if not the obvious"),
        ("--image COL", "column of the image"),
        ("--label COL", "column of the class, tags or number"),
        ("--task, --label-separator", "multi-label, regression; between tags"),
        ("--validation, --test SPLIT|DATA", "default: the data's own, else held out"),
        ("--max-length 128", "tokens that are read at once"),
        ("--long head-tail|sliding", "what is read of longer texts"),
        ("--max-train-rows, --rows-per-class N", "train on fewer rows"),
        ("--drop-bad-rows", "leave out rows that cannot be used"),
        ("--augment YAML", "experimental: change rows, as [SwapWords]"),
    ),
    "model": (
        ("--model CKPT", "Hub id or folder of a checkpoint"),
        ("--method full|lora|top|head|auto", "what trains; auto: what is best in time"),
        ("--teacher MODEL", "distill a larger classifier"),
    ),
    "training": (
        ("--epochs N", "passes over the rows: 3, of few rows more"),
        ("--lr X", "peak learning rate; the method has one"),
        ("--batch-size 32", "rows of a forward pass"),
        ("--weight-decay, --warmup X", "warm-up: steps, or a share below 1"),
        ("--scheduler, --optimizer NAME", "cosine, ...; Lion, SGD, ..."),
        ("--label-smoothing, --sampling", "targets and classes of unlike size"),
        ("--early-stopping-patience N", "epochs without a better metric"),
        ("--budget 5m, --preset fast|good|best", "how long method auto tries"),
        ("--seed 0, --seeds N", "of the head, batches, dropout; N runs"),
        ("--mixed-precision no|bf16|fp16", "number format"),
        ("--num-processes N", "processes of this machine"),
        ("--find-lr", "only propose a learning rate"),
    ),
    "result": (
        ("--folds K, --group COL", "estimate out of fold, train on all rows"),
        ("--output DIR, --resume", "default: runs/NAME-N; continue its run"),
        ("--save-every 10m", "checkpoints within an epoch"),
        ("--push REPO, --private", "push to the Hub"),
        ("--report-to NAME,NAME", "tensorboard, trackio, wandb, mlflow"),
        ("--config FILE", "YAML of fields, or a run's recipe.json"),
        ("--json", "print only the result, as JSON"),
    ),
}
"""The flags that people use, by subject, with a few words on each."""


def print_help(recipe: Any, arguments: Sequence[str], prog: str) -> None:
    """Print one screen of help, or that of a section, and leave; return if all flags are requested.

    Args:
        recipe: has the defaults, and the sections.

    Raises:
        SystemExit: the help was printed.
        InputError: there is no such section.
    """
    if "--help-all" not in arguments:
        print(common_help(prog))
        raise SystemExit(0)
    following = list(arguments)[list(arguments).index("--help-all") + 1 :][:1]
    sections = {name: hint for name, hint in typing.get_type_hints(type(recipe), include_extras=True).items()}
    configs = {name for name in sections if dataclasses.is_dataclass(getattr(recipe, name))} - {"adapter"}
    sections = {name: hint for name, hint in sections.items() if name in configs}
    if following and not following[0].startswith("-"):
        section = following[0].replace("-", "_")
        if section not in sections:
            raise InputError(f"--help-all {following[0]}: no such section; one of {', '.join(sections)}")
        field = (section, sections[section], dataclasses.field(default=getattr(recipe, section)))
        part = dataclasses.make_dataclass("Section", [field], frozen=True)
        part.__doc__ = f"The flags of the section {section}."
        parse(part, ["--help"], prog)


def common_help(prog: str) -> str:
    """Return one screen of help."""
    usage = f"usage: {prog}{' DATA' if prog.endswith('train') else ''} [flags]"
    lines = [usage]
    for subject, flags in COMMON.items():
        lines.append(f"{subject}:")
        lines += [f"  {flag:<36} {text}".rstrip() for flag, text in flags]
    lines.append("--help-all lists all flags, --help-all optim those of a section: data, model,")
    lines.append("lora, pretrain, objective, regularize, train, batching, precision, optim,")
    lines.append("schedule, averaging, evaluate, hub, search")
    return "\n".join(lines)
