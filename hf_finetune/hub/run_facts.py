"""Facts about a finished run's model, base, data and scored split, read from its recipe and result."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from hf_finetune.config.recipe import Recipe, recipe_from_plain
from hf_finetune.errors import InputError
from hf_finetune.evaluation.report import worst_classes
from hf_finetune.hub.local_paths import is_local, last_name
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import task_kind
from hf_finetune.utils.config_errors import NOUNS
from hf_finetune.utils.files import read_json
from hf_finetune.utils.manifest import read_result
from hf_finetune.utils.messages import short

RESTORE = "restore it, or train again"
SECTIONS: dict[str, type] = {
    **dict.fromkeys(("name", "task", "method"), str),
    **dict.fromkeys(
        ("metrics", "data", "baselines", "parity", "time", "memory", "teacher", "environment", "per_class"), dict
    ),
    **dict.fromkeys(("labels", "notes", "artefacts", "doubts"), list),
}
"""Types of sections of result.json that a reader relies on; any may be missing in the folder of an old run."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FEW_ROWS = 20
"""A class with fewer training rows is named on the card."""
SHOWN_CLASSES, FOLDED_CLASSES = 10, 200
"""Lines of the card's table of classes, and of its folded continuation."""
FILE = re.compile(r".*\.(csv|tsv|jsonl?|xlsx|parquet|txt|zip)(\.gz|\.zst)?", re.IGNORECASE)


@dataclass(frozen=True)
class RunFacts:
    """A recipe and the content of its result.json; nothing is looked up on disk or on the Hub."""

    recipe: Recipe
    result: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the folder of a finished run of any version.

        Raises:
            InputError: see `read_documents`.
        """
        record, result = read_documents(folder)
        if missing := [name for name in ("task", "method", "metrics") if result.get(name) is None]:
            raise InputError(f"{folder / 'result.json'}: it lacks {missing[0]}; {RESTORE}")
        return cls(recipe_from_plain(record["recipe"]), result)

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """The `data` section of the result."""
        return self.result.get("data", {})

    @cached_property
    def teacher(self) -> Mapping[str, Any]:
        """The `teacher` section of the result, empty without a teacher."""
        return self.result.get("teacher") or {}

    @cached_property
    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """The metrics of each baseline, by its key."""
        return self.result.get("baselines", {})

    @cached_property
    def notes(self) -> Sequence[str]:
        """Notes on the data and on the run."""
        return [*self.data.get("notes", ()), *self.result.get("notes", ())]

    @cached_property
    def reads_text(self) -> bool:
        """Whether the model classifies texts or their words, not images."""
        return self.result["task"] != "image-classification"

    @cached_property
    def scores_words(self) -> bool:
        """Whether the model scores the words of a text."""
        return self.result["task"] == "token-classification"

    @cached_property
    def long_texts(self) -> dict[str, Any] | None:
        """Arguments of the function of `plain_loading` that reads long texts. None: they are cut off."""
        data = self.recipe.data
        return data.long.plain_settings(data.max_length) if data.kind == "text" else None

    @cached_property
    def averages_windows(self) -> bool:
        """Whether the logits of a text are the mean of its windows'."""
        return self.long_texts is not None and "most" in self.long_texts and self.recipe.chunk_pooling is None

    @cached_property
    def reads_pairs(self) -> bool:
        """Whether the model classifies pairs of texts."""
        return "text_pair" in self.data.get("columns", {})

    @cached_property
    def task(self) -> type[Task]:
        """The problem type."""
        return task_kind(self.result)

    @property
    def earlier_outputs(self) -> str:
        """What the run that this one started from predicts: classes, tags or target."""
        return task_kind(self.result.get("started_from") or {}).outputs

    @cached_property
    def epoch_metric(self) -> str:
        """The validation metric that chose the best epoch."""
        return self.recipe.evaluate.metric or self.task.epoch_metric

    @cached_property
    def split(self) -> str:
        """The split that the card reports: test, or validation without a test split."""
        return "test" if "test" in self.result["metrics"] else "validation"

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics of the reported split, with intervals."""
        return self.result["metrics"][self.split]

    @cached_property
    def class_scores(self) -> Mapping[str, Mapping[str, Any]]:
        """Precision, recall, F1 and rows of each class of the reported split, by label; empty for an old run."""
        return (self.result.get("per_class") or {}).get(self.split, {})

    @cached_property
    def worst_classes(self) -> Sequence[str]:
        """The classes that the card shows, those with the lowest F1 first."""
        return worst_classes(self.class_scores, SHOWN_CLASSES)

    @cached_property
    def other_classes(self) -> Sequence[str]:
        """Further classes, which the card folds away; empty if they are too many for a page."""
        others = worst_classes(self.class_scores)[SHOWN_CLASSES:]
        return others if len(others) <= FOLDED_CLASSES else ()

    @cached_property
    def is_classical(self) -> bool:
        """Whether the model is a pipeline of scikit-learn."""
        return self.result["method"] == "classical"

    @cached_property
    def is_graph(self) -> bool:
        """Whether the model is a graph of ONNX."""
        return "onnx" in self.result.get("artefacts", ())

    @cached_property
    def example_table(self) -> dict[str, list[Any]]:
        """A row that the pipeline of method classical reads, by column; of images, the path of one."""
        columns = self.data.get("columns", {})
        if not self.reads_text:
            example: dict[str, list[Any]] = {columns.get("image", "image"): ["image.jpg"]}
        else:
            texts = [columns.get("text", "text"), *([columns["text_pair"]] if "text_pair" in columns else [])]
            example = {name: ["A text to classify."] for name in texts}
        read = (self.result.get("classical") or {}).get("columns", {})
        return example | {n: [1.0] for n in read.get("numbers", ())} | {n: ["a name"] for n in read.get("names", ())}

    @cached_property
    def standalone(self) -> bool:
        """Whether model/ loads as a stock class of transformers."""
        return self.result.get("standalone", True)

    @cached_property
    def has_custom_head(self) -> bool:
        """Whether the run saved encoder/ and head.safetensors in place of model/."""
        return "encoder" in self.result.get("artefacts", ())

    @cached_property
    def has_adapter(self) -> bool:
        """Whether the run saved adapter/."""
        adapts = self.result["method"] not in ("full", "top", "head", "classical") and not self.recipe.model.surgery
        return adapts and "adapter" in self.result.get("artefacts", ("adapter",))

    @cached_property
    def base_model(self) -> str | None:
        """The checkpoint's Hub id, or None; the result decides whether `a/b` is an id or a path."""
        checkpoint = self.recipe.model.checkpoint
        if "base_model" in self.result:
            base = self.result["base_model"]
        elif _is_hub_id(checkpoint) and self.result.get("checkpoint", checkpoint) == checkpoint:
            base = checkpoint
        else:
            base = self.recipe.model.base_model
        return base if base is not None and re.fullmatch(r"[\w-][\w./-]*", base) and base.count("/") < 2 else None

    @cached_property
    def checkpoint_name(self) -> str:
        """The checkpoint as the user named it, or the last part of a local path."""
        return _name(self.recipe.model.checkpoint)

    @cached_property
    def data_id(self) -> str | None:
        """The Hub id of the data set, or None for local data."""
        path = self.recipe.data.path
        return path if _is_hub_id(path) and self.data.get("path_name", path) == path else None

    @cached_property
    def data_name(self) -> str:
        """The Hub id of the data set, or the last part of a local path."""
        return self.data_id or self.data.get("path_name") or _name(self.recipe.data.path)

    @cached_property
    def data_license(self) -> str | None:
        """The license of the data, if known."""
        return self.recipe.data.license or self.data.get("license")

    @cached_property
    def rare_classes(self) -> Sequence[tuple[str, int]]:
        """Classes with fewer than `FEW_ROWS` training rows, with their rows."""
        return [(name, rows) for name, rows in self.data.get("rows_per_class", {}).items() if rows < FEW_ROWS]

    @cached_property
    def not_stated(self) -> Sequence[str]:
        """What a card should state and neither recipe nor result knows."""
        hub = self.recipe.hub
        is_stated = {
            "the base model's id on the Hub": self.base_model
            or self.recipe.model.from_config is not None
            or self.is_classical,
            "the language of the texts": hub.language or not self.reads_text,
            "the license of the model": hub.license,
            "the license of the data": self.data_license,
        }
        return [name for name, stated in is_stated.items() if not stated]

    def shortfall(self, baseline: Mapping[str, Any]) -> Literal["Worse than", "No signal over"] | None:
        """Return how the model fails to beat a baseline: by the paired difference, else by the two intervals."""
        if difference := baseline.get("difference"):
            if difference["verdict"] == "better":
                return None
            return "Worse than" if difference["verdict"] == "worse" else "No signal over"
        ours, theirs = self.metrics.get("accuracy"), baseline.get("accuracy")
        if not ours or not theirs or ours["low"] > theirs["high"]:
            return None
        return "Worse than" if ours["high"] < theirs["low"] else "No signal over"


def read_documents(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of a finished run's recipe.json and result.json.

    Raises:
        InputError: the folder lacks one of them, or it is damaged.
    """
    if not (folder / "recipe.json").is_file():
        raise InputError(f"{folder}: no recipe.json; expected the folder of a finished run")
    record, result = read_json(folder / "recipe.json", RESTORE), read_result(folder)
    if not isinstance(record.get("recipe"), dict):
        raise InputError(f"{folder}: recipe.json holds no recipe; expected the folder of a finished run")
    _check_sections(folder / "recipe.json", record["recipe"], dict.fromkeys(("data", "model", "hub"), dict))
    _check_sections(folder / "result.json", result, SECTIONS)
    _check_sections(folder / "result.json", result.get("metrics") or {}, dict.fromkeys(("test", "validation"), dict))
    checks = result.get("parity") or {}
    _check_sections(folder / "result.json", checks, dict.fromkeys(checks, dict))
    if missing := [name for name in ("task", "method", "labels", "metrics") if result.get(name) is None]:
        raise InputError(f"{folder}: result.json has no {missing[0]!r}; expected the folder of a finished run")
    return record, result


def _check_sections(path: Path, content: Mapping[str, Any], types: Mapping[str, type]) -> None:
    for name, kind in types.items():
        if (value := content.get(name)) is not None and not isinstance(value, kind):
            raise InputError(f"{path}: {name}: expected {NOUNS[kind]}, got {short(value)}; {RESTORE}")


def _is_hub_id(text: str) -> bool:
    return HUB_ID.fullmatch(text) is not None and FILE.fullmatch(text) is None


def _name(path: str) -> str:
    return last_name(path) if is_local(path) else path
