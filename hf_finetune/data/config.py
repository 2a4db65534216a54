"""Configuration of data: where labeled rows are, which columns to read, and how the rows are split."""

import csv
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from annotated_types import Ge

from hf_finetune.utils.config import Count, Fraction, Seed, between, configclass, flag
from hf_finetune.utils.sequences import SequenceKind

Kind = Literal["text", "image"]


def _separated(arguments: list[str]) -> tuple[str, ...]:
    """Split `neg,pos`; a name with a comma is quoted, as in a csv file."""
    return tuple(name.strip() for name in next(csv.reader(arguments, skipinitialspace=True), []))


ClassNames = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME,NAME,...",
        instance_from_str=_separated,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [",".join(names)],
    ),
]


def _separated_or_apart(arguments: list[str]) -> tuple[str, ...]:
    return tuple(name for argument in arguments for name in _separated([argument]) if name)


ColumnNames = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="COL [COL ...]",
        instance_from_str=_separated_or_apart,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    ),
]


def _one_or_several(arguments: list[str]) -> str | tuple[str, ...] | None:
    names = _separated(arguments)
    return (None if names[0] == "None" else names[0]) if len(names) == 1 else names or None


def column_title(label: str | tuple[str, ...] | None) -> str | None:
    """Return the name of one column, or what several together are called."""
    if label is None or isinstance(label, str):
        return label
    return ",".join(label) if len(label) <= SPELLED_COLUMNS else f"{','.join(label[:2])},... ({len(label)} columns)"


SPELLED_COLUMNS = 6
"""Columns of tags or targets that are named together in messages."""
LabelColumns = Annotated[
    str | tuple[str, ...] | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="COL[,COL,...]",
        instance_from_str=_one_or_several,
        is_instance=lambda value: value is None or isinstance(value, str | tuple),
        str_from_instance=lambda label: [label if isinstance(label, str) else ",".join(label or ("None",))],
    ),
]
FEATURE = "feature:"
"""Before the name of a source's column, in the canonical name of a feature column."""
Role = Literal["train", "validation", "test"]
TaskName = Literal["single-label", "ordinal", "multi-label", "regression", "tokens"]
Activation = Literal["softmax", "sigmoid", "identity"]
"""How logits become predictions. softmax: one of several classes; sigmoid: each output by itself, as tags; identity:
numbers."""


@configclass
class DataLimits:
    """Limits on data that others made: what is beyond them is refused before it fills the memory."""

    text_characters: Count = 1_000_000
    """Longest text in characters."""
    row_characters: Count = 20_000_000
    """Longest line of a text file, or longest JSON that is read at once: a row, or an object of columns."""
    rows: Count = 1_000_000
    """Largest number of rows of a file, unless it is below the bytes of the file: of a compressed file, a parquet file,
    or a folder of `save_to_disk`."""
    blank_lines: Count = 100_000
    """Largest number of blank lines between two lines of a text file."""
    columns: Count = 100_000
    """Largest number of columns of a table."""
    image_pixels: Annotated[int, between(1, 178_956_970)] = 50_000_000
    """Largest image in decoded pixels; Pillow refuses more than 178,956,970. A JPEG of more than 50,000,000 pixels is
    decoded at half its width and height, or less. A pixel of JPEG 2000 counts as four, one of WebP or AVIF as two,
    one of a progressive JPEG once for every ten scans, and a byte of plain PBM, PGM, PPM or run-length BMP as ten."""
    image_ratio: Count = 100
    """Largest ratio of the sides of an image. Many processors set the shorter side, and the longer one follows."""
    image_bytes: Count = 200_000_000
    """Largest image file in bytes."""
    image_reads: Count = 30_000
    """Largest number of parts in which Pillow reads an image file, unless it is below a thousandth of the bytes of the
    file: headers, texts, comments, tiles. A text of a PNG is three. It reads them whenever it opens the image."""
    decoded_bytes: Count = 100_000_000
    """Largest decoded size in bytes of a compressed file, an Excel workbook, or the columns that are read of a parquet
    file, unless it is below 20 times the size of the file."""
    workbook_elements: Count = 3_000_000
    """Largest number of XML elements of an Excel workbook, unless it is below the bytes of the file. A cell is two. A
    row, a text or the styles may have a thirtieth of it."""
    label_characters: Count = 1_000
    """Longest label in characters."""
    classes: Count = 1_000
    """Largest number of classes, unless every class has 10 training rows on average."""
    compared_characters: Count = 50_000_000
    """Characters of the texts that `doctor` compares with one another. Of longer texts together, random rows. Those of
    a text that is not ASCII count as three."""


DEFAULT_LIMITS = DataLimits()


@dataclass(frozen=True)
class Source:
    """Rows on disk or on the Hub, and the columns to read."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Hub id, csv/tsv/json/jsonl/xlsx/parquet file, or folder."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    text: str | None = None
    """Column of the text. Default: the obvious one."""
    text_pair: str | None = None
    """Column of the second text."""
    image: str | None = None
    """Column of the image. Default: the obvious one."""
    label: LabelColumns = None
    """Column of the class. Default: the obvious one. One column for each tag or target: their names, or tag_*."""
    features: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Columns of numbers and of names that are features beside the text or the image."""
    label_names: ClassNames = ()
    """Names of classes that are numbered, in the order of the numbers: neg,pos for 0 and 1."""
    label_order: ClassNames = ()
    """Names of ordered classes, the lowest first, for `--task ordinal`."""
    task: TaskName | None = None
    """What the label is: one class, an ordered one, several tags, a number, or a tag for each word. Default: by the
    content of its column."""
    label_separator: str | None = None
    """Character between the tags of a text."""
    sequence: SequenceKind | None = None
    """What the texts are: sequences of DNA, RNA or protein. Default: texts, or what the model was trained on."""
    encoding: Annotated[str | None, flag("--data.encoding")] = None
    """Encoding of text files. Default: utf-8."""
    sheet: Annotated[str | None, flag("--data.sheet")] = None
    """Sheet of an Excel workbook. Default: the first one."""
    image_root: Annotated[str | None, flag("--data.image-root")] = None
    """Folder of the images that a table names by their path. Default: that of the table."""
    limits: Annotated[DataLimits, tyro.conf.arg(name="data.limits")] = DEFAULT_LIMITS
    """Limits on the data."""
    drop_bad_rows: bool = False
    """Leave out rows that cannot be used, and count them, in place of refusing the data."""

    def columns(self, kind: Kind) -> dict[str, str | None]:
        """Return the columns to read, by canonical name. None: the obvious one."""
        inputs = {"text": self.text, "text_pair": self.text_pair} if kind == "text" else {"image": self.image}
        return {**inputs, "label": column_title(self.label), **{FEATURE + name: name for name in self.features}}

    def elsewhere(self, path: str) -> "Source":
        """Return other rows, which are read in the same way: all splits and columns of another path."""
        sheet = self.sheet if path.lower().endswith(".xlsx") else None
        return Source(
            path,
            label=self.label,
            label_names=self.label_names,
            label_order=self.label_order,
            task=self.task,
            label_separator=self.label_separator,
            sequence=self.sequence,
            encoding=self.encoding,
            sheet=sheet,
            image_root=self.image_root,
            limits=self.limits,
            drop_bad_rows=self.drop_bad_rows,
        )


@dataclass(frozen=True)
class SourceSplit(Source):
    """Rows to predict or to evaluate on."""

    split: str | None = None
    """Split of the data. Default: test, else validation, else train. The log names it."""


@configclass
class SplitOptions:
    """How labeled rows are split into training, validation and test rows."""

    validation: Annotated[str | None, flag("--validation")] = None
    """Validation rows: a split of the data by its name, or a file or folder. Default: the data's own validation split,
    else a part held out from the training rows."""
    test: Annotated[str | None, flag("--test")] = None
    """Test rows: the name of a split of the data, or a file or folder. Default: the data's own."""
    validation_fraction: Fraction = 0.1
    """Share of the training rows to hold out for validation when the data has no validation split."""
    test_fraction: Fraction = 0.0
    """Share of the rows to hold out for test when the data has no test split. 0: no test split, and no claim about
    test."""
    split_seed: Seed = 0
    """Seed of the held-out splits. It is separate from `train.seed`, so that runs with other seeds are compared on the
    same rows."""
    max_train_rows: Annotated[Annotated[int, Ge(2)] | None, flag("--max-train-rows")] = None
    """Train on this many rows at most, drawn with `split_seed` in the proportions of the classes."""
    rows_per_class: Annotated[Count | None, flag("--rows-per-class")] = None
    """Train on this many rows of each class at most, drawn with `split_seed`. A smaller number is a subset of a larger
    one."""
    unlabeled: Annotated[tuple[str, ...], flag("--unlabeled")] = ()
    """More training rows for a teacher, whose labels are not used: splits by name, files or folders with the same
    columns, or train itself, for what `max_train_rows` leaves out. Validation, test and training rows among them are
    dropped."""
