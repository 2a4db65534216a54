"""The model card: rendered from a recipe and its result, and from nothing else.

The same recipe and result give the same bytes, on any machine: nothing is looked up on disk or on the Hub. A fact that
the result does not have leaves its line out, or is named under Limitations. Beside the keys of result.json that every
run writes, these are used where they are there: `base_model` (Hub id or null), `command`, `parameters`, `calibration`,
`confused`, `learning_rate`, `steps`, `notes`, `environment.versions`, `environment.commit`, and in `data`: `path_name`
(the data's Hub id, or a local path's last name), `notes`, `duplicates`, `truncated_share`, `license`, `fingerprint`,
`rows_per_class` (training rows), `drawn_share` and `class_weights`; and `elastic_net`, `teacher`, `pretrain` and
`started_from`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import jinja2

from hf_finetune.evaluation.metrics import METRICS
from hf_finetune.hub.limitations import limitations
from hf_finetune.hub.local_paths import shorten
from hf_finetune.hub.markdown import code, interval, number, percentage_points, plain, quoted, table, value_cell
from hf_finetune.hub.metadata import metadata
from hf_finetune.hub.procedure import adapter_config, procedure
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.utils.plain import short_repr

PLACEHOLDER = "DIR"
"""Stands in a snippet for the run's folder until the run has a repository."""
UNITS = (("_per_s", "/s"), ("_s", " s"), ("_mb", " MB"), ("_gb", " GB"))


def render_card(run: RunFacts) -> str:
    """Return the card as Markdown under a block of YAML metadata with `model-index`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": plain, "code": code, "number": number, "quoted": quoted}
    template = resources.files("hf_finetune.hub").joinpath("card_template.md").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        run=run,
        recipe=run.recipe,
        result=run.result,
        metadata=metadata(run).to_yaml(),
        **_load(run),
        **_sections(run),
        **_origin(run),
    )
    # What is left out leaves its blank lines behind.
    head, block, body = text.partition("\n---\n")
    return head + block + re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", body)).rstrip() + "\n"


def _load(run: RunFacts) -> dict[str, Any]:
    """What the snippets under "How to use" name."""
    repo_id = run.recipe.hub.repo_id
    return {
        "whole": repo_id or f"{PLACEHOLDER}/model",
        "root": repo_id or PLACEHOLDER,
        "head": _head_function() if run.has_own_head else None,
        "auto_class": f"AutoModelFor{'Sequence' if run.reads_text else 'Image'}Classification",
    }


def _sections(run: RunFacts) -> dict[str, Any]:
    """What the template prints of the run, section by section."""
    return {
        "subject": _subject(run),
        "metrics_table": _metrics_table(run),
        "findings": list(_findings(run)),
        "calibration": _calibration(run),
        "data_source": _data_source(run),
        "splits": _splits(run),
        "notes": [shorten(note) for note in (*run.data.get("notes", ()), *run.result.get("notes", ()))],
        "pretraining": list(_pretraining(run)),
        "procedure": table(("field", "value"), procedure(run)),
        "adapter_config": adapter_config(run),
        "parity": _parity(run),
        "limitations": list(limitations(run)),
    }


def _origin(run: RunFacts) -> dict[str, Any]:
    """Cost, hardware and command of the run."""
    environment = dict(run.result.get("environment", {}))
    versions, commit = environment.pop("versions", {}), environment.pop("commit", None)
    command = shorten(run.result.get("command") or "")
    measured = [run.result.get(group, {}) for group in ("time", "throughput", "memory")]
    return {
        "cost": table(("what", "measured"), _quantities(*measured)),
        "environment": table(("hardware", ""), _quantities(environment)),
        "command": command,
        # Longer than any run of backticks within.
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": commit,
    }


def _head_function() -> str:
    """The lines that apply head.safetensors, as the parity gate runs them in a process that has nothing of this
    package."""
    source = resources.files("hf_finetune.hub").joinpath("plain_loading.py").read_text(encoding="utf-8")
    function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "head_logits")
    return ast.get_source_segment(source, function) or ""


def _subject(run: RunFacts) -> str:
    """One sentence: what kind of classifier this is, and how it was trained."""
    kind = "An image" if not run.reads_text else "A text pair" if run.reads_pairs else "A text"
    network = _network(run)
    if surgery := run.recipe.model.surgery:
        network += f", after {code(', '.join(map(short_repr, surgery)))},"
    how = _training(run)
    if before := run.result.get("started_from"):
        how += f", after the run {code(before['name'])} for {number(len(before['labels']))} classes"
    if run.result.get("pretrain"):
        how += ", after continued pretraining on unlabeled rows"
    if run.teacher:
        how += f", taught by {code(run.teacher['name'])}"
    return f"{kind} classifier: {network} with {how}."


def _network(run: RunFacts) -> str:
    """What was trained: a checkpoint, or a network that has nothing of one but its architecture."""
    name, sizes = code(run.checkpoint_name), run.recipe.model.from_config
    if sizes is not None:
        changed = ", ".join(f"{field}: {value}" for field, value in sizes.items())
        return f"a network with the architecture of {name}" + (f" but for {code(changed)}," if changed else "")
    if base := run.base_model:
        return f"[{base}](https://huggingface.co/{base})"
    return f"the local checkpoint {name}"


def _training(run: RunFacts) -> str:
    """Which weights were trained."""
    match run.result["method"]:
        case "full":
            start = "fine-tuned" if run.recipe.model.from_config is None else "trained from random initialization"
            return f"all its weights {start}"
        case "top":
            layers = run.recipe.model.top_layers
            return f"only its top {number(layers)} layer{'s' * (layers != 1)} and the classification layer fine-tuned"
        case "head":
            return "only its classification layer trained, on frozen features"
        case method:
            return f"{method} adapters" + (", merged into the weights" if run.standalone or run.has_own_head else "")


def _data_source(run: RunFacts) -> str:
    if run.data_id is None:
        return f"Local data: {code(run.data_name)}"
    named = {"configuration": run.recipe.data.config_name, "revision": run.recipe.data.revision}
    details = [f"{name} {code(value)}" for name, value in named.items() if value]
    return ", ".join([f"[{run.data_id}](https://huggingface.co/datasets/{run.data_id})", *details])


def _metrics_table(run: RunFacts) -> str:
    """Metrics beside those of the baselines, and of the validation rows."""
    columns = {"this model": run.metrics}
    for key, baseline in run.result.get("baselines", {}).items():
        name = baseline.get("name", key)
        columns[key if name == key else f"{key} ({name})"] = baseline
    if run.split == "test" and "validation" in run.result["metrics"]:
        columns["this model, validation"] = run.result["metrics"]["validation"]
    body = [[METRICS[name].title, *(interval(c.get(name)) for c in columns.values())] for name in run.metrics]
    return table(("metric", *columns), body)


def _findings(run: RunFacts) -> Iterator[str]:
    """Paired differences to the baselines and the teacher, where the result has them; and the most frequent
    confusions."""
    for key, baseline in run.result.get("baselines", {}).items():
        if difference := baseline.get("difference"):
            points = percentage_points(difference)
            yield f"Against the {key} baseline, row by row: {points} points of accuracy, {difference['verdict']}."
    if teacher := run.teacher:
        accuracy, difference = teacher["metrics"][run.split]["accuracy"], teacher["difference"]
        yield (
            f"Against its teacher {code(teacher['name'])}, whose accuracy is {interval(accuracy)}, row by row: "
            f"{percentage_points(difference)} points, {difference['verdict']}."
        )
    # Of two classes the metrics tell as much.
    if len(run.result["labels"]) > 2 and (confusions := run.result.get("confused")):
        most = "; ".join(
            f"{number(c['count'])} of {number(c['support'])} {code(c['label'])} as {code(c['predicted'])}"
            for c in confusions
        )
        yield f"Most frequent confusions: {most}."


def _pretraining(run: RunFacts) -> Iterator[str]:
    """What continued pretraining did, a line each."""
    if not (stage := run.result.get("pretrain")):
        return
    rows, left_out, loss = stage["rows"], stage["left_out"], stage["held_out_loss"]
    yield (
        f"{code(stage['objective'])} on {number(rows['pretrained'])} rows, {number(rows['held_out'])} more held out: "
        f"{number(rows['of_train'])} from the training data, {number(rows['of_further'])} from elsewhere, none with "
        f"its label. Dropped: {number(left_out['evaluated'])} that are validation or test rows, "
        f"{number(left_out['repeated'])} duplicates, {number(left_out['unusable'])} empty or damaged."
    )
    yield (
        f"{number(stage['steps'])} steps at a peak learning rate of {number(stage['learning_rate'])}, best at step "
        f"{number(stage['kept_step'])}; loss of the held-out rows {loss['first']:.3f} before, {loss['kept']:.3f} after."
    )
    if without := stage.get("without"):
        difference = without["difference"]
        yield (
            f"Against the same recipe without pretraining, trained for {number(without['steps'])} steps so that all "
            f"steps take as long ({number(without['loop_s'])} s, {number(without['loop_s_with'])} s with it), whose "
            f"accuracy is {interval(without['accuracy'])}, row by row: {percentage_points(difference)} points, "
            f"{difference['verdict']}."
        )
        if run.split == "validation":
            yield (
                "Both chose their best epoch on these very rows, the one without pretraining among more epochs: that "
                "is to its advantage."
            )


def _calibration(run: RunFacts) -> dict[str, Any] | None:
    calibration, ece = run.result.get("calibration", {}), run.metrics.get("ece")
    if not calibration and ece is None:
        return None
    bins = [
        (f"{b['low']:.2f} to {b['high']:.2f}", f"{b['confidence']:.3f}", f"{b['accuracy']:.3f}", number(b["count"]))
        for b in calibration.get("bins", ())
    ]
    return {
        "ece": interval(ece or calibration.get("ece")),
        "temperature": calibration.get("temperature"),
        "bins": table(("confidence", "mean", "accuracy", "rows"), bins),
    }


def _splits(run: RunFacts) -> str:
    duplicates = {split: number(count) for split, count in run.data.get("duplicates", {}).items()}
    body = [(split, number(rows), duplicates.get(split, "")) for split, rows in run.result["rows"].items()]
    return table(("split", "rows", "also in train"), body)


def _quantities(*groups: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows of measured numbers, their unit taken from the end of their name."""
    for name, value in ((name, value) for group in groups for name, value in group.items()):
        if value is not None and not isinstance(value, dict | list):
            suffix, unit = next((u for u in UNITS if name.endswith(u[0])), ("", ""))
            yield name.removesuffix(suffix).replace("_", " "), value_cell(value) + unit


def _parity(run: RunFacts) -> str:
    def measured(check: Mapping[str, Any]) -> str:
        if "error" in check:
            return "it could not be loaded"
        if (difference := check.get("max_abs_difference")) is not None:
            return f"{difference:.1e}"
        return "" if check.get("labels_agree") is None else f"{check['labels_agree']} labels agree"

    body = [
        (
            name,
            measured(check),
            f"{check['tolerance']:.0e}" if "tolerance" in check else "",
            number(check["rows"]) if "rows" in check else "",
            "yes" if check["ok"] else "NO",
        )
        for name, check in run.result.get("parity", {}).items()
    ]
    return table(("saved as", "largest difference", "allowed", "rows", "same"), body)
