"""`hf-finetune predict`: predicted labels of new rows, texts or images."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hf_finetune.cli.classify import ClassifyJob, load_trained_classifier, parse_views
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.data.config import Kind, SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.utils.console import line_width, table
from hf_finetune.utils.messages import counted, cut_end, printable

STDIN = "-"
OUTPUT = "predictions.csv"
NARROWEST = 20
"""Columns for the input, however long the labels are."""


@dataclass(frozen=True)
class NewRows(SourceSplit):
    """Rows to label."""

    path: Annotated[str, tyro.conf.Suppress] = ""
    text: Annotated[str | None, tyro.conf.Suppress] = None
    text_pair: Annotated[str | None, tyro.conf.Suppress] = None


@dataclass(frozen=True)
class PredictJob(ClassifyJob):
    """Label rows of a file, or single texts and images."""

    data: Annotated[NewRows, tyro.conf.arg(name="")] = NewRows()
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = ()
    """Hub id, csv/tsv/json/jsonl/xlsx/parquet file, folder, image files, or - for stdin."""
    texts: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="text")] = ()
    """Without DATA: a text to label; give it several times for several texts. With DATA: see --text-column."""
    pairs: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="text-pair")] = ()
    """Without DATA: the second text of each. With DATA: see --text-pair-column."""
    text_column: str | None = None
    """Column of the text. Default: the one that the run was trained on, else the obvious one."""
    text_pair_column: str | None = None
    """Column of the second text. Default: as --text-column."""
    format: Literal["lines", "csv", "tsv", "json", "jsonl", "conll"] = "lines"
    """What stdin holds. lines: one text a line. conll: one word a line, blank lines between sentences."""
    output: Annotated[str | None, tyro.conf.arg(metavar="FILE.(csv|parquet|jsonl|conll)")] = None
    """File to write; .conll holds tags of words. Default: predictions.csv; predictions of stdin, single texts and
    images are printed."""
    overwrite: bool = False
    """Replace the output if it exists."""
    columns: bool = True
    """Carry the columns of the rows along, or the file names of a folder. Never with --digests."""
    digests: bool = False
    """Also write the SHA-256 of each row's text or image file: then a .parquet file can be a teacher,
    `train DATA --teacher FILE`, on a machine without the model."""


def predict(arguments: Sequence[str]) -> None:
    job = parse(PredictJob, arguments, "hf-finetune predict")
    views = parse_views(job)
    with _source(job) as source:
        is_printed = isinstance(source, list) or job.paths in ((), (STDIN,))
        output = job.output or (None if is_printed else OUTPUT)
        if output is not None:
            from hf_finetune.utils import tables

            path = source.path if isinstance(source, SourceSplit) else ""
            tables.check_output(Path(output), path, overwrite=job.overwrite)
        elif job.digests:
            raise InputError("--digests: expected --output with it, a file to write")
        with importing():
            from hf_finetune.inference import prediction
        classifier = load_trained_classifier(job)
        _check_kind(job, classifier.kind)
        result = prediction.predict(
            classifier,
            source,
            None if output is None else Path(output),
            batch_size=job.batch_size,
            precision=job.precision,
            views=views,
            digests=job.digests,
            columns=job.columns and not job.digests,
            collect=job.json or output is None,
            limits=job.data.limits,
        )
    if isinstance(source, list):
        for row in result.get("predictions", ()):
            row["input"] = source[row["row"]]
    if job.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    elif output is None:
        print(_table(result["predictions"]))
    else:
        print(f"{counted(result['rows'], 'row')} -> {output}")


@contextmanager
def _source(job: PredictJob) -> Iterator[SourceSplit | list[Any]]:
    """Yield what a job labels: rows of a file, or a list of texts, pairs of texts, or paths of images.

    Raises:
        InputError: there is nothing to label, or the arguments contradict each other.
    """
    paths = list(job.paths)
    if not paths and job.texts:
        if job.pairs and len(job.pairs) != len(job.texts):
            raise InputError(f"--text-pair: expected one for each of {len(job.texts)} --text, got {len(job.pairs)}")
        yield list(zip(job.texts, job.pairs, strict=True)) if job.pairs else list(job.texts)
        return
    if not paths and sys.stdin.isatty():
        raise InputError("hf-finetune predict: missing DATA; expected a file, image files, --text TEXT, or - for stdin")
    if paths and all(map(_is_image_file, paths)):
        yield paths
        return
    if len(paths) > 1:
        other = next(path for path in paths if not _is_image_file(path))
        raise InputError(f"{other}: expected one DATA, or image files; predict the others by themselves")
    columns: dict[str, Any] = {"text": _column("text", job.texts, job.text_column)}
    columns |= {"text_pair": _column("text-pair", job.pairs, job.text_pair_column)}
    rows = replace(SourceSplit(**vars(job.data)), path=paths[0] if paths else STDIN, **columns)
    if paths and paths[0] != STDIN:
        yield rows
    elif job.format == "lines":
        yield sys.stdin.read().splitlines()
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"stdin.{job.format}"
            path.write_bytes(sys.stdin.buffer.read())
            try:
                yield replace(rows, path=str(path))
            except InputError as error:
                raise InputError(str(error).replace(str(path), "stdin")) from None


def _check_kind(job: PredictJob, kind: Kind) -> None:
    """Refuse --text with a model of images, and image files, whose names would be labeled, with one of texts."""
    if kind == "image" and job.texts and not job.paths:
        raise InputError(f"--text: {job.model} classifies images; expected image files, a folder or a table as DATA")
    if kind == "text" and job.paths and all(map(_is_image_file, job.paths)):
        raise InputError(
            f"{job.paths[0]}: {job.model} classifies texts; expected a table, a folder of texts, or --text"
        )


def _column(flag: str, values: Sequence[str], column: str | None) -> str | None:
    """Return the column that a flag names where there are DATA."""
    if len(values) > 1 or (values and column is not None):
        raise InputError(f"--{flag} {values[-1]}: with DATA it names the column, once; leave out DATA to label texts")
    return values[0] if values else column


def _is_image_file(path: str) -> bool:
    from hf_finetune.data.image_decoding import SUFFIXES

    return path.lower().endswith(SUFFIXES) and Path(path).is_file()


def _table(predictions: Sequence[dict[str, Any]]) -> str:
    """Return the prediction and the input of each row, in the width of the terminal."""
    from rich.cells import cell_len

    answers = [_answer(row) for row in predictions]
    has_classes = all(isinstance(row["predicted"], str) for row in predictions)
    header = ("label", "probability") if has_classes else ("predicted", "")
    longest = max(map(cell_len, (header[0], *(answer for answer, _ in answers))))
    room = max(line_width() - longest - len(f"  {header[1]}  "), NARROWEST)
    lines = [(*header, "input")]
    for row, answer in zip(predictions, answers, strict=True):
        given = _one_line(row.get("input", f"row {row['row']}"))
        # The table cuts its first column in the middle, as names of classes differ at the end; a list of tags may not.
        shown = answer[0] if has_classes else cut_end(answer[0], line_width() - NARROWEST - 2)
        lines.append((shown, answer[1], cut_end(given, room)))
    return table(lines if has_classes else [(answer, given) for answer, _, given in lines], right=[1] * has_classes)


def _answer(row: dict[str, Any]) -> tuple[str, str]:
    """Return what is predicted for a row, and the probability of its class."""
    if "entities" in row:
        entities = row["entities"]
        return printable(", ".join(f"{e['text']} {e['label']} {e['score']:.2f}" for e in entities) or "(no entity)"), ""
    if "words" in row:
        tagged = zip(row["words"], row["predicted"], strict=True)
        return printable(" ".join(f"{word}/{tag}" for word, tag in tagged)), ""
    match row["predicted"]:
        case list() as tags:
            return printable(", ".join(f"{tag} {row[f'p:{tag}']:.2f}" for tag in tags) or "(no tag)"), ""
        case float() as number:
            return f"{number:.4g}", ""
        case label:
            return printable(label), f"{row[f'p:{label}']:.3f}"


def _one_line(given: Any) -> str:
    return printable(" ".join((given if isinstance(given, str) else " | ".join(given)).split()))
