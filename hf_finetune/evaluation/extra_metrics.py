"""Metrics of other people's `evaluate` modules: from a path, an installed package, the cache, or the Hub.

Importing `evaluate` takes seconds: import this module where it is used.

Shapes: N rows, C classes, tags or targets.
"""

import importlib
import importlib.util
import logging
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value
from datasets import Sequence as Repeated
from evaluate.loading import CachedEvaluationModuleFactory, import_main_class
from huggingface_hub import is_offline_mode

from hf_finetune.data.config import Activation
from hf_finetune.errors import InputError
from hf_finetune.evaluation.intervals import Interval, percentile_bounds
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.messages import counted, one_line

logger = logging.getLogger("hf_finetune.run")

RESAMPLES = 200
"""Bootstrap resamples of these metrics: each computes the whole metric again."""
FIELD = "evaluate.extra"
EXPECTED: Mapping[Activation, str] = {
    "softmax": "one class or its probabilities for each row as predictions or prediction_scores, and one class as "
    "references",
    "sigmoid": "lists of a 0 or 1 for each tag, or of its probability, as predictions or prediction_scores, and lists "
    "of a 0 or 1 as references (often `:config_name=multilabel`)",
    "identity": "a number for each row as predictions and references",
}
"""Inputs that a metric may have."""
SYNTAX = re.compile(r"(?P<name>.+?)(?::(?P<arguments>[\w-]+=[^,]+(,[\w-]+=[^,]+)*))?")


@dataclass(frozen=True)
class ExtraMetric:
    """A loaded module with the arguments of its `compute`."""

    spec: str
    """As the user named it: NAME or NAME:ARGUMENT=VALUE,..."""
    key: str
    """Key of its value in result.json, and the beginning of the keys of several values."""
    module: evaluate.EvaluationModule
    arguments: Mapping[str, Any]
    inputs: str
    """Its input column: predictions, or prediction_scores."""
    kind: str
    """What it reads of a row: `class` (its number), `name`, `score` (the probability of the second class), `scores`
    (all probabilities), `tags` (a 0 or 1 for each) or `number`."""
    labels: tuple[str, ...]

    def compute(self, labels: np.ndarray, scores_NC: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Return its values by key.

        Args:
            labels: true class ids, shape (N,), or tags or numbers, shape (N, C).
            scores_NC: probabilities, or numbers.
            predicted: predicted class ids, shape (N,), or tags or numbers, shape (N, C).
        """
        names = np.asarray(self.labels, dtype=object)
        rows = {
            "class": lambda: predicted,
            "name": lambda: names[predicted].tolist(),
            "score": lambda: scores_NC[:, 1],
            "scores": lambda: scores_NC,
            "tags": lambda: predicted,
            "number": lambda: predicted[:, 0],
        }[self.kind]()
        references = {"name": lambda: names[labels].tolist(), "number": lambda: labels[:, 0]}.get(
            self.kind, lambda: labels
        )()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that a resample lacks
            values = self.module.compute(**{self.inputs: rows, "references": references}, **self.arguments)
        return {self._key(name, values): float(value) for name, value in values.items() if _is_number(value)}

    def _key(self, name: str, values: Mapping[str, Any]) -> str:
        return self.key if len(values) == 1 else f"{self.key}_{name}"


def check_extra_metrics(specs: Sequence[str], *, trust_remote_code: bool = False) -> None:
    """Find the modules of metrics, so that a wrong name is refused before the data are read.

    Raises:
        InputError: there is no such metric, or it cannot be imported.
    """
    for spec in specs:
        _named(spec, trust_remote_code)


def load_extra_metrics(
    specs: Sequence[str],
    labels: Sequence[str],
    activation: Activation = "softmax",
    *,
    computed: Collection[str] = (),
    trust_remote_code: bool = False,
) -> tuple[ExtraMetric, ...]:
    """Load metrics and try each on made-up rows, so that one that does not fit fails before the training.

    Args:
        specs: each a path of a script NAME.py or of a folder NAME with it, the dotted name of an installed module, or
            the name of a cached metric; `:ARGUMENT=VALUE,...` behind it are arguments of its `compute`, and
            `config_name` selects its configuration.
        labels: class names, in the order of the class ids; names of tags or targets.
        activation: of classes, tags or numbers.
        computed: names of the metrics that the task has anyway.
        trust_remote_code: download a name that is none of these from the Hub, and run its code.

    Raises:
        InputError: there is no such metric, it needs other inputs than labels and predictions of this kind, it fails on
            them, or is computed already.
    """
    metrics: list[ExtraMetric] = []
    for spec in specs:
        metric = _load(spec, tuple(labels), activation, trust_remote_code)
        if metric.key in {*computed, *(other.key for other in metrics)}:
            raise InputError(f"{FIELD}: {spec}: a metric {metric.key!r} is computed already; leave it out")
        _try_out(metric, activation)
        metrics.append(metric)
    return tuple(metrics)


def with_intervals(
    metrics: Sequence[ExtraMetric],
    labels: np.ndarray,
    scores_NC: np.ndarray,
    predicted: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the values of the metrics with percentile intervals of `RESAMPLES` bootstrap resamples.

    Time is `RESAMPLES` times that of a metric, and is logged. A value that most resamples lack has no interval, and is
    left out with a warning.

    Args:
        labels, scores_NC, predicted: see `ExtraMetric.compute`.
    """
    rng, rows = np.random.default_rng(seed), len(labels)
    drawn = rng.integers(rows, size=(RESAMPLES if metrics else 0, rows))
    intervals: dict[str, Interval] = {}
    for metric in metrics:
        started = time.perf_counter()
        try:
            values = metric.compute(labels, scores_NC, predicted)
        # Foreign code: whatever it raises must not cost the user the finished training.
        except Exception as error:
            logger.warning("%s: %s: %s; left out", FIELD, metric.spec, one_line(error))
            continue
        resampled = [_or_nothing(metric, labels[row], scores_NC[row], predicted[row]) for row in drawn]
        for name, value in values.items():
            of_name = np.array([each[name] for each in resampled if math.isfinite(each.get(name, math.nan))])
            if math.isfinite(value) and len(of_name) > RESAMPLES / 2:
                low, high = percentile_bounds(value, of_name)
                intervals[name] = Interval(value, min(low, value), max(high, value), rows)
            else:
                logger.warning("%s: %s has no value on most resamples of these rows; left out", FIELD, name)
        seconds = time.perf_counter() - started
        logger.info(
            "%s: %s with %d resamples of %s took %.1f s", FIELD, metric.spec, RESAMPLES, counted(rows, "row"), seconds
        )
    return intervals


def _or_nothing(
    metric: ExtraMetric, labels: np.ndarray, scores_NC: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """Return the values, or none where the metric is not defined, as without rows of a class."""
    try:
        return metric.compute(labels, scores_NC, predicted)
    except Exception:  # of foreign code
        return {}


@dataclass(frozen=True)
class _Named:
    """The parts of a spec."""

    name: str
    config: str | None
    arguments: Mapping[str, Any]
    module: evaluate.EvaluationModule


def _named(spec: str, trust_remote_code: bool) -> _Named:
    match = SYNTAX.fullmatch(spec)
    if match is None:
        raise InputError(f"{FIELD}: expected NAME or NAME:ARGUMENT=VALUE, got {spec!r}")
    name, pairs = match["name"], (match["arguments"] or "").split(",") if match["arguments"] else []
    arguments = {pair.split("=")[0]: parse_yaml(pair.partition("=")[2], f"{FIELD}: {spec}") for pair in pairs}
    config = None if (value := arguments.pop("config_name", None)) is None else str(value)
    with _plain_errors(spec):
        return _Named(name, config, arguments, _module(name, config, trust_remote_code))


def _load(spec: str, labels: tuple[str, ...], activation: Activation, trust_remote_code: bool) -> ExtraMetric:
    named = _named(spec, trust_remote_code)
    inputs, kind = _inputs(spec, named.module, labels, activation)
    stem = Path(named.name).name.removesuffix(".py").rpartition(".")[2]
    words = [stem, *([named.config] if named.config else []), *(str(value) for value in named.arguments.values())]
    key = re.sub(r"\W+", "_", "_".join(words)).strip("_").lower()
    return ExtraMetric(spec, key, named.module, named.arguments, inputs, kind, labels)


def _module(name: str, config: str | None, trust_remote_code: bool) -> evaluate.EvaluationModule:
    options: dict[str, Any] = {"keep_in_memory": True, "cache_dir": tempfile.gettempdir()}
    path = Path(name).expanduser()
    if path.exists():
        script = path if path.is_file() else path / f"{path.name}.py"
        if script.suffix != ".py" or not script.is_file():
            raise InputError(f"expected a script NAME.py, or a folder NAME with NAME.py in it; {script} is missing")
        return _class_in(_import_script(script))(config, **options)
    if re.fullmatch(r"\w+(\.\w+)+", name) and _is_installed(name):
        return _class_in(name)(config, **options)
    cached = f"evaluate-metric--{name}" if "/" not in name else name.replace("/", "--")
    try:
        found = CachedEvaluationModuleFactory(cached).get_module()
        return _class_in(found.module_path)(config, hash=found.hash, **options)
    except FileNotFoundError:
        if path.suffix == ".py" or path.is_absolute() or name.startswith("."):
            raise InputError("no such file") from None
        if not trust_remote_code:
            raise InputError(
                "no such path, installed module or cached metric; --trust-remote-code downloads it from the Hub and "
                "runs its code"
            ) from None
        if is_offline_mode():
            raise InputError("it is not in the cache, and HF_HUB_OFFLINE is set: unset it to download it") from None
    return evaluate.load(name, config, **options)


def _import_script(script: Path) -> str:
    """Import a file as a package of its folder, and return the name of the module.

    `evaluate.load` would copy it into a cache, download what its comments name, and refuse `import a, b`.
    """
    name = f"hf_finetune_metric_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script, submodule_search_locations=[str(script.parent)])
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return name


def _class_in(module: str) -> type[evaluate.EvaluationModule]:
    """Return the class of a metric in an importable module."""
    if (kind := import_main_class(module)) is None:
        raise InputError("it holds no class of evaluate.Metric")
    return kind


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _plain_errors(spec: str) -> Iterator[None]:
    """Turn whatever foreign code raises into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise InputError(f"{FIELD}: {spec}: {one_line(error, 300)}") from error


def _inputs(
    spec: str, module: evaluate.EvaluationModule, labels: Sequence[str], activation: Activation
) -> tuple[str, str]:
    """Return the input column of a metric, and what it reads of a row.

    Raises:
        InputError: the metric needs other inputs.
    """
    features = module.features if isinstance(module.features, list) else [module.features]
    for each in features:
        if (kind := _kind(each, len(labels), activation)) is not None:
            return next(name for name in each if name != "references"), kind
    needed = "; or ".join(", ".join(f"{name}: {_type(kind)}" for name, kind in each.items()) for each in features)
    raise InputError(
        f"{FIELD}: {spec}: it needs {needed}; expected {EXPECTED[activation]}, of {len(labels)} "
        f"{'classes' if activation == 'softmax' else 'tags' if activation == 'sigmoid' else 'targets'}"
    )


def _kind(features: Features, num_labels: int, activation: Activation) -> str | None:
    """Return what a metric with these inputs reads of a row, see `ExtraMetric`; None: of another task."""
    if set(features) not in ({"predictions", "references"}, {"prediction_scores", "references"}):
        return None
    column = next(name for name in features if name != "references")
    read, reference = features[column], features["references"]
    if activation == "sigmoid":
        item = _item(read) if _item(reference) == "int" else None
        return None if item is None else {"int": "tags", "float": "scores"}[item]
    if activation == "identity":
        are_floats = all(isinstance(each, Value) and each.dtype.startswith("float") for each in (read, reference))
        return "number" if are_floats and num_labels == 1 else None
    if not isinstance(reference, Value):
        return None
    of_ids, of_names = reference.dtype.startswith(("int", "uint", "float")), reference.dtype == "string"
    if isinstance(read, Value):
        if column == "predictions" and read.dtype.startswith(("int", "uint")) and of_ids:
            return "class"
        if column == "predictions" and read.dtype == "string" and of_names:
            return "name"
        return "score" if read.dtype.startswith("float") and of_ids and num_labels == 2 else None
    nested = isinstance(read, List | Repeated) and isinstance(read.feature, Value)
    return "scores" if nested and read.feature.dtype.startswith("float") and of_ids else None


def _item(kind: Any) -> str | None:
    """Return whether a feature is lists of `int` or of `float`; None: of others, or no lists."""
    inner = kind.feature if isinstance(kind, List | Repeated) else None
    if not isinstance(inner, Value):
        return None
    return next((name for name in ("int", "float") if inner.dtype.removeprefix("u").startswith(name)), None)


def _type(kind: Any) -> str:
    return kind.dtype if isinstance(kind, Value) else f"lists of {_type(getattr(kind, 'feature', kind))}"


def _try_out(metric: ExtraMetric, activation: Activation) -> None:
    """Compute a metric on rows of all classes or tags, two in three of them right, or on numbers."""
    num_labels = len(metric.labels)
    row_N = np.arange(3 * num_labels + (activation != "softmax"))
    labels = row_N % num_labels
    predicted = np.where(row_N % 3 == 0, (labels + 1) % num_labels, labels)
    scores_NC = np.eye(num_labels)[predicted] * 0.8 + 0.2 / num_labels
    if activation == "sigmoid":
        # The last row has no tag.
        has_tag_N1 = (row_N < row_N[-1])[:, None]
        labels, predicted = (np.eye(num_labels, dtype=np.int64)[ids] * has_tag_N1 for ids in (labels, predicted))
    elif activation == "identity":
        labels, predicted = row_N[:, None].astype(np.float64), row_N[:, None] + 0.5 * (row_N[:, None] % 2)
    with _plain_errors(metric.spec):
        values = metric.compute(labels, scores_NC, predicted)
        if not values:
            raise InputError("expected one number for each of its names, got none; see the arguments of its compute")


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and isinstance(value, int | float | np.number) and not isinstance(value, bool)
