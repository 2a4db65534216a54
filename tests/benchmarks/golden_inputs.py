"""The data, checkpoints and teachers that the runs of golden.py read: small, seeded, and made without hf_finetune."""

from __future__ import annotations

import csv
import random
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skops import io
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)
from transformers.utils import logging

Text = tuple[str, str]

SHARES = {"alpha": 4, "beta": 2, "gamma": 1}
"""Classes, and how frequent they are."""
SIGNALS = {"alpha": "zorvan kelit mubra", "beta": "drosk fenwil tapor", "gamma": "quizzle hesp narvo"}
"""Made-up words, each of one class alone."""
FILLERS = (
    "big small old new good long short red dark quick quiet house river garden window letter morning bridge engine market "
    "island ticket forest open close follow carry hide paint repair forget measure cross find the a of and with"
)

TEXT_ENCODER: dict[str, Any] = {"initializer_range": 0.1, "max_position_embeddings": 64}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "vit": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.1,
    },
    "poolformer": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "mlp_ratio": 2.0,
        "layer_scale_init_value": 0.5,
        "initializer_range": 0.1,
    },
}


def write(folder: Path) -> None:
    """Write all inputs to an empty folder."""
    rng = random.Random(0)
    splits = {"train": list(texts(rng, 200)), "test": list(texts(rng, 60))}
    for name, rows in splits.items():
        write_csv(folder / "texts" / f"{name}.csv", ("text", "label"), rows)
        write_csv(folder / "pairs" / f"{name}.csv", ("first", "second", "label"), pairs(rng, 120))
        write_images(folder / "images" / name, rng, 60)
    write_csv(folder / "more.csv", ("text",), ((text,) for text, _ in texts(rng, 80)))
    write_teachers(folder, splits)
    write_checkpoints(folder)


def texts(rng: random.Random, count: int) -> Iterable[Text]:
    """Texts of 4 to 22 words, a quarter of them of the class; of one in ten the label is drawn anew."""
    for _ in range(count):
        label = drawn(rng)
        length = rng.randint(3, 16)
        words = rng.choices(FILLERS.split(), k=length) + rng.choices(SIGNALS[label].split(), k=1 + length // 3)
        rng.shuffle(words)
        yield " ".join(words), label if rng.random() < 0.9 else drawn(rng)


def drawn(rng: random.Random) -> str:
    """A class by its share."""
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def pairs(rng: random.Random, count: int) -> Iterable[tuple[str, str, str]]:
    """Two texts, and whether they are of one class."""
    for _ in range(count):
        (first, one), (second, other) = texts(rng, 2)
        yield first, second, "same" if one == other else "different"


def write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Rows below the names of their columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_images(folder: Path, rng: random.Random, count: int) -> None:
    """One folder a class of 32x32 noise: dark, bright or striped; of one in ten the class is drawn anew."""
    noise = np.random.default_rng(rng.randrange(2**32))
    stripes = 40 * (np.arange(32) // 4 % 2)[:, None, None]
    added = {"dark": 0, "bright": 20, "striped": stripes}
    for i in range(count):
        label = list(added)[i % 3]
        pixels = noise.integers(0, 180, (32, 32, 3)) + noise.integers(0, 30) + added[label]
        path = folder / (label if rng.random() < 0.9 else rng.choice(list(added))) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_teachers(folder: Path, splits: dict[str, list[Text]]) -> None:
    """A scikit-learn pipeline, and the probabilities that it gives to every text, in another order of the classes."""
    given, labels = zip(*splits["train"], strict=True)
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0)).fit(given, labels)
    io.dump(pipeline, folder / "linear.skops")
    everything = list(dict.fromkeys(text for rows in splits.values() for text, _ in rows))
    columns = zip(pipeline.classes_, pipeline.predict_proba(everything).T, strict=True)
    table = {"text": everything} | {f"p:{name}": column for name, column in reversed(list(columns))}
    pq.write_table(pa.table(table), folder / "predictions.parquet")


def write_checkpoints(folder: Path) -> None:
    """A network of each family with its tokenizer or image processor, random but for the words of a class: they are
    alike."""
    logging.disable_progress_bar()
    for seed, (family, size) in enumerate(ENCODERS.items()):
        torch.manual_seed(seed)
        if family in ("vit", "poolformer"):
            AutoModel.from_config(AutoConfig.for_model(family, **size)).save_pretrained(folder / family)
            ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / family)
            continue
        tokenizer = word_tokenizer()
        model = AutoModelForMaskedLM.from_config(
            AutoConfig.for_model(family, vocab_size=len(tokenizer), **TEXT_ENCODER, **size)
        )
        words = model.get_input_embeddings().weight.data
        for signals in SIGNALS.values():
            words[tokenizer.convert_tokens_to_ids(signals.split())] = torch.randn(words.shape[1])
        model.save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece of the words and of single characters."""
    letters = string.ascii_lowercase + string.digits
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *string.punctuation, *(f"##{c}" for c in letters)]
    pieces += " ".join([FILLERS, *SIGNALS.values()]).split()
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
