"""The model card: `card_template.md`, rendered from a recipe and its result, and from nothing else.

The same recipe and result give the same bytes on any machine: nothing is looked up on disk or on the Hub. A line whose
fact the result lacks is left out, or the fact is named under Limitations.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from hf_finetune.errors import InputError
from hf_finetune.evaluation.compression_report import NOTES
from hf_finetune.evaluation.metric_tables import METRICS
from hf_finetune.evaluation.report import PLURALS
from hf_finetune.hub import markdown, plots
from hf_finetune.hub.local_paths import shorten
from hf_finetune.hub.metadata import metadata
from hf_finetune.hub.procedure import adapter_config, procedure
from hf_finetune.hub.run_facts import FEW_ROWS, RESTORE, RunFacts
from hf_finetune.utils.messages import one_line
from hf_finetune.utils.plain import short_repr

PLACEHOLDER = "DIR"
"""Stands in a snippet for the run's folder until the run has a repository."""
UNITS = (("_per_s", "/s"), ("_s", " s"), ("_mb", " MB"), ("_gb", " GB"))


def render_card(run: RunFacts) -> str:
    """Return the card as Markdown under a block of YAML metadata with `model-index`."""
    hardware = dict(run.result.get("environment", {}))
    text = _template().render(
        run=run,
        recipe=run.recipe,
        result=run.result,
        metadata=metadata(run).to_yaml(),
        placeholder=PLACEHOLDER,
        plot_folder=plots.FOLDER,
        plot_titles=plots.TITLES,
        metrics={**METRICS, **run.task.metrics},
        columns=_metric_columns(run),
        head_functions=_head_functions(run),
        long_function=_long_function(run),
        read_text=_read_text(run),
        few_rows=FEW_ROWS,
        plurals=PLURALS,
        candidate_notes=NOTES,
        procedure=procedure(run),
        adapter_config=adapter_config(run),
        command=shorten(run.result.get("command") or ""),
        versions=hardware.pop("versions", {}),
        commit=hardware.pop("commit", None),
        hardware=list(_quantities(hardware)),
        cost=[row for group in ("time", "throughput", "memory") for row in _quantities(run.result.get(group, {}))],
    )
    # An omitted line leaves its blank lines behind.
    head, delimiter, body = text.partition("\n---\n")
    return head + delimiter + re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", body)).rstrip() + "\n"


def render_again(folder: Path, drawn: Sequence[str] = ()) -> str:
    """Return the card of a finished run's folder, with these of its plots.

    Raises:
        InputError: see `RunFacts.read`; or result.json does not hold what a card shows.
    """
    run = RunFacts.read(folder)
    try:
        return render_card(replace(run, result={**run.result, "plots": list(drawn)}))
    # Whatever a template and its functions meet in a damaged document.
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, jinja2.UndefinedError) as error:
        raise InputError(
            f"{folder / 'result.json'}: no card can be made of it ({one_line(error)}); {RESTORE}"
        ) from error


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= markdown.FILTERS | {"shorten": shorten, "short_repr": short_repr}
    return environment.from_string(_package_file("card_template.md"))


def _package_file(name: str) -> str:
    return resources.files("hf_finetune.hub").joinpath(name).read_text(encoding="utf-8")


def _function(name: str) -> str:
    """Return the source of a function that the parity gate runs, for people without its types."""
    source = _package_file("plain_loading.py")
    function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
    text = ast.get_source_segment(source, function) or ""
    return text.replace("tokenizer: Any", "tokenizer").replace("layer: Any", "layer")


def _head_functions(run: RunFacts) -> list[str]:
    """Return the sources of the functions that apply head.safetensors."""
    if not run.has_custom_head:
        return []
    names = ["head_logits"] if run.recipe.model.token_network is None else ["token_states", "head_logits"]
    return [_function(name) for name in names]


def _long_function(run: RunFacts) -> str | None:
    """Return the source of the function that reads long texts. None: they are cut off."""
    if run.long_texts is None:
        return None
    return _function("head_and_tail" if "head" in run.long_texts else "windows")


def _read_text(run: RunFacts) -> str:
    """Return the line that reads a text for the snippets without `pipeline`."""
    if run.long_texts is None:
        texts = '"The first text.", "The second text."' if run.reads_pairs else '"A text to classify."'
        return f'inputs = tokenizer({texts}, truncation=True, return_tensors="pt")'
    settings = ", ".join(f"{name}={value}" for name, value in run.long_texts.items())
    call = "inputs = head_and_tail" if "head" in run.long_texts else "inputs, shares = windows"
    return f'{call}(tokenizer, ["A text to classify."], {settings})'


def _metric_columns(run: RunFacts) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of the model, its baselines and its validation split, by column title."""
    columns = {"this model": run.metrics}
    for key, baseline in run.baselines.items():
        name = baseline.get("name", key)
        columns[key if name == key else f"{key} ({name})"] = baseline
    if run.split == "test" and "validation" in run.result["metrics"]:
        columns["this model, validation"] = run.result["metrics"]["validation"]
    return columns


def _quantities(measured: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and values of measured numbers; the suffix of a key is its unit."""
    for name, value in measured.items():
        if value is not None and not isinstance(value, dict | list):
            suffix, unit = next((u for u in UNITS if name.endswith(u[0])), ("", ""))
            yield name.removesuffix(suffix).replace("_", " "), markdown.value_cell(value) + unit
