"""What hostile and damaged files do to a command: recipes, records, checkpoints, adapters, settings, disks, data.

    python tests/benchmarks/attacks.py [--only WORD ...] [--work DIR]

Every attack is a file damaged in a copy of a tiny checkpoint or of a finished run, or data that are a bomb, and the
command that a user would give; pushes go to a Hub on the loopback interface. Prints a line for each: exit status, seconds, megabytes above an idle
process, lines on stderr, and the first of them; and a table of all. Expected is status 2 (or 0, where the rest is
usable; 1, where the disk fails a run; 4, where a file is not the run's), no traceback, 10 seconds, 1,000 MB, and no
commit by a push that was refused; leaves with status 1 if an attack got anything else."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from helpers.bombs import BOMBS, FEW_ROWS, Bomb, solid_images
from helpers.damage import ADAPTER_DAMAGE, CONFIG_DAMAGE, DOCUMENTS, WEIGHT_DAMAGE, YAML_BOMBS, edit_json
from helpers.forks import Child
from helpers.hub_server import HubServer, hub_server
from helpers.small_runs import text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint

MOST_SECONDS, MOST_MB, HANGS_AFTER_S = 10.0, 1000, 600
# The command, with the most memory that its process had, and a limit that protects the machine.
COMMAND = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from helpers import gate
gate.run_here()
memory, disk, *arguments = sys.argv[1:]
if int(disk):
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(disk), resource.RLIM_INFINITY))
from hf_finetune.cli.main import main_command
def high_water():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
open("/proc/self/clear_refs", "w").write("5")
before = high_water()
try:
    main_command(arguments)
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    used = resource.getrusage(resource.RUSAGE_SELF)
    open(memory, "w").write(f"{(high_water() - before) // 1024} {used.ru_utime + used.ru_stime}")
"""


@dataclass(frozen=True)
class Attack:
    """A damage, and the command that meets it."""

    name: str
    prepare: Callable[[Bench], list[Any]]
    """Damages files in the folder of the attack, and returns the arguments of the command."""
    allowed: tuple[int, ...] = (2,)
    largest_file: int = 0
    """Size in bytes beyond which writes fail; 0: no limit."""
    needs_hub: bool = False

    @property
    def kind(self) -> str:
        """What is damaged, for the table."""
        return "push" if self.needs_hub else self.name.replace(" is ", ", ", 1).split(",")[0]


@dataclass(frozen=True)
class Bench:
    """Undamaged files, and a folder for the copies that an attack damages."""

    home: Path
    folder: Path

    @property
    def data(self) -> Path:
        return self.home / "rows.csv"

    def copy(self, name: str) -> Path:
        """A copy of the checkpoint or of a run."""
        return Path(shutil.copytree(self.home / name, self.folder / name))

    def train(self, *arguments: Any, checkpoint: Path | None = None) -> list[Any]:
        """Arguments of a short run."""
        output = ["--output", self.folder / "out", "--epochs", "1", "--max-length", "32"]
        return ["train", self.data, "--model", checkpoint or self.home / "bert", *output, *arguments]

    def predict(self, model: Path) -> list[Any]:
        """Arguments that label the rows."""
        return ["predict", model, self.data, "--output", self.folder / "predicted.csv"]

    def read(self, command: str, data: Path, checkpoint: Path, run: Path) -> list[Any]:
        """Arguments that read data with a checkpoint, or with a finished run."""
        if command == "predict":
            return ["predict", run, data, "--output", self.folder / "predicted.csv"]
        if command == "evaluate":
            return ["evaluate", run, data]
        length = [] if data.is_dir() else ["--max-length", "32"]
        output = ["--output", self.folder / "out"] if command == "train" else []
        return [command, data, "--model", checkpoint, *length, *output]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int | None
    """None: it was killed, as it did not end."""
    seconds: float
    """Of the processor: the machine may be busy."""
    megabytes: int
    stderr: str
    has_pushed: bool = False

    def verdict(self, attack: Attack) -> str:
        """What is wrong with it; empty: nothing."""
        if self.status is None or self.status < 0:
            return "HANGS"
        lines = self.stderr.splitlines()
        wrong = ["TRACEBACK"] if "Traceback" in self.stderr or "Error:" in self.stderr[:40] else []
        wrong += [] if self.status in attack.allowed else ["STATUS"]
        wrong += [] if self.status in (0, 1) or len(lines) == 1 else ["LINES"]
        wrong += ["PUSHED"] if self.has_pushed and self.status != 0 else []
        wrong += [] if self.seconds <= MOST_SECONDS else ["SLOW"]
        wrong += [] if self.megabytes <= MOST_MB else ["MEMORY"]
        return " ".join(wrong)


def execute(
    arguments: list[Any], folder: Path, largest_file: int = 0, hub: tuple[HubServer, Path] | None = None
) -> Outcome:
    """Run a command in a process of its own.

    Args:
        hub: a Hub that it may use, and the home of its caches.
    """
    names = {name: folder / name for name in ("stdout", "stderr", "memory")}
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "HF_FINETUNE_CACHE": str(folder / "cache")}
    if hub is not None:
        hub[0].repos.clear()
        environment |= hub[0].environment(hub[1])
    started = time.monotonic()
    child = Child(
        COMMAND,
        *(names["memory"], str(largest_file), *map(str, arguments)),
        environment=environment,
        cwd=folder,
        stdout=names["stdout"],
        stderr=names["stderr"],
    )
    while time.monotonic() < started + HANGS_AFTER_S and child.poll() is None:
        time.sleep(0.02)
    status, seconds = child.returncode, time.monotonic() - started
    child.kill()
    used = names["memory"].read_text().split() if names["memory"].exists() else ["0", str(seconds)]
    said = names["stderr"].read_text(errors="replace") if names["stderr"].exists() else ""
    pushed = hub is not None and any(len(repo.commits) > 1 for repo in hub[0].repos.values())
    return Outcome(status, float(used[1]), int(used[0]), said, pushed)


def document_attacks() -> list[Attack]:
    """recipe.json, result.json and log.jsonl of a run, and the records of caches, with other contents."""

    def damage(command: str, file: str, content: bytes, bench: Bench) -> list[Any]:
        run = bench.copy("full")
        (run / file).write_bytes(content)
        match command:
            case "card":
                return ["card", run]
            case "push":
                return ["push", run, "tester/model"]
            case "predict":
                return bench.predict(run)
            case "start":
                return bench.train(checkpoint=run)
            case "resume":
                (run / "result.json").unlink()
                return bench.train("--output", run, "--resume")
        raise AssertionError(command)

    uses = {
        "recipe.json": ("card", "push", "predict", "resume", "start"),
        "result.json": ("card", "push", "predict", "start"),
    }
    return [
        Attack(
            f"{file} is {name}: {command}", partial(damage, command, file, content), (0, 2), needs_hub=command == "push"
        )
        for file, commands in uses.items()
        for command in commands
        for name, content in DOCUMENTS.items()
    ]


def checkpoint_attacks() -> list[Attack]:
    """Configs, tokenizers and weights of a checkpoint that a run starts from."""

    def start(damage: Callable[[Path], None], bench: Bench) -> list[Any]:
        checkpoint = bench.copy("bert")
        damage(checkpoint)
        return bench.train(checkpoint=checkpoint)

    def loaded(damage: Callable[[Path], None], bench: Bench) -> list[Any]:
        run = bench.copy("full")
        damage(run / "model")
        edit_json(run / "result.json", artifacts=None)  # a manifest would already refuse it
        return bench.predict(run / "model")

    return [
        *(Attack(f"checkpoint, {n}: train", partial(start, d), (0, 2)) for n, d in CONFIG_DAMAGE.items()),
        *(Attack(f"checkpoint, {n}: predict", partial(loaded, d), (0, 2)) for n, d in CONFIG_DAMAGE.items()),
        *(Attack(f"weights, {n}: train", partial(start, d)) for n, d in WEIGHT_DAMAGE.items()),
        *(Attack(f"weights, {n}: predict", partial(loaded, d)) for n, d in WEIGHT_DAMAGE.items()),
        Attack("checkpoint is a file: train", lambda b: b.train(checkpoint=b.home / "bert" / "model.safetensors")),
        Attack("checkpoint is a file: predict", lambda b: b.predict(b.home / "bert" / "model.safetensors")),
        Attack("checkpoint is a file: card", lambda b: ["card", b.data]),
        Attack("checkpoint is a file: push", lambda b: ["push", b.data, "tester/model"], needs_hub=True),
    ]


def adapter_attacks() -> list[Attack]:
    """Adapters of a run that has no model/."""

    def loaded(damage: Callable[[Path], None], use: str, bench: Bench) -> list[Any]:
        run = bench.copy("prompt")
        damage(run / "adapter")
        edit_json(run / "result.json", artifacts=None)
        return bench.predict(run) if use == "predict" else bench.train("--teacher", run)

    return [
        Attack(f"adapter, {name}: {use}", partial(loaded, damage, use), (0, 2))
        for name, damage in ADAPTER_DAMAGE.items()
        for use in ("predict", "teacher")
    ]


def setting_attacks() -> list[Attack]:
    """Files of fields, and fields whose libraries are not there."""

    def config(text: str, bench: Bench) -> list[Any]:
        (bench.folder / "run.yaml").write_text(text)
        return bench.train("--config", bench.folder / "run.yaml")

    extras: dict[str, Any] = {
        "report_to tensorboard": {"report_to": ["tensorboard"]},
        "report_to wandb": {"report_to": "wandb"},
        "report_to unknown": {"report_to": ["nowhere"]},
        "report_to all": {"report_to": "all"},
        "deepspeed": {"deepspeed": {"zero_optimization": {"stage": 2}}},
        "deepspeed file": {"deepspeed": "ds.json"},
        "fsdp": {"fsdp": "full_shard"},
        "fsdp true": {"fsdp": True},
        "fsdp_config": {"fsdp_config": {"min_num_params": 10}},
        "fsdp_config file": {"fsdp_config": "fsdp.json"},
        "tpu": {"tpu_num_cores": 8},
        "torch_compile backend": {"torch_compile": True, "torch_compile_backend": "nowhere"},
        "liger": {"use_liger_kernel": True},
        "tf32": {"tf32": True},
        "accelerator_config": {"accelerator_config": {"nonsense": 1}},
        "accelerator_config file": {"accelerator_config": "nowhere.json"},
        "parallelism_config": {"parallelism_config": {"tp_size": 2}},
        "ddp_backend": {"ddp_backend": "mpi"},
        "galore": {"optim_target_modules": ["x"]},
        "neftune": {"neftune_noise_alpha": "much"},
        "hub_token": {"hub_token": "x"},
        "push_to_hub": {"push_to_hub": True},
        "debug": {"debug": "nonsense"},
        "log_level": {"log_level": "loud"},
        "logging_steps": {"logging_steps": -3},
        "eval_delay that is text": {"eval_delay": "long"},
        "dataloader_num_workers": {"dataloader_num_workers": -1},
        "dataloader_prefetch_factor": {"dataloader_prefetch_factor": 2},
        "gradient_checkpointing_kwargs": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"x": 1}},
        "jit_mode_eval": {"jit_mode_eval": True},
        "full_determinism": {"full_determinism": True},
        "max_grad_norm": {"max_grad_norm": -1.0},
        "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "nonsense"},
        "trackio": {"report_to": ["trackio"]},
        "mlflow": {"report_to": ["mlflow"]},
        "clearml": {"report_to": ["clearml"]},
        "project": {"project": 3},
        "auto_find_batch_size": {"auto_find_batch_size": True},
        "resume_from_checkpoint": {"resume_from_checkpoint": "x"},
        "save_steps": {"save_steps": 2},
        "unknown": {"nonsense": 1},
        "not a mapping": [1],
    }
    return [
        *(Attack(f"yaml, {name}", partial(config, text)) for name, text in YAML_BOMBS.items()),
        *(
            Attack(f"train.extra, {name}", partial(config, json.dumps({"train": {"extra": extra}})), (0, 2))
            for name, extra in extras.items()
        ),
        Attack("yaml flag, bomb", lambda b: b.train("--data.augment", YAML_BOMBS["nine anchors of ten"])),
    ]


def push_attacks() -> list[Attack]:
    """Runs whose files are not those of their manifest, or whose documents hold a secret; and a push that is whole."""
    secret = "hf_" + "a" * 34

    def added(name: str, content: bytes, bench: Bench) -> list[Any]:
        run = bench.copy("full")
        (run / name).write_bytes(content)
        return ["push", run, "tester/model"]

    def changed(damage: Callable[[Path], None], bench: Bench) -> list[Any]:
        run = bench.copy("full")
        damage(run)
        return ["push", run, "tester/model"]

    def without(name: str, run: Path) -> None:
        (run / name).unlink()

    def linked(run: Path) -> None:
        (run / "model" / "vocab.txt").symlink_to("/etc/hostname")

    def note(run: Path) -> None:
        edit_json(run / "result.json", notes=[secret])

    names = (
        "model/id_rsa",
        "model/x.pkl",
        "model/modeling.py",
        "model/rows.csv",
        "model/.env",
        "model/README.md",
        "id_rsa",
    )
    damages: dict[str, Callable[[Path], None]] = {
        "a weight is another": lambda run: (run / "model" / "model.safetensors").write_bytes(
            (run / "model" / "model.safetensors").read_bytes()[:-1] + b"\7"
        ),
        "a file is missing": partial(without, "model/tokenizer.json"),
        "a link leads out": linked,
        "the card is missing": partial(without, "README.md"),
        "a token in result.json": note,
        "no parity check": lambda run: edit_json(run / "result.json", parity=None),
        "a failed parity check": lambda run: edit_json(run / "result.json", parity={"reload": {"ok": False}}),
        "nothing is changed": lambda run: None,
    }
    return [
        *(Attack(f"push, {name} added", partial(added, name, b"mine"), (0, 2, 4), needs_hub=True) for name in names),
        *(
            Attack(f"push, {name}", partial(changed, damage), (0, 2, 4), needs_hub=True)
            for name, damage in damages.items()
        ),
    ]


def disk_attacks() -> list[Attack]:
    """Writes that fail."""
    sizes = {f"files of at most {size} bytes": size for size in (1000, 3000, 5000, 20_000, 60_000, 100_000)}
    return [Attack(f"disk full, {name}", lambda b: b.train(), (1,), size) for name, size in sizes.items()]


def data_attacks() -> list[Attack]:
    """Data that take far more than their size."""

    def met(command: str, name: str, bomb: Bomb, bench: Bench) -> list[Any]:
        # One at a time is kept, for all commands.
        folder = bench.home / "bomb" / name
        if not folder.exists():
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            bomb(folder)
        (data,) = folder.iterdir()
        if command == "doctor":
            return ["doctor", data]
        checkpoint, run = ("vit", "images") if data.is_dir() else ("bert", "full")
        return bench.read(command, data, bench.home / checkpoint, bench.home / run)

    return [
        Attack(f"data, {name}: {command}", partial(met, command, name, bomb), (0, 2))
        for name, bomb in BOMBS.items()
        # Training on many rows takes as long as they do.
        for command in (
            "doctor",
            *(() if "nearly equal rows" in name else ("plan",)),
            *(("train", "predict", "evaluate") if name in FEW_ROWS else ()),
        )
    ]


def tokenizer_attacks() -> list[Attack]:
    """A tokenizer that panics on a row of the data, far behind those that are tried before."""

    def met(command: str, bench: Bench) -> list[Any]:
        checkpoint, run = bench.copy("bert"), bench.copy("full")
        pattern = {"type": "Split", "pattern": {"Regex": "(b+)+c"}, "behavior": "Isolated", "invert": False}
        for folder in (checkpoint, run / "model"):
            words = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
            both = {"type": "Sequence", "pretokenizers": [words, pattern]}
            edit_json(folder / "tokenizer.json", pre_tokenizer=both)
        edit_json(run / "result.json", artifacts=None)
        rows = [f"some text {i},{('bad', 'good')[i % 2]}" for i in range(600)]
        rows[500] = f"{'b' * 60},bad"
        data = bench.folder / "rows.csv"
        data.write_text("\n".join(["text,label", *rows]))
        return bench.read(command, data, checkpoint, run)

    commands = ("train", "plan", "doctor", "predict", "evaluate")
    return [Attack(f"tokenizer, panics on a row: {command}", partial(met, command)) for command in commands]


def prepare(home: Path) -> None:
    """Write the undamaged files: rows, checkpoints, runs with model/ and one with only an adapter."""
    rows = [f"{row['text']},{('bad', 'good')[row['label']]}" for row in text_rows(60)]
    (home / "rows.csv").write_text("\n".join(["text,label", *rows]))
    tiny_text_checkpoint(home / "bert")
    tiny_image_checkpoint(home / "vit")
    (home / "image_rows").mkdir()
    images = ["train", solid_images(home / "image_rows"), "--model", home / "vit", "--epochs", "1"]
    texts = ["train", home / "rows.csv", "--model", home / "bert", "--epochs", "1", "--max-length", "32"]
    runs = {
        "full": [*texts, "--train.keep-checkpoints"],
        "prompt": [*texts, "--adapter", "PROMPT_TUNING"],
        "images": images,
    }
    for name, arguments in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            done = execute([*arguments, "--output", home / name], Path(folder))
        if done.status != 0:
            raise SystemExit(f"{name}: {done.stderr}")


def print_table(outcomes: list[tuple[Attack, Outcome]]) -> None:
    """Print what became of the attacks, by what was damaged."""
    titles = ["damaged", "attacks", "refused in one line", "served", "failed", "slowest, s", "most memory, MB"]
    print("| " + " | ".join(titles) + " |\n|---" + "|---:" * (len(titles) - 1) + "|")
    kinds = list(dict.fromkeys(attack.kind for attack, _ in outcomes))
    for kind in [*kinds, "all"]:
        part = [(attack, outcome) for attack, outcome in outcomes if kind in ("all", attack.kind)]
        failed = sum(bool(outcome.verdict(attack)) for attack, outcome in part)
        served = sum(outcome.status == 0 and not outcome.verdict(attack) for attack, outcome in part)
        slowest, most = max(o.seconds for _, o in part), max(o.megabytes for _, o in part)
        cells = [kind, len(part), len(part) - served - failed, served, failed, f"{slowest:.1f}", most]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    """Attack, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="attacks whose name has one of these words")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the undamaged files here, for the next time")
    parser.add_argument("--verbose", action="store_true", help="print all that stderr says of a failed attack")
    options = parser.parse_args()
    attacks = [*data_attacks(), *tokenizer_attacks(), *document_attacks(), *checkpoint_attacks(), *adapter_attacks()]
    attacks += [*setting_attacks(), *disk_attacks(), *push_attacks()]
    if options.only:
        attacks = [attack for attack in attacks if any(word in attack.name for word in options.only)]
    outcomes: list[tuple[Attack, Outcome]] = []
    with tempfile.TemporaryDirectory() as temporary, hub_server() as server:
        home = options.work or Path(temporary)
        if not (home / "images").exists():
            home.mkdir(parents=True, exist_ok=True)
            prepare(home)
        for attack in attacks:
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(home.absolute(), Path(folder))
                hub = (server, Path(temporary) / "hub") if attack.needs_hub else None
                outcome = execute(attack.prepare(bench), bench.folder, attack.largest_file, hub)
            verdict = outcome.verdict(attack)
            outcomes.append((attack, outcome))
            lines = outcome.stderr.splitlines()
            figures = f"{outcome.status!s:>4} {outcome.seconds:5.1f} s {outcome.megabytes:5d} MB {len(lines):4d} lines"
            said = (lines[-1] if "TRACEBACK" in verdict else lines[0] if lines else "").replace(folder, "")[:160]
            print(f"{verdict or 'ok':20} {figures}  {attack.name:50} {said}", flush=True)
            if verdict and options.verbose:
                print(outcome.stderr)
    print_table(outcomes)
    raise SystemExit(any(outcome.verdict(attack) for attack, outcome in outcomes))


if __name__ == "__main__":
    main()
