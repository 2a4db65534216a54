"""The rival in tasks other than one class of a text: transformers' Trainer as its example scripts use it, tuned. One
process, one run, one line of JSON on stdout.

    python tests/benchmarks/stock_tasks.py DATA_FOLDER CHECKPOINT TASK SCORES.npz [--learning-rate 1e-4]

DATA_FOLDER is as `tasks.py rows` writes it. Settings are those of `stock_trainer.py --setting tuned`, and the epoch
with the best validation metric is kept. SCORES.npz has, by split, the probabilities or numbers, and of tokens the tag
of each word, -1 for a word that is cut off. They are computed in float32.
"""

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from scipy.special import expit, softmax
from stock_trainer import COMMON, TUNED, Clock
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

IGNORED = -100
PROBLEMS = {
    "multi-label": "multi_label_classification",
    "regression": "regression",
    "single-label": "single_label_classification",
}
CHOSEN_BY = {"multi-label": "micro_f1", "regression": "r2", "tokens": "accuracy", "single-label": "accuracy"}


def encode(rows: Dataset, tokenizer: Any, task: str, labels: list[str], max_length: int) -> Dataset:
    """Return token ids with the labels that the model's own loss takes."""
    ids = {name: i for i, name in enumerate(labels)}

    def targets(batch: dict[str, list], encoded: Any) -> list:
        if task == "regression":
            return [float(number) for number in batch["label"]]
        if task == "multi-label":
            return [[float(name in tags) for name in labels] for tags in batch["label"]]
        if task == "tokens":
            return [first_pieces(encoded.word_ids(i), tags, ids) for i, tags in enumerate(batch["label"])]
        return [ids[name] for name in batch["label"]]

    def one(batch: dict[str, list]) -> dict[str, list]:
        words = task == "tokens"
        texts = [batch["tokens"]] if words else [batch[name] for name in ("text", "text_pair") if name in batch]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, is_split_into_words=words)
        lengths = [len(each) for each in encoded["input_ids"]]
        return {**encoded, "length": lengths, "labels": targets(batch, encoded)}

    return rows.map(one, batched=True, remove_columns=rows.column_names)


def first_pieces(word_ids: list[int | None], tags: list[str], ids: dict[str, int]) -> list[int]:
    """Return the tag id of each token, which only the first piece of a word has."""
    before = [None, *word_ids]
    return [
        IGNORED if word is None or word == last else ids[tags[word]]
        for word, last in zip(word_ids, before, strict=False)
    ]


def metric(task: str) -> Any:
    """Return `compute_metrics` of the Trainer; micro F1 at the threshold that is best for all tags together."""

    def compute(prediction: tuple) -> dict[str, float]:
        logits, labels = prediction
        if task == "regression":
            error = ((logits.reshape(-1) - labels.reshape(-1)) ** 2).mean()
            return {"r2": float(1 - error / labels.var())}
        if task == "multi-label":
            order = np.argsort(-logits.ravel())
            right = labels.ravel()[order].cumsum()
            return {"micro_f1": float((2 * right / (np.arange(1, len(right) + 1) + right[-1])).max())}
        scored = labels != IGNORED
        return {"accuracy": float((logits.argmax(-1) == labels)[scored].mean())}

    return compute


def arguments(folder: str, task: str, options: argparse.Namespace) -> TrainingArguments:
    """Return the settings, see the module."""
    return TrainingArguments(
        folder,
        per_device_eval_batch_size=64,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=CHOSEN_BY[task],
        save_total_limit=1,
        logging_steps=500,
        seed=options.seed,
        **COMMON,
        **TUNED,
    )


def predict(model: torch.nn.Module, collate: Any, rows: Dataset, task: str, words_N: list[int]) -> np.ndarray:
    """Return the scores of rows in their order."""
    order = np.argsort(rows["length"][:], kind="stable")
    names = [name for name in rows.column_names if name not in ("length", "labels")]
    found: dict[int, np.ndarray] = {}
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64].tolist()
            picked = [{name: rows[i][name] for name in [*names, "labels"]} for i in chosen]
            batch = dict(collate(picked))
            labels = batch.pop("labels")
            logits = model(**batch).logits.float()
            for i, own, label in zip(chosen, logits.numpy(), labels.numpy(), strict=True):
                found[i] = own[label != IGNORED].argmax(-1) if task == "tokens" else own
    if task == "tokens":
        tags = [np.pad(found[i], (0, count - len(found[i])), constant_values=-1) for i, count in enumerate(words_N)]
        return np.concatenate(tags)
    logits_NC = np.stack([found[i] for i in range(len(rows))]).astype(np.float64)
    if task == "regression":
        return logits_NC[:, 0]
    return expit(logits_NC) if task == "multi-label" else softmax(logits_NC, axis=-1)


def main() -> None:
    """Train, write the scores of the validation and test rows, print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("checkpoint")
    parser.add_argument("task", choices=CHOSEN_BY)
    parser.add_argument("scores")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    task = options.task
    torch.set_float32_matmul_precision("medium")
    rows = load_dataset(
        "parquet", data_files={split: f"{options.data}/{split}.parquet" for split in ("train", "validation", "test")}
    )
    listed = task in ("multi-label", "tokens")
    column = rows["train"]["label"][:]
    labels = (
        sorted({name for each in column for name in each} if listed else set(column)) if task != "regression" else []
    )
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    encoded = {name: encode(part, tokenizer, task, labels, options.max_length) for name, part in rows.items()}
    if task == "tokens":
        collate: Any = DataCollatorForTokenClassification(tokenizer)
        model = AutoModelForTokenClassification.from_pretrained(options.checkpoint, num_labels=len(labels))
    else:
        collate = DataCollatorWithPadding(tokenizer)
        model = AutoModelForSequenceClassification.from_pretrained(
            options.checkpoint, num_labels=len(labels) or 1, problem_type=PROBLEMS[task]
        )
    clock = Clock(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            arguments(folder, task, options),
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            data_collator=collate,
            compute_metrics=metric(task),
            callbacks=[clock],
        )
        trainer.train()
        network = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        scores = {}
        for split in ("validation", "test"):
            words = [len(each) for each in rows[split]["tokens"]] if task == "tokens" else []
            scores[split] = predict(network, collate, encoded[split], task, words)
    np.savez(options.scores, **scores)
    consumed = round(len(rows["train"]) * options.epochs)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    record = {
        "chosen_by": trainer.state.best_metric,
        "rows_per_processor_s": consumed / clock.inside,
        "peak_mb": peak_mb,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
