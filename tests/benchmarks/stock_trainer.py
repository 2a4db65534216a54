"""The rival: transformers' Trainer as its users run it. One process, one run, one line of JSON on stdout.

    python tests/benchmarks/stock_trainer.py DATA_FOLDER CHECKPOINT [--setting tuned|defaults] [--learning-rate 1e-4]

DATA_FOLDER holds train, validation and test .parquet with the columns text (or image) and label, as `speed.py` writes
them, so that both sides train on the very same rows.

tuned: dynamic padding, batches by length, bf16 where the processor multiplies it, fused AdamW, batch 32, float32 matrix
products by the fastest path.
defaults: what the example scripts do when nothing is asked for: padded to 128 tokens, float32, batch 8, unfused AdamW.
Both: linear schedule with 6% warm-up, the validation rows scored and the weights saved after every epoch, the best
epoch's kept. `--max-steps` stops early, for a rate of rows alone.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
import psutil
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

# As `precision.has_native_bf16`, whose import would stand on the rival's clock.
NATIVE_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
TUNED = {"per_device_train_batch_size": 32, "bf16": NATIVE_BF16, "optim": "adamw_torch_fused"}
# Of every setting and task.
COMMON = {"warmup_steps": 0.06, "weight_decay": 0.01, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
SETTINGS = {
    "tuned": TUNED,
    "tuned-fp32": {**TUNED, "bf16": False},
    "defaults": {"per_device_train_batch_size": 8, "optim": "adamw_torch"},
}


class Clock(TrainerCallback):
    """Seconds inside the epochs' loops, and the moment the first step was done: evaluation and saving stand outside.

    Args:
        now: the time, or the processor time, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.first_step, self.inside, self.begun = 0.0, 0.0, 0.0

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        """The loader is made after this."""
        self.begun = self.now()

    def on_step_end(self, *_: object, **__: object) -> None:
        """See the class."""
        self.first_step = self.first_step or self.now()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        """Evaluation and saving come after this."""
        self.inside += self.now() - self.begun


def main() -> None:
    """Train, predict the test rows, print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("checkpoint")
    parser.add_argument("--setting", choices=SETTINGS, default="tuned")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--dropout", type=float)
    options = parser.parse_args()
    started = psutil.Process().create_time()
    fast = options.setting.startswith("tuned")
    if fast:
        torch.set_float32_matmul_precision("medium")

    files = {split: f"{options.data}/{split}.parquet" for split in ("train", "validation", "test")}
    rows = load_dataset("parquet", data_files=files)
    labels = sorted(set(rows["train"]["label"]))
    kind = "text" if "text" in rows["train"].column_names else "image"
    choices = {"num_labels": len(labels), "attn_implementation": options.attention}
    if options.dropout is not None:
        choices |= {"hidden_dropout_prob": options.dropout, "attention_probs_dropout_prob": options.dropout}
    if kind == "text":
        tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
        padding = False if fast else "max_length"

        def encode(batch: dict[str, list]) -> dict[str, list]:
            encoded = tokenizer(batch["text"], truncation=True, max_length=128, padding=padding)
            # A column of this name spares `group_by_length` a pass over the rows.
            lengths = [len(ids) for ids in encoded["input_ids"]]
            return {**encoded, "length": lengths, "labels": [labels.index(label) for label in batch["label"]]}

        encoded = {s: part.map(encode, batched=True, remove_columns=part.column_names) for s, part in rows.items()}
        collate = DataCollatorWithPadding(tokenizer) if fast else None
        model = AutoModelForSequenceClassification.from_pretrained(options.checkpoint, **choices)
    else:
        processor = AutoImageProcessor.from_pretrained(options.checkpoint)

        def transform(batch: dict[str, list]) -> dict[str, list]:
            pictures = [Image.open(BytesIO(image["bytes"])).convert("RGB") for image in batch["image"]]
            pixels = processor(pictures, return_tensors="pt")["pixel_values"]
            return {"pixel_values": list(pixels), "labels": [labels.index(label) for label in batch["label"]]}

        encoded = {split: part.with_transform(transform) for split, part in rows.items()}
        collate = None
        model = AutoModelForImageClassification.from_pretrained(options.checkpoint, **choices)
    clock = Clock()
    whole = options.max_steps < 0
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_eval_batch_size=64 if fast else 8,
            num_train_epochs=options.epochs,
            max_steps=options.max_steps,
            learning_rate=options.learning_rate,
            train_sampling_strategy="group_by_length" if fast and kind == "text" else "random",
            eval_strategy="epoch" if whole else "no",
            save_strategy="epoch" if whole else "no",
            load_best_model_at_end=whole,
            metric_for_best_model="accuracy",
            save_total_limit=1,
            dataloader_num_workers=options.workers,
            dataloader_persistent_workers=options.workers > 0,
            remove_unused_columns=kind == "text",
            logging_steps=500,
            seed=options.seed,
            **COMMON,
            **SETTINGS[options.setting],
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            data_collator=collate,
            compute_metrics=accuracy,
            callbacks=[clock],
        )
        trainer.train()
        trained = time.time()
        record = {"steps": trainer.state.global_step, **test(trainer, encoded["test"], whole)}
        if whole:
            record["validation_accuracy"] = trainer.state.best_metric
        ended = time.time()
    batch = arguments.per_device_train_batch_size
    consumed = min(trainer.state.global_step * batch, round(len(rows["train"]) * options.epochs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    # Of the whole network and of real tokens, as ours counts: padded rows would not show the latter.
    used = None
    if fast:
        # Imported late: the rival's clock has stopped.
        from hf_finetune.data.inputs import Rows
        from hf_finetune.training.flops import WorkCounter, measure

        work = WorkCounter()
        work.rows = consumed
        if kind != "text":
            work.images[tuple(encoded["train"][0]["pixel_values"].shape)] = consumed
        columns = [name for name in encoded["train"].column_names if name not in ("length", "labels")]
        used = measure(
            trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False),
            work,
            passes=1,
            rows=Rows(encoded["train"], columns),
            # Token columns are bytes in the table.
            collate=lambda one: {
                n: torch.tensor(np.array(v)).to(torch.long if kind == "text" else None) for n, v in one.items()
            },
            lengths=np.array(encoded["train"]["length"][:]) if kind == "text" else None,
            seconds=clock.inside,
            dtype=torch.bfloat16 if arguments.bf16 else torch.float32,
        )
    print(
        json.dumps(
            {
                **record,
                "rows": consumed,
                "flop_utilisation": None if used is None else used.share,
                "train_rows_per_s": consumed / clock.inside,
                "train_rows_per_s_from_start": consumed / (trained - started),
                "first_step_s": clock.first_step - started,
                "wall_s": ended - started,
                "peak_rss_mb": peak,
            }
        )
    )


def accuracy(prediction: tuple) -> dict[str, float]:
    """Share of rows whose largest logit is the label's."""
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def test(trainer: Trainer, rows: Dataset, whole: bool) -> dict[str, object]:
    """Which test rows are right, and how fast they were labelled; nothing for a run that was cut short."""
    if not whole:
        return {}
    # group_by_length would reorder the predictions.
    trainer.args.train_sampling_strategy = "random"
    started = time.time()
    found = trainer.predict(rows)
    seconds = time.time() - started
    correct = (found.predictions.argmax(-1) == found.label_ids).tolist()
    return {
        "correct": correct,
        "accuracy": sum(correct) / len(correct),
        "trainer_predict_rows_per_s": len(rows) / seconds,
    }


if __name__ == "__main__":
    main()
