"""The data of a recipe: labeled texts or images."""

from dataclasses import fields
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from hf_finetune.augmentation.compose import ImageAugmentation, TextAugmentation
from hf_finetune.data.config import (
    DEFAULT_LIMITS,
    ClassNames,
    ColumnNames,
    DataLimits,
    LabelColumns,
    Source,
    SplitOptions,
    TaskName,
)
from hf_finetune.data.long.config import TRUNCATE, Long
from hf_finetune.utils.config import Choice, CountOrZero, Operations, configclass, flag
from hf_finetune.utils.sequences import SequenceKind


@configclass
class Location:
    """Where labeled rows are."""

    path: str
    """A Hub id, a file, or a folder. Files: csv, tsv, json or jsonl (also .gz and .zst), xlsx, or parquet. Folders:
    split files, or one sub-folder per class with .txt files or images."""
    config_name: Annotated[str | None, flag("--config-name")] = None
    """Configuration of a Hub data set (`mnli` of `nyu-mll/glue`)."""
    revision: Annotated[str | None, flag("--revision")] = None
    """Branch, tag or commit of a Hub data set."""


@configclass
class Data(SplitOptions, Location):
    """Labeled rows, and how they are split."""

    label: Annotated[LabelColumns, flag("--label")] = None
    """Column of the class, the tags or the number. Default: the obvious one, which is printed. One column for each tag
    (0 or 1) or target (numbers): their names, or a pattern such as tag_*."""
    task: Annotated[TaskName | None, flag("--task")] = None
    """What is predicted: single-label (one class a row), ordinal (one of several ordered classes), multi-label (any
    number of tags), regression (a number), or tokens (a tag for each word). Default: by the columns, which is printed.
    Lists are tags, beside a list of as many words the tags of words; numbers with fractions are numbers; whole numbers
    are classes, in no order unless ordinal is named."""
    label_separator: Annotated[str | None, flag("--label-separator")] = None
    """Character between the tags of a text column, with multi-label. The default is a comma."""
    label_names: Annotated[ClassNames, ColumnNames, flag("--label-names")] = ()
    """Names of classes that are whole numbers or truth values, in the order of the numbers: neg,pos for 0 and 1. They
    are stored with the model, which knows the numbers, too."""
    features: Annotated[ColumnNames, flag("--features")] = ()
    """Columns that are read beside the text or the image, with method classical: of numbers, and of names. A column
    whose cells are all numbers holds numbers."""
    label_order: Annotated[ClassNames, ColumnNames, flag("--label-order")] = ()
    """Names of ordered classes, the lowest first: low,medium,high, with ordinal. Whole numbers need none."""
    sheet: str | None = None
    """Sheet of an Excel workbook. Default: the first one."""
    license: str | None = None
    """License of the data, for the model card."""
    name: str | None = None
    """Name of data that are not on the Hub, for the card. None: the last part of their path."""
    limits: DataLimits = DEFAULT_LIMITS
    """Limits on the data."""
    drop_bad_rows: Annotated[bool, flag("--drop-bad-rows")] = False
    """Leave out rows that cannot be used: without text or label, with a damaged image or text, beyond the limits. They
    are counted by split and reason, and listed in dropped.csv. False: the first one is refused."""

    @property
    def source(self) -> Source:
        """The rows and columns to read."""
        names = {field.name for field in fields(Source)}
        return Source(**{name: value for name, value in vars(self).items() if name in names})


@configclass
class TextData(Data):
    """Labeled texts, or pairs of texts."""

    kind: ClassVar[Literal["text"]] = "text"
    text: Annotated[str | None, flag("--text")] = None
    """Column of the text, or of the words with --task tokens. Default: the obvious one, which is printed."""
    text_pair: Annotated[str | None, flag("--text-pair")] = None
    """Column of the second text, for sentence pairs."""
    sequence: Annotated[SequenceKind | None, flag("--sequence")] = None
    """What the texts are: sequences of DNA, RNA or protein, whose letters are checked. None: texts of a language."""
    max_length: Annotated[int, Ge(4), flag("--max-length")] = 128
    """Longest text in tokens, special tokens included. Longer texts are truncated, or read as `long` says. The length
    is stored with the tokenizer."""
    long: Choice[Long] = TRUNCATE
    """What is read of longer texts: truncate, head-tail, sliding, chunk or auto, or one with fields, as
    `{type: sliding, stride: 16}`. truncate: their beginning. head-tail: their first and last tokens. sliding: windows
    that overlap, whose predictions are averaged. chunk: chunks whose vectors are combined before the head. auto: chosen
    by heads fitted to frozen features. It is stored with the model. Pairs of texts can only be truncated."""
    augment: Operations[TextAugmentation] = ()
    """Random operations on the training texts, in order: online augmentation, a new view of every example in every
    epoch. See `augmentation.text.operations` and `augmentation.compose`. Validation and test texts stay unchanged.
    Experimental: no better on movie reviews, emoji and fashion_mnist, and worse on 1,024 movie reviews
    (docs/benchmarks.md#augmentation)."""
    augment_copies: CountOrZero = 0
    """Offline augmentation instead: keep every text, and add this many augmented copies of it. The copies are made
    once, before training. 0: none."""
    encoding: str = "utf-8"
    """Encoding of text files."""


@configclass
class ImageData(Data):
    """Labeled images."""

    kind: ClassVar[Literal["image"]] = "image"
    image: Annotated[str | None, flag("--image")] = None
    """Column of the image. Default: the obvious one, which is printed."""
    image_root: str | None = None
    """Folder of the images that a table names by paths relative to it. Default: the folder of the table. Paths that
    lead out of it are refused."""
    augment: Operations[ImageAugmentation] = ()
    """Random operations on the training images, in order, at the network's image size: online augmentation, a new view
    of every example in every epoch. See `augmentation.image.operations` and `augmentation.compose`. Validation and test
    images stay unchanged. Experimental: no better on movie reviews, emoji and fashion_mnist, and worse on 1,024 movie
    reviews (docs/benchmarks.md#augmentation)."""
    augment_copies: CountOrZero = 0
    """Offline augmentation instead: keep every image, and add this many augmented copies of it. The copies are made
    once, before training, and stored on disk, regardless of `decode_once`. 0: none."""
    decode_once: bool = True
    """Cache the resized pixels of all images on disk, within `batching.cache_gb`, for every epoch and every later run.
    The pixels are bit-identical. False: decode an image at each use."""
    low_resolution: Annotated[int, Ge(8)] | None = None
    """Shorter side of the images in the first part of training, in pixels, rounded to whole patches. 160 instead of 224
    costs about half. The rest of training and all evaluation use full size. None: full size throughout.
    Experimental: its effect on quality was measured on single seeds or not at all (docs/limits.md)."""
    low_resolution_share: Annotated[float, Interval(gt=0, le=1)] = 0.67
    """Share of the optimizer steps at `low_resolution`."""
