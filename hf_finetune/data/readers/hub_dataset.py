"""Reader of data sets on the Hugging Face Hub, with a one-line error and remedy for every failure of `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from datasets.exceptions import DatasetNotFoundError

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.image_paths import hub_folder
from hf_finetune.data.readers.dataset_split import DatasetSplit
from hf_finetune.data.readers.parquet_file import arrow_columns
from hf_finetune.data.readers.table import Column
from hf_finetune.errors import InputError
from hf_finetune.utils.hub_requests import cause_of, download, download_failure, is_refused_token, is_transient


def hub_splits(
    path: str,
    config_name: str | None,
    revision: str | None,
    limits: DataLimits = DEFAULT_LIMITS,
    *,
    yields_faults: bool = False,
) -> dict[str, DatasetSplit]:
    """Download every split of a data set, or read it from the cache.

    Raises:
        InputError: the data set cannot be loaded; names the cause and the remedy.
    """
    with _one_line(path, revision):
        splits = download(lambda: datasets.load_dataset(path, config_name, revision=revision))
    images = hub_folder(path)
    return {
        name: DatasetSplit(f"{path}, split {name}", rows, images, limits, yields_faults)
        for name, rows in splits.items()
    }


def hub_columns(path: str, config_name: str | None, revision: str | None) -> dict[str, Column]:
    """Return the columns of a data set, without downloading rows if the repository declares them.

    Raises:
        InputError: see `hub_splits`.
    """
    with _one_line(path, revision):
        features = download(lambda: datasets.load_dataset_builder(path, config_name, revision=revision)).info.features
    if features is not None:
        return arrow_columns(features.arrow_schema, features)
    return next(iter(hub_splits(path, config_name, revision).values())).columns()


@contextmanager
def _one_line(path: str, revision: str | None) -> Iterator[None]:
    # This may run before `tasks.trained_model.quiet_libraries`; a progress bar would precede the error.
    datasets.disable_progress_bars()
    try:
        yield
    except Exception as error:  # datasets, huggingface_hub, the network and the parsers below each raise their own
        raise InputError(f"{path}: {_explained(error, revision)}") from error


def _explained(error: Exception, revision: str | None) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, DatasetNotFoundError):
        if "gated" in text:
            return "this Hub data set is gated; ask for access on its page, then log in with `hf auth login`"
        if "Revision" in text and revision is not None:
            return f"this Hub data set has no revision {revision!r}; name a branch, tag or commit of it by --revision"
        return (
            "no such file or folder here, and no such data set on the Hub; check the name, "
            "and if it is private log in with `hf auth login`"
        )
    if isinstance(error, ConnectionError):
        return (
            f"no such file or folder here, and the Hub cannot be reached ({text[:120]}); check the name and the "
            "network, or unset HF_HUB_OFFLINE"
        )
    names = re.search(r"(?:Available|available configs): \[(.*?)\]", text)
    if isinstance(error, ValueError) and names:
        return f"name one of its configurations by --config-name: {names[1].replace(chr(39), '')}"
    if "scripts are no longer supported" in text:
        return "this Hub data set is built by its own code, which is never run; try --revision refs/convert/parquet"
    request = cause_of(error)
    if is_refused_token(request) or is_transient(request):
        return download_failure(request)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OSError) and cause.errno is not None:
        return download_failure(cause)
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return f"this Hub data set cannot be read ({reason[:200]}); open it on the Hub and check its files"
