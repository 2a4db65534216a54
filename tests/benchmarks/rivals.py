"""The other sides of few_labels.py and equal_time.py, and the rows that all sides train on.

    python tests/benchmarks/rivals.py SIDE FOLDER CHECKPOINT --seconds 30 [--seed 0] [--rate 1e-4]

trains on the train file of FOLDER within these seconds of the process, imports included, and prints a line of JSON: the
class predicted for each row of test, which is outside the time. A network trains as many steps as the time allows, by a
schedule of that length; the steps that measure this are outside the time, too. Nothing here imports the package.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

MOST_EPOCHS, FEWEST_STEPS = 10, 300
"""A schedule ends after so many epochs, or the steps if those are more, even if there is time left."""
MEASURED = 16
"""Batches whose steps are measured."""


def read_split(folder: Path, name: str) -> pd.DataFrame:
    """The texts and labels of a split."""
    csv = folder / f"{name}.csv"
    table = pd.read_csv(csv) if csv.exists() else pd.read_parquet(folder / f"{name}.parquet")
    return table[["text", "label"]].astype(str)


def sampled_test(folder: Path, rows: int) -> pd.DataFrame:
    """The test rows that are the same for all seeds."""
    test = read_split(folder, "test")
    return test.sample(min(rows, len(test)), random_state=0)


def draw(
    folder: Path, rows: int | None, per_class: int | None, seed: int, test_rows: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training rows of a seed, all where no number is given; and the test rows of their classes, of any seed."""
    train, test = read_split(folder, "train"), sampled_test(folder, test_rows)
    if per_class is not None:
        train = train.groupby("label").sample(per_class, random_state=seed).sample(frac=1, random_state=seed)
    elif rows is not None:
        train = train.sample(rows, random_state=seed)
    return train, test[test.label.isin(set(train.label))]


class Deadline:
    """The seconds that a process has, from its start."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, psutil.Process().create_time() + seconds

    @property
    def left(self) -> float:
        return self.end - time.time()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What does not count."""
        started = time.time()
        yield
        self.end += time.time() - started


@dataclass
class Fitted:
    """A trained side."""

    predict: Callable[[Sequence[str]], Sequence[str]]
    facts: dict[str, Any] = field(default_factory=dict)


def linear(train: pd.DataFrame, checkpoint: str, seed: int, deadline: Deadline | None = None) -> Fitted:
    """TF-IDF of words and word pairs with logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000, tol=1e-3))
    return Fitted(model.fit(train.text, train.label).predict)


def probe(train: pd.DataFrame, checkpoint: str, seed: int, deadline: Deadline | None = None) -> Fitted:
    """Logistic regression on the embeddings of sentence-transformers, of the rows whose embedding fits into the time."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    model = SentenceTransformer(checkpoint, device="cpu")
    model.max_seq_length = 128
    embed = partial(model.encode, show_progress_bar=False)
    train, parts = train.sample(frac=1, random_state=seed), []
    for start in range(0, len(train), 256):
        # The rest is enough for the regression of the largest set here.
        if parts and deadline is not None and deadline.left < min(0.25 * deadline.seconds, 15):
            break
        parts.append(embed(list(train.text[start : start + 256])))
    features = np.concatenate(parts)
    head = LogisticRegression(max_iter=1000).fit(features, train.label[: len(features)])
    return Fitted(lambda texts: head.predict(embed(list(texts))), {"embedded_rows": len(features)})


def stock_trainer(
    train: pd.DataFrame, checkpoint: str, seed: int, deadline: Deadline | None = None, *, rate: float = 1e-4
) -> Fitted:
    """The tuned Trainer of stock_trainer.py on all rows: three epochs, or the steps that fit into the time."""
    from datasets import Dataset
    from stock_trainer import COMMON, TUNED
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    labels, tokenizer = sorted(set(train.label)), AutoTokenizer.from_pretrained(checkpoint)

    def encoded(texts: Sequence[str], **columns: list[int]) -> Dataset:
        tokens = tokenizer(list(texts), truncation=True, max_length=128)
        return Dataset.from_dict({**tokens, "length": [len(ids) for ids in tokens["input_ids"]], **columns})

    def built(rows: Dataset, folder: str, **options: Any) -> Trainer:
        set_seed(seed)
        arguments = TrainingArguments(
            folder,
            per_device_eval_batch_size=64,
            learning_rate=rate,
            save_strategy="no",
            seed=seed,
            **{"train_sampling_strategy": "group_by_length", **COMMON, **TUNED, **options},
        )
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=len(labels))
        return Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))

    def trained(rows: Dataset, folder: str, **length: float) -> tuple[Trainer, float]:
        started, trainer = time.time(), built(rows, folder, **length)
        if deadline is not None:
            trainer.add_callback(_stop_at(deadline))
        trainer.train()
        return trainer, time.time() - started

    rows, batch = encoded(train.text, labels=[labels.index(label) for label in train.label]), 32
    length: dict[str, float] = {"num_train_epochs": 3}
    with tempfile.TemporaryDirectory() as folder:
        if deadline is not None:
            epoch = -(-len(rows) // batch)
            with deadline.outside():
                # Of each length, as the batches of group_by_length are.
                by_length = np.argsort(rows["length"][:], kind="stable")
                count = min(MEASURED, epoch)
                starts = ((np.arange(count) + 0.5) / count * max(len(rows) - batch, 0)).astype(int)
                sample = rows.select(np.concatenate([by_length[start : start + batch] for start in starts]))
                passes = {"max_steps": max(2 * count, 6), "train_sampling_strategy": "sequential"}
                step_s = _seconds_of_step(built(sample, folder, **passes), skipped=count)
            most = max(MOST_EPOCHS * epoch, FEWEST_STEPS)
            length = {"max_steps": _steps(deadline.left, step_s, most)}
        trainer, train_s = trained(rows, folder, **length)
        for _ in range(3):
            if deadline is None or length["max_steps"] == most or deadline.left < 0.1 * deadline.seconds:
                break
            # The measured steps were slower. This training is the measurement now.
            deadline.end += train_s
            length = {"max_steps": _steps(deadline.left, train_s / length["max_steps"], most)}
            trainer, train_s = trained(rows, folder, **length)
    # group_by_length would reorder the predictions.
    trainer.args.train_sampling_strategy = "random"

    def predict(texts: Sequence[str]) -> list[str]:
        return [labels[i] for i in trainer.predict(encoded(texts)).predictions.argmax(-1)]

    return Fitted(predict, {"steps": trainer.state.global_step, "planned_steps": trainer.state.max_steps})


def setfit(train: pd.DataFrame, checkpoint: str, seed: int, deadline: Deadline | None = None) -> Fitted:
    """SetFit with its defaults, in bf16 as the other sides: an epoch of pairs, or the steps that fit into the time."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    rows = Dataset.from_dict({"text": list(train.text), "label": list(train.label)})
    with tempfile.TemporaryDirectory() as folder:

        def built(steps: int) -> Trainer:
            options = {"seed": seed, "report_to": "none", "use_amp": True, "max_steps": steps}
            model = SetFitModel.from_pretrained(checkpoint)
            return Trainer(model, TrainingArguments(output_dir=folder, **options), train_dataset=rows)

        steps = -1
        if deadline is not None:
            with deadline.outside():
                trainer = built(2 * MEASURED)
                texts, labels = list(train.text), list(train.label)
                pairs = len(trainer.get_dataset(texts, labels, args=TrainingArguments(output_dir=folder))[0])
                step_s = _seconds_of_step(trainer.st_trainer, skipped=MEASURED, train=trainer.train)
            steps = _steps(deadline.left, step_s, -(-pairs // trainer.args.embedding_batch_size))
        for _ in range(3):
            started, trainer = time.time(), built(steps)
            trainer.train()
            if deadline is None or deadline.left > -0.1 * deadline.seconds or steps == 1:
                break
            # Its pairs, and the head at the end, take time, too: again with as many steps fewer.
            steps = max(1, steps + math.floor(deadline.left / step_s))
            deadline.end += time.time() - started
    return Fitted(trainer.model.predict, {"steps": trainer.st_trainer.state.global_step})


def autogluon(train: pd.DataFrame, checkpoint: str, seed: int, deadline: Deadline | None = None) -> Fitted:
    """AutoGluon MultiModal with the same checkpoint and its own time limit."""
    from autogluon.multimodal import MultiModalPredictor

    predictor = MultiModalPredictor(label="label", path=tempfile.mkdtemp(), verbosity=0)
    limit = None if deadline is None else deadline.left
    predictor.fit(train, time_limit=limit, seed=seed, hyperparameters={"model.hf_text.checkpoint_name": checkpoint})
    return Fitted(lambda texts: predictor.predict(pd.DataFrame({"text": list(texts)})))


def _seconds_of_step(trainer: Any, skipped: int, train: Callable[[], Any] | None = None) -> float:
    """Mean time of a step of a Trainer, after so many that build kernels."""
    from transformers import TrainerCallback

    ended: list[float] = []

    class Times(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ended.append(time.perf_counter())

    trainer.add_callback(Times())
    (train or trainer.train)()
    return (ended[-1] - ended[skipped - 1]) / (len(ended) - skipped)


def _steps(left: float, step_s: float, most: int) -> int:
    """Steps that fit into the time, with a second for what surrounds them."""
    return max(1, min(int(0.98 * (left - 1) / step_s), most))


def _stop_at(deadline: Deadline) -> Any:
    """What ends a training whose steps took longer than the measured ones."""
    from transformers import TrainerCallback

    class StopAt(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
            if deadline.left < -0.05 * deadline.seconds:
                control.should_training_stop = True

    return StopAt()


SIDES = {"linear": linear, "probe": probe, "trainer": stock_trainer, "setfit": setfit, "autogluon": autogluon}


def main() -> None:
    """Train a side, and print what it predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoint")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, help="learning rate of the Trainer")
    options = parser.parse_args()
    deadline = Deadline(options.seconds)
    if options.side != "linear":
        import torch

        torch.set_float32_matmul_precision("medium")
    more = {} if options.rate is None else {"rate": options.rate}
    train = read_split(options.folder, "train")
    fitted = SIDES[options.side](train, options.checkpoint, options.seed, deadline, **more)
    wall_s = deadline.seconds - deadline.left
    predicted = list(map(str, fitted.predict(list(read_split(options.folder, "test").text))))
    json.dump({"predicted": predicted, "wall_s": round(wall_s, 1), **fitted.facts}, sys.stdout)


if __name__ == "__main__":
    main()
