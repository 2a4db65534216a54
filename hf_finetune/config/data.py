"""The part of a recipe that says what it is made for: labeled texts or images. See `recipe`."""

from __future__ import annotations

from typing import Annotated, Any

import tyro
from annotated_types import Ge, Interval

from hf_finetune.augmentation.compose import ImageAugmentation, TextAugmentation
from hf_finetune.utils.config import Count, CountOrZero, Fraction, Operations, Seed, configclass


def flag(*aliases: str) -> Any:
    """A nested field that also has short names on the command line (`--epochs` for `--train.num-train-epochs`)."""
    return tyro.conf.arg(aliases=aliases)


@configclass
class Data:
    """Labelled rows, and how they are divided."""

    path: str
    """Hub id; csv/tsv/json/jsonl file of texts, or parquet file; or a folder: of split files, or of one sub-folder a class, of .txt
    files or of images."""
    config_name: Annotated[str | None, flag("--config-name")] = None
    """Configuration of a Hub data set (`mnli` of `nyu-mll/glue`)."""
    revision: Annotated[str | None, flag("--revision")] = None
    """Branch, tag or commit of a Hub data set."""
    validation: Annotated[str | None, flag("--validation")] = None
    """Validation rows: the name of a split of the data, or a file or folder of its own. Default: the data's own, else carved
    from train."""
    test: Annotated[str | None, flag("--test")] = None
    """Test rows: the name of a split of the data, or a file or folder of its own."""
    label: Annotated[str | None, flag("--label")] = None
    """Column of the class. Default: the obvious one, said aloud."""
    validation_fraction: Fraction = 0.1
    """Share of the training rows carved off for validation when the data has none."""
    test_fraction: Fraction = 0.0
    """Share of the rows carved off for test when the data has none. 0: no test split, and no claim about test."""
    split_seed: Seed = 0
    """Seed of the carving; apart from `train.seed`, so that runs with other seeds are judged on the same rows."""
    max_train_rows: Annotated[Annotated[int, Ge(2)] | None, flag("--max-train-rows")] = None
    """Train on this many rows at most, drawn with `split_seed`, the classes' shares kept."""
    rows_per_class: Annotated[Count | None, flag("--rows-per-class")] = None
    """Train on this many rows of each class at most, drawn with `split_seed`; those of a smaller number are among those of a
    larger one."""
    unlabeled: Annotated[tuple[str, ...], flag("--unlabeled")] = ()
    """More training rows for a teacher, labels not looked at: splits by name, files or folders with the same columns, or train
    itself, for what `max_train_rows` leaves. Rows that are scored or in train already are left out."""
    license: str | None = None
    """Licence of the data, for the model card."""
    name: str | None = None
    """What the card calls data that are not on the Hub. None: the last part of their path."""


@configclass
class TextData(Data):
    """Labelled texts, or pairs of texts."""

    text: Annotated[str | None, flag("--text")] = None
    """Column of the text. Default: the obvious one, said aloud."""
    text_pair: Annotated[str | None, flag("--text-pair")] = None
    """Column of the second text, for sentence pairs."""
    max_length: Annotated[int, Ge(4), flag("--max-length")] = 128
    """Longest text in tokens, special tokens included; the rest is cut off. Stored with the tokenizer."""
    augment: Operations[TextAugmentation] = ()
    """Operations that change the training texts at random, in order: another view of every row in every epoch; see
    `augmentation.text.operations` and `augmentation.compose`. Rows that are scored stay as they are."""
    augment_copies: CountOrZero = 0
    """Instead, keep every row as it is and put so many changed copies of it beside it, made once before training. 0: none."""
    encoding: str = "utf-8"
    """Encoding of text files."""


@configclass
class ImageData(Data):
    """Labeled images."""

    image: Annotated[str | None, flag("--image")] = None
    """Column of the image. Default: the obvious one, said aloud."""
    augment: Operations[ImageAugmentation] = ()
    """Operations that change the training images at random, in order, at the size the network reads: another view of every
    row in every epoch; see `augmentation.image.operations` and `augmentation.compose`. Rows that are scored stay as they are."""
    augment_copies: CountOrZero = 0
    """Instead, keep every row as it is and put so many changed copies of it beside it, made once before training, all of them
    on the disk whatever `decode_once` says. 0: none."""
    decode_once: bool = True
    """Keep the resized pixels of all images on the disk, within `batching.cache_gb`, and read them from there in every
    epoch and every later run: the same pixels to the bit. False: decode every image whenever it comes up."""
    low_resolution: Annotated[int, Ge(8)] | None = None
    """Pixels of the images' shorter side in the first part of the training, rounded to whole patches: 160 of 224 costs
    about half. The rest of the training and every evaluation see full size. None: full size throughout."""
    low_resolution_share: Annotated[float, Interval(gt=0, le=1)] = 0.67
    """Share of the optimizer steps that `low_resolution` holds for."""
