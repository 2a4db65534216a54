"""`hf-finetune push`: push a finished run to the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.utils.console import Progress
from hf_finetune.utils.folder_lock import refuse_owned


@dataclass(frozen=True)
class PushJob:
    """Push a finished run to the Hub."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """Repository, `your-name/its-name`. It is created if it does not exist."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    benchmark: str | None = None
    """OWNER/DATASET:TASK, if the test rows are those of a registered benchmark: also send
    `.eval_results/DATASET.yaml`."""
    include_predictions: bool = False
    """Also send predictions.parquet, which quotes the labels of your data."""
    space: bool = False
    """Also publish a Space of this name: a page that runs the model, by Gradio."""


def push(arguments: Sequence[str]) -> None:
    job = parse(PushJob, arguments, "hf-finetune push")
    with importing():
        from hf_finetune.config.recipe import Hub
        from hf_finetune.pipeline.push import push_run, push_with_space

    target = Hub(
        repo_id=job.repo,
        private=job.private,
        revision=job.revision,
        create_pr=job.create_pr,
        benchmark=job.benchmark,
    )
    refuse_owned(Path(job.run))
    with Progress("push, pull back and compare", quiet=True):
        if job.space:
            pushed, page = push_with_space(Path(job.run), target, include_predictions=job.include_predictions)
            pages = [pushed.url, page]
        else:
            pages = [push_run(Path(job.run), target, include_predictions=job.include_predictions).url]
    print(*pages, sep="\n")
