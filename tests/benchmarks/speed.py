"""The speed benchmark: ours against the stock Trainer, one Markdown table with ratios from one run.

    python tests/benchmarks/speed.py --checkpoint DIR --data movie=FOLDER banking77=FOLDER \
        [--vit DIR --pictures FOLDER] [--seeds 3] [--quick] [--only full,top,...] --output speed.jsonl
    python tests/benchmarks/speed.py --table speed.jsonl

Every measurement is a process of its own, and both sides take turns. Each is a line of the output file as soon as it is
there: the same command goes on with what is missing or failed, `--table` prints the table of what there is. A
measurement that fails is a line that says so.

The rivals:
(a) defaults: the stock Trainer as the example scripts run it, for `--default-steps` steps only, enough for a rate of
    rows (it needs ten times as long as the others).
(b) tuned: see stock_trainer.py; with the attention kernel that is faster on the data set, and at whichever learning
    rate of `--rates` is best on validation rows over the first two seeds.

--quick fits in half an hour on two cores: one seed, 2,000 training rows and 800 of validation and test of each data
set, 256 pictures, one epoch of 1,000 rows for every ablation, 30 steps of the defaults; `start` keeps all rows. Ratios
of whole runs are then a little lower than those of long ones, because the start weighs more.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from book import Book, Failed, read
from speed_table import table

HERE = Path(__file__).parent
PARTS = ("full", "top", "predict", "start", "vit", "ablations")
QUICK = {
    "seeds": 1,
    "rows": 2000,
    "test_rows": 800,
    "picture_rows": 256,
    "ablation_rows": 1000,
    "ablation_epochs": 1,
    "default_steps": 30,
}
TOP = ["--method", "top"]
PICTURE = ["--image", "image"]
LONGEST_S = 3600
# What one trick gives: the run without it, on the same rows. Each is one field of the recipe.
ABLATIONS = {
    "as it comes": [],
    "rows in random batches": ["--batching.no-by-length"],
    "float32": ["--precision.mixed-precision", "no"],
    "no start-up probe": ["--precision.no-probe"],
    "dropout of the library": ["--model.no-fast-dropout"],
    "no dropout": ["--model.dropout", "0"],
    "layers one operation after another": ["--model.no-fused-layers"],
    "sdpa attention": ["--model.attn-implementation", "sdpa"],
    "eager attention": ["--model.attn-implementation", "eager"],
    "word embeddings dense": ["--optim.word-embeddings", "dense"],
    "word embeddings row-sparse": ["--optim.word-embeddings", "sparse"],
    "word embeddings frozen": ["--optim.word-embeddings", "frozen"],
    "unpadded batches": ["--batching.unpadded", "True"],
    "batches of 1,024 tokens": ["--batching.token-budget", "1024"],
    "head not fitted first": ["--train.no-head-warm-start"],
    "top 2, cached": TOP,
    "top 2, not cached": [*TOP, "--batching.no-cache-prefix"],
}
PICTURE_ABLATIONS = {
    "as it comes": [],
    "pictures decoded every epoch": ["--data.no-decode-once"],
    "two thirds of the steps at 154 px": ["--data.low-resolution", "154"],
    "half of the patches dropped": ["--model.patch-drop", "0.5"],
    "float32": ["--precision.mixed-precision", "no"],
    "sdpa attention": ["--model.attn-implementation", "sdpa"],
}


def child(*command: str, cache: Path) -> tuple[str, float]:
    """Standard output of one process, and when it was started.

    Raises:
        Failed: it ended with another status than 0.
    """
    # Its own cache: what earlier work of the machine's user left there must not make a run faster than it is.
    environment = {**os.environ, "HF_FINETUNE_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    started = time.time()
    try:
        answer = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {LONGEST_S} s") from None
    if answer.returncode != 0:
        said = [line for line in answer.stderr.replace("\r", "\n").splitlines() if line.strip()]
        raise Failed(f"status {answer.returncode}: {' / '.join(said[-3:])[-400:]}")
    return answer.stdout, started


def last_line(text: str) -> dict[str, Any]:
    """The last line of a child's output, read as JSON."""
    return json.loads(text.strip().splitlines()[-1])


def ours(data: Path, checkpoint: str, seed: int, flags: list[str], *, cache: Path, keep: Path | None = None) -> dict:
    """`hf-finetune train` as a user starts it. `keep`: where the run's model/ goes."""
    # What is built on the way counts; only the choice of kernels and the fitted head may be there from before.
    for built in ("activations", "pixels"):
        shutil.rmtree(cache / built, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["-m", "hf_finetune", "train", str(data), "--model", checkpoint, "--output", str(run), "--json"]
        answer, started = child(*command, "--seed", str(seed), *flags, cache=cache)
        ended = time.time()
        result = json.loads(answer)
        first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
        rows = pq.read_table(run / "predictions.parquet").to_pylist()
        if keep is not None:
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(run / "model", keep)
    judged = sorted((row for row in rows if row["split"] == "test"), key=lambda row: row["row"])
    throughput, seconds = result["throughput"], result["time"]
    trained = throughput["train_rows_per_s"] * (seconds["train_loop_s"] + seconds.get("probe_s", 0.0))
    build = seconds.get("cache_s", 0.0)
    return {
        "accuracy": result["metrics"]["test"]["accuracy"]["value"],
        "correct": [row["label"] == row["predicted"] for row in judged],
        "train_rows_per_s": throughput["train_rows_per_s"],
        "train_rows_per_s_with_build": trained / (trained / throughput["train_rows_per_s"] + build),
        "build_s": build,
        "flop_utilisation": throughput.get("flop_utilisation"),
        "first_step_s": first["time"] - started,
        "wall_s": ended - started,
        "peak_rss_mb": result["memory"]["peak_rss_mb"],
        "kernels": result.get("kernels", {}).get("chosen"),
        "cache": result.get("cache"),
        "environment": {k: result["environment"][k] for k in ("cpu", "cores", "threads", "commit")},
    }


def stock(data: Path, checkpoint: str, seed: int, flags: list[str], *, cache: Path) -> dict:
    """stock_trainer.py with these flags."""
    answer, _ = child(str(HERE / "stock_trainer.py"), str(data), checkpoint, "--seed", str(seed), *flags, cache=cache)
    return last_line(answer)


class Benchmark:
    """All measurements of one command."""

    def __init__(self, options: argparse.Namespace, book: Book, work: Path) -> None:
        self.options, self.book, self.work, self.cache = options, book, work, work / "cache"
        self.cache.mkdir(exist_ok=True)

    def rows(self, name: str, source: str, rows: int | None, test_rows: int | None, kind: str = "text") -> Path:
        """The folder with these rows of a data set."""
        folder = self.work / f"{name}-{rows or 'all'}-{test_rows or 'all'}"
        if not (folder / "test.parquet").exists():
            bounds = [f"--rows={rows}"] if rows else []
            bounds += [f"--test-rows={test_rows}"] if test_rows else []
            child(str(HERE / "same_rows.py"), source, str(folder), f"--kind={kind}", *bounds, cache=self.cache)
        return folder

    def run(self, part: str, side: str, data: Path, seed: int, checkpoint: str, flags: list[str], **more: Any) -> Any:
        """One measurement of either side."""
        key = {"part": part, "data": data.name, "side": side, "seed": seed, "flags": " ".join(flags)}
        key["checkpoint"] = Path(checkpoint).name
        work = stock if side.startswith("stock") else ours
        return self.book.measure(key, lambda: work(data, checkpoint, seed, flags, cache=self.cache, **more))

    def faster_attention(self, data: Path) -> str:
        """The attention kernel with which the tuned rival trains more rows a second on a data set."""
        rates = {}
        for attention in ("sdpa", "eager", "sdpa", "eager"):
            flags = ["--attention", attention, "--max-steps", "30"]
            turn = sum(name == attention for name in rates)
            found = self.run("rival", f"stock {attention}", data, turn, self.options.checkpoint, flags)
            if found:
                rates[attention] = max(found["train_rows_per_s"], rates.get(attention, 0.0))
        return max(rates, key=rates.__getitem__) if rates else "sdpa"

    def text(self, name: str, source: str) -> None:
        """Full fine-tuning, the top layers, prediction, and both rivals, on one data set, in turns."""
        options = self.options
        data = self.rows(name, source, options.rows, options.test_rows)
        model = self.work / f"model-{data.name}"
        epochs = ["--epochs", f"{options.epochs:g}"]
        wanted = set(options.only)
        attention = self.faster_attention(data) if wanted & {"full", "top"} else "sdpa"
        tuned: dict[float, list[float]] = {}
        for seed in range(options.seeds):
            if wanted & {"full", "top"} or seed == 0:
                keep = model if seed == 0 else None
                self.run("full", "ours", data, seed, options.checkpoint, epochs, keep=keep)
            if wanted & {"full", "top"}:
                for rate in options.rates if seed < options.rate_seeds else [self.best_rate(tuned)]:
                    flags = [*epochs, "--learning-rate", f"{rate:g}", "--attention", attention]
                    found = self.run("full", f"stock tuned {rate:g}", data, seed, options.checkpoint, flags)
                    tuned.setdefault(rate, []).append(found["validation_accuracy"] if found else 0.0)
            if "top" in wanted:
                self.run("top", "ours top", data, seed, options.checkpoint, [*TOP, *epochs])
            if "full" in wanted:
                flags = ["--setting", "defaults", "--learning-rate", "5e-5", "--max-steps", str(options.default_steps)]
                self.run("full", "stock defaults", data, seed, options.checkpoint, flags)
            if "predict" in wanted:
                self.predict(data, model, seed)

    def best_rate(self, tuned: dict[float, list[float]]) -> float:
        """The learning rate with which the tuned rival is best on the validation rows of the first seeds."""
        return max(tuned, key=lambda rate: sum(tuned[rate][: self.options.rate_seeds]))

    def predict(self, data: Path, model: Path, turn: int) -> None:
        """Both sides label the test rows with the same weights."""

        labels = pq.read_table(data / "test.parquet")["label"].to_pylist()

        def of_ours() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "labels.parquet"
                command = [
                    "-m",
                    "hf_finetune",
                    "predict",
                    str(model),
                    str(data / "test.parquet"),
                    "--output",
                    str(output),
                ]
                result = json.loads(child(*command, "--json", cache=self.cache)[0])
                predicted = pq.read_table(output)["predicted"].to_pylist()
            right = sum(a == b for a, b in zip(predicted, labels, strict=True))
            return {**result["throughput"], "precision": result["precision"], "accuracy": right / len(labels)}

        def of_stock() -> dict[str, Any]:
            command = [str(HERE / "stock_pipeline.py"), str(model), str(data / "test.parquet")]
            found = last_line(child(*command, cache=self.cache)[0])
            right = sum(a == b for a, b in zip(found.pop("labels"), labels, strict=True))
            return {**found, "accuracy": right / len(labels)}

        for side, work in (("ours", of_ours), ("stock pipeline", of_stock)):
            self.book.measure({"part": "predict", "data": data.name, "side": side, "seed": turn, "flags": ""}, work)

    def start(self, name: str, source: str) -> None:
        """Process start to the end of the first step, on all rows, what can be kept from a run before being there."""
        data = self.rows(name, source, None, None)
        few = ["--train.max-steps", "3", "--evaluate.no-baselines"]
        for turn in range(self.options.seeds):
            # Fills the caches, and is not in the table: a head is fitted to the rows that a seed holds back.
            self.run("start", "ours, for the first time", data, turn, self.options.checkpoint, few)
            self.run("start", "ours", data, turn, self.options.checkpoint, few)
            self.run("start", "stock tuned", data, turn, self.options.checkpoint, ["--max-steps", "3"])

    def pictures(self) -> None:
        """A vision transformer on so many pictures, against the stock Trainer in float32 and in bf16."""
        options = self.options
        data = self.rows("pictures", options.pictures, options.picture_rows, options.picture_rows // 4, "image")
        epochs = ["--epochs", f"{options.picture_epochs:g}"]
        for seed in range(options.seeds):
            self.run("vit", "ours", data, seed, options.vit, [*epochs, *PICTURE])
            # Ours by default.
            rate = ["--learning-rate", "2e-5"]
            for setting in ("tuned-fp32", "tuned"):
                self.run("vit", f"stock {setting}", data, seed, options.vit, [*epochs, *rate, "--setting", setting])

    def ablations(self) -> None:
        """Each trick off alone, on the first data set, and those of pictures."""
        options = self.options
        jobs = []
        if options.data:
            name, source = options.data[0]
            data = self.rows(name, source, options.ablation_rows, 200)
            jobs += [(data, options.checkpoint, side, flags) for side, flags in ABLATIONS.items()]
        if options.vit:
            rows = min(options.ablation_rows // 8, options.picture_rows)
            data = self.rows("pictures", options.pictures, rows, 50, "image")
            jobs += [(data, options.vit, side, [*flags, *PICTURE]) for side, flags in PICTURE_ABLATIONS.items()]
        for data, checkpoint, side, flags in jobs:
            few = ["--epochs", f"{options.ablation_epochs:g}", "--evaluate.no-baselines"]
            self.run("ablations", side, data, 0, checkpoint, [*few, *flags])

    def all(self) -> None:
        """Everything that is asked for."""
        options = self.options
        for name, source in options.data:
            if set(options.only) & {"full", "top", "predict"}:
                self.text(name, source)
        if "start" in options.only and options.data:
            self.start(*options.data[-1])
        if "vit" in options.only and options.vit:
            self.pictures()
        if "ablations" in options.only:
            self.ablations()


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a text checkpoint")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FOLDER", help="text data sets; `start` takes the last"
    )
    parser.add_argument("--vit", help="folder of a picture checkpoint")
    parser.add_argument("--pictures", help="data set of pictures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--picture-epochs", type=float, default=1)
    parser.add_argument("--ablation-epochs", type=float, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4], help="learning rates of the tuned rival")
    parser.add_argument("--rate-seeds", type=int, default=2, help="seeds whose validation rows choose among them")
    parser.add_argument("--rows", type=int, help="training rows of each data set at most")
    parser.add_argument("--test-rows", type=int, help="rows of validation and of test at most")
    parser.add_argument("--picture-rows", type=int, default=1000)
    parser.add_argument("--ablation-rows", type=int, default=2000)
    parser.add_argument("--default-steps", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help=f"half an hour: {QUICK}")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("speed.jsonl"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file and measure nothing")
    # The preset stands in for defaults: what is said on the command line wins.
    if "--quick" in sys.argv:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if options.table is None:
        unknown = [part for part in options.only if part not in PARTS]
        if unknown or not all("=" in pair for pair in options.data):
            parser.error(f"--only takes {', '.join(PARTS)}; --data takes NAME=FOLDER")
        if bool(options.data) != bool(options.checkpoint) or bool(options.vit) != bool(options.pictures):
            parser.error("--data goes with --checkpoint, --pictures with --vit")
        options.data = [tuple(pair.split("=", 1)) for pair in options.data]
        work = options.output.with_suffix(".work").absolute()
        work.mkdir(parents=True, exist_ok=True)
        Benchmark(options, Book(options.output), work).all()
    print(table(list(read(options.table or options.output).values())))


if __name__ == "__main__":
    main()
