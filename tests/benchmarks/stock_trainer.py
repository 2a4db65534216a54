"""The rival: transformers' Trainer as well tuned as a careful user makes it. One process, one run, one line of JSON.

    python tests/benchmarks/stock_trainer.py TRAIN_FILE TEST_FILE CHECKPOINT LEARNING_RATE [--epochs 3] [--seed 0]

Dynamic padding, batches by length, bf16, fused AdamW, batch 32, linear schedule with 6% warm-up, float32 matrix
products by the fastest path; no evaluation while training.
"""

import argparse
import json
import tempfile
import time

import psutil
import torch
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    """Train on one file, predict the other, print accuracy and seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("checkpoint")
    parser.add_argument("learning_rate", type=float)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_float32_matmul_precision("medium")
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    rows = {}
    for split in ("train", "test"):
        path = vars(options)[split]
        rows[split] = load_dataset(path.rsplit(".", 1)[-1], data_files=path, split="train")
    labels = sorted(set(map(str, rows["train"]["label"])))

    def encode(batch: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=128)
        return {**encoded, "labels": [labels.index(str(label)) for label in batch["label"]]}

    rows = {split: part.map(encode, batched=True, remove_columns=part.column_names) for split, part in rows.items()}
    model = AutoModelForSequenceClassification.from_pretrained(options.checkpoint, num_labels=len(labels))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            warmup_steps=0.06,
            weight_decay=0.01,
            bf16=True,
            use_cpu=True,
            optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length",
            report_to="none",
            save_strategy="no",
            logging_steps=200,
            disable_tqdm=True,
            seed=options.seed,
        )
        trainer = Trainer(
            model, arguments, train_dataset=rows["train"], data_collator=DataCollatorWithPadding(tokenizer)
        )
        started = time.perf_counter()
        trainer.train()
        trained = time.perf_counter() - started
        # group_by_length would reorder the predictions.
        trainer.args.train_sampling_strategy = "random"
        started = time.perf_counter()
        found = trainer.predict(rows["test"])
        predicted = time.perf_counter() - started
    correct = (found.predictions.argmax(-1) == found.label_ids).tolist()
    print(
        json.dumps(
            {
                "accuracy": sum(correct) / len(correct),
                "correct": correct,
                "train_rows_per_s": len(rows["train"]) * options.epochs / trained,
                "predict_rows_per_s": len(rows["test"]) / predicted,
                "wall_s": time.time() - psutil.Process().create_time(),
            }
        )
    )


if __name__ == "__main__":
    main()
