"""The model card: rendered from a recipe and its result, and from nothing else.

The same recipe and result give the same bytes, on any machine: nothing is looked up on disk or on the Hub. A fact that
the result does not have leaves its line out, or is named under Limitations. Beside the keys of result.json that every
run writes, these are used where they are there: `base_model` (Hub id or null), `command`, `parameters`, `calibration`,
`confused`, `learning_rate`, `steps`, `notes`, `utils.environment.versions`, `utils.environment.commit`, and in `data`: `path_name` (the
data's Hub id, or a local path's last name), `notes`, `duplicates`, `truncated_share`, `license`, `fingerprint`,
`rows_per_class` (training rows), `drawn_share` and `class_weights`; and `elastic_net`, `teacher`, `pretrain` and
`started_from`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from hf_finetune.config.recipe import Recipe, TextData
from hf_finetune.hub.local_paths import is_local, last_name, shorten
from hf_finetune.hub.markdown import code, interval, number, plain, quoted, table, value_cell
from hf_finetune.hub.procedure import adapter_config, procedure
from hf_finetune.utils.plain import short_repr

PLACEHOLDER = "DIR"
"""Stands in a snippet for the run's folder until the run has a repository."""
FEW_ROWS = 20
"""A class with fewer training rows is named under Limitations."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE = re.compile(r".*\.(csv|tsv|jsonl?|parquet|txt|zip)", re.IGNORECASE)
# Ours: what a reader calls it, the Hub's metric, its arguments.
METRICS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "accuracy": ("Accuracy", "accuracy", None),
    "balanced_accuracy": ("Balanced accuracy", "balanced_accuracy", None),
    "macro_f1": ("Macro F1", "f1", {"average": "macro"}),
    "micro_f1": ("Micro F1", "f1", {"average": "micro"}),
    "weighted_f1": ("Weighted F1", "f1", {"average": "weighted"}),
    "matthews_correlation": ("Matthews correlation", "matthews_correlation", None),
    "log_loss": ("Log loss (nats)", "log_loss", None),
    "ece": ("Expected calibration error", "ece", None),
    "roc_auc": ("ROC AUC", "roc_auc", None),
}
UNITS = (("_per_s", "/s"), ("_s", " s"), ("_mb", " MB"), ("_gb", " GB"))


def render_card(recipe: Recipe, result: Mapping[str, Any]) -> str:
    """The card as Markdown under a block of YAML metadata with `model-index`.

    Args:
        recipe: what was run.
        result: content of result.json.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": plain, "code": code, "number": number, "quoted": quoted}
    template = resources.files("hf_finetune.hub").joinpath("card_template.md").read_text(encoding="utf-8")
    text = environment.from_string(template).render(_facts(recipe, result))
    # What is left out leaves its blank lines behind.
    head, block, body = text.partition("\n---\n")
    return head + block + re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", body)).rstrip() + "\n"


def _facts(recipe: Recipe, result: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template asks for."""
    data, hub = result.get("data", {}), recipe.hub
    environment = dict(result.get("environment", {}))
    versions, commit = environment.pop("versions", {}), environment.pop("commit", None)
    judged = _judged(result)
    base = _base_model(recipe, result)
    adapter = _has_adapter(recipe, result)
    command = shorten(result.get("command") or "")
    return {
        "metadata": _metadata(recipe, result, base, judged).to_yaml(),
        "name": recipe.name,
        "task": result["task"],
        "subject": _subject(result, recipe, base),
        "labels": list(result["labels"]),
        "parameters": result.get("parameters"),
        "judged": judged,
        "rows": result["rows"],
        "results": _results(result, judged),
        "findings": _findings(result),
        "calibration": _calibration(result, judged),
        "standalone": result.get("standalone", True),
        "head": _head_function() if "encoder" in result.get("artefacts", ()) else None,
        "why_not_standalone": result.get("why_not_standalone"),
        "pair": "text_pair" in data.get("columns", {}),
        "whole": hub.repo_id or f"{PLACEHOLDER}/model",
        "root": hub.repo_id or PLACEHOLDER,
        "adapter": adapter,
        "base": base,
        "checkpoint": _name_of(recipe.model.checkpoint),
        "auto_class": "AutoModelForSequenceClassification"
        if result["task"] == "text-classification"
        else "AutoModelForImageClassification",
        "data_name": _data_name(recipe, result),
        "data_licence": recipe.data.license or data.get("license"),
        "splits": _splits(result),
        "notes": [shorten(note) for note in (*data.get("notes", ()), *result.get("notes", ()))],
        "fingerprint": data.get("fingerprint"),
        "pretrain": _pretrain(result),
        "procedure": table(("field", "value"), procedure(recipe, result)),
        "adapter_config": adapter_config(recipe),
        "cost": table(("what", "measured"), _quantities(result, "time", "throughput", "memory")),
        "environment": table(("hardware", ""), _quantities({"environment": environment}, "environment")),
        "parity": _parity(result),
        "command": command,
        # Longer than any run of backticks within.
        "fence": "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": commit,
        "limitations": _limitations(recipe, result, base, judged),
    }


def _metadata(recipe: Recipe, result: Mapping[str, Any], base: str | None, judged: str) -> ModelCardData:
    """The YAML block; every value in it goes through a YAML writer."""
    data, hub = recipe.data, recipe.hub
    data_id = _data_id(recipe, result)
    standalone = result.get("standalone", True)
    adapter = _has_adapter(recipe, result)
    own_split = data.test if judged == "test" else data.validation
    found = result["metrics"][judged]
    licence = hub.license
    listed = licence is None or re.fullmatch(r"[a-z0-9.+-]+", licence)
    return ModelCardData(
        language=hub.language,
        license=licence if listed else "other",
        license_name=None if listed else licence,
        library_name="transformers" if standalone or not adapter else "peft",
        pipeline_tag=result["task"],
        tags=["hf_finetune", *([result["method"], "peft"] if adapter else [])],
        base_model=base,
        datasets=None if data_id is None else [data_id],
        metrics=list(dict.fromkeys(_metric(name)[1] for name in found)),
        model_name=recipe.name,
        eval_results=[
            EvalResult(
                task_type=result["task"],
                task_name=result["task"].replace("-", " ").capitalize(),
                # The field is needed, but only an id on the Hub names a data set there.
                dataset_type=data_id or "local",
                dataset_name=f"{data_id or _local_data_name(recipe, result)}, {judged} split",
                dataset_config=data.config_name if data_id else None,
                dataset_revision=data.revision if data_id else None,
                dataset_split=own_split if own_split and re.fullmatch(r"\w+", own_split) else judged,
                metric_type=_metric(name)[1],
                metric_name=_metric(name)[0],
                metric_args=_metric(name)[2],
                metric_value=round(measured["value"], 4),
            )
            for name, measured in found.items()
        ],
    )


# Facts


def _judged(result: Mapping[str, Any]) -> str:
    return "test" if "test" in result["metrics"] else "validation"


def _metric(name: str) -> tuple[str, str, dict[str, Any] | None]:
    return METRICS.get(name, (name.replace("_", " ").capitalize(), name, None))


def _has_adapter(recipe: Recipe, result: Mapping[str, Any]) -> bool:
    """Whether adapter/ is among what the run saved."""
    adapts = result["method"] not in ("full", "top", "head") and not recipe.model.surgery
    return adapts and "adapter" in result.get("artefacts", ("adapter",))


def _head_function() -> str:
    """The lines that apply head.safetensors, as the parity gate runs them in a process that has nothing of this package."""
    source = resources.files("hf_finetune").joinpath("parity_child.py").read_text(encoding="utf-8")
    function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "head_logits")
    return ast.get_source_segment(source, function) or ""


def _base_model(recipe: Recipe, result: Mapping[str, Any]) -> str | None:
    """The checkpoint's Hub id; what only looks like one is a path when the result says so."""
    checkpoint = recipe.model.checkpoint
    if "base_model" in result:
        found = result["base_model"]
    elif _is_hub_id(checkpoint) and result.get("checkpoint", checkpoint) == checkpoint:
        found = checkpoint
    else:
        found = recipe.model.base_model
    return found if found is not None and re.fullmatch(r"[\w-][\w./-]*", found) and found.count("/") < 2 else None


def _data_id(recipe: Recipe, result: Mapping[str, Any]) -> str | None:
    path = recipe.data.path
    here = result.get("data", {}).get("path_name", path) != path
    return path if _is_hub_id(path) and not here else None


def _is_hub_id(text: str) -> bool:
    return HUB_ID.fullmatch(text) is not None and FILE.fullmatch(text) is None


def _local_data_name(recipe: Recipe, result: Mapping[str, Any]) -> str:
    return result.get("data", {}).get("path_name") or _name_of(recipe.data.path)


def _name_of(path: str) -> str:
    return last_name(path) if is_local(path) else path


def _subject(result: Mapping[str, Any], recipe: Recipe, base: str | None) -> str:
    kind = "text" if isinstance(recipe.data, TextData) else "image"
    if kind == "text" and "text_pair" in result.get("data", {}).get("columns", {}):
        kind = "text pair"
    model = _network(recipe, base)
    if recipe.model.surgery:
        model += f", after {code(', '.join(map(short_repr, recipe.model.surgery)))},"
    match result["method"]:
        case "full":
            how = "all its weights " + (
                "fine-tuned" if recipe.model.from_config is None else "trained from random ones"
            )
        case "top":
            layers = recipe.model.top_layers
            how = f"only its top {number(layers)} layer{'s' * (layers != 1)} and the classification layer fine-tuned"
        case "head":
            how = "only its classification layer trained, on frozen features"
        case method:
            whole = result.get("standalone", True) or "encoder" in result.get("artefacts", ())
            merged = ", merged into the weights" if whole else ""
            how = f"{method} adapters{merged}"
    if before := result.get("started_from"):
        how += f", after the run {code(before['name'])} for {number(len(before['labels']))} classes"
    if result.get("pretrain"):
        how += ", after more pretraining on rows without labels"
    if taught := result.get("teacher"):
        how += f", taught by {code(taught['name'])}"
    article = "An" if kind == "image" else "A"
    return f"{article} {kind} classifier: {model} with {how}."


def _network(recipe: Recipe, base: str | None) -> str:
    """What was trained: a checkpoint, or a network that has nothing of one but its build."""
    name, sizes = _name_of(recipe.model.checkpoint), recipe.model.from_config
    if sizes is not None:
        changed = ", ".join(f"{field}: {value}" for field, value in sizes.items())
        return f"a network built as {code(name)}" + (f" but for {code(changed)}," if changed else "")
    return f"[{base}](https://huggingface.co/{base})" if base else f"the local checkpoint {code(name)}"


def _data_name(recipe: Recipe, result: Mapping[str, Any]) -> str:
    data_id = _data_id(recipe, result)
    if data_id is None:
        return f"Local data: {code(_local_data_name(recipe, result))}"
    details = [
        f"{n} {code(v)}"
        for n, v in (("configuration", recipe.data.config_name), ("revision", recipe.data.revision))
        if v
    ]
    return ", ".join([f"[{data_id}](https://huggingface.co/datasets/{data_id})", *details])


def _results(result: Mapping[str, Any], judged: str) -> str:
    columns = {"this model": result["metrics"][judged]}
    for key, baseline in result.get("baselines", {}).items():
        name = baseline.get("name", key)
        columns[key if name == key else f"{key} ({name})"] = baseline
    if judged == "test" and "validation" in result["metrics"]:
        columns["this model, validation"] = result["metrics"]["validation"]
    body = [
        [_metric(metric)[0], *(interval(found.get(metric)) for found in columns.values())]
        for metric in result["metrics"][judged]
    ]
    return table(("metric", *columns), body)


def _findings(result: Mapping[str, Any]) -> list[str]:
    """The model's accuracy against each baseline's and its teacher's, on the same rows, where the result has a `difference`;
    and which classes it confuses most."""
    lines = [
        f"Against the {key} baseline, row by row: {_points(found['difference'])} points of accuracy, "
        f"{found['difference']['verdict']}."
        for key, found in result.get("baselines", {}).items()
        if "difference" in found
    ]
    if taught := result.get("teacher"):
        accuracy = taught["metrics"][_judged(result)]["accuracy"]
        lines.append(
            f"Against its teacher {code(taught['name'])}, whose accuracy is {interval(accuracy)}, row by row: "
            f"{_points(taught['difference'])} points, {taught['difference']['verdict']}."
        )
    # Of two classes the metrics tell as much.
    if len(result["labels"]) > 2 and (pairs := result.get("confused")):
        most = "; ".join(
            f"{number(p['count'])} of {number(p['support'])} {code(p['label'])} as {code(p['predicted'])}"
            for p in pairs
        )
        lines.append(f"Most often taken for another class: {most}.")
    return lines


def _pretrain(result: Mapping[str, Any]) -> list[str]:
    """What the first stage did, a line each; none where there was none."""
    if not (found := result.get("pretrain")):
        return []
    rows, left_out, held_out = found["rows"], found["left_out"], found["held_out_loss"]
    lines = [
        f"{code(found['objective'])} on {number(rows['pretrained'])} rows, {number(rows['held_out'])} more held out: "
        f"{number(rows['of_train'])} from the training data, {number(rows['of_further'])} from elsewhere, none with its label. "
        f"Left out: {number(left_out['evaluated'])} that are validation or test rows, {number(left_out['repeated'])} repeated, "
        f"{number(left_out['unusable'])} empty or damaged.",
        f"{number(found['steps'])} steps at a peak learning rate of {number(found['learning_rate'])}, those until step "
        f"{number(found['kept_step'])} kept; loss of the held-out rows {held_out['first']:.3f} before, {held_out['kept']:.3f} after.",
    ]
    if without := found.get("without"):
        lines.append(
            f"Against the same recipe without this stage, trained for {number(without['steps'])} steps so that all steps take as "
            f"long ({number(without['loop_s'])} s, {number(without['loop_s_with'])} s with it), whose accuracy is "
            f"{interval(without['accuracy'])}, row by row: {_points(without['difference'])} points, "
            f"{without['difference']['verdict']}."
        )
        if _judged(result) == "validation":
            lines.append(
                "Both chose their best epoch on these very rows, the one without this stage among more epochs: that is to its "
                "advantage."
            )
    return lines


def _points(difference: Mapping[str, Any]) -> str:
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _calibration(result: Mapping[str, Any], judged: str) -> dict[str, Any] | None:
    found, ece = result.get("calibration", {}), result["metrics"][judged].get("ece")
    if not found and ece is None:
        return None
    bins = [
        (f"{b['low']:.2f} to {b['high']:.2f}", f"{b['confidence']:.3f}", f"{b['accuracy']:.3f}", number(b["count"]))
        for b in found.get("bins", ())
    ]
    return {
        "ece": interval(ece or found.get("ece")),
        "temperature": found.get("temperature"),
        "bins": table(("confidence", "mean", "right", "rows"), bins),
    }


def _splits(result: Mapping[str, Any]) -> str:
    duplicates = result.get("data", {}).get("duplicates", {})
    body = [
        (split, number(n), number(duplicates[split]) if split in duplicates else "")
        for split, n in result["rows"].items()
    ]
    return table(("split", "rows", "also in train"), body)


def _quantities(result: Mapping[str, Any], *groups: str) -> list[tuple[str, str]]:
    """Rows of measured numbers, their unit taken from the end of their name."""
    found = []
    for group in groups:
        for name, value in result.get(group, {}).items():
            if value is None or isinstance(value, dict | list):
                continue
            suffix, unit = next((u for u in UNITS if name.endswith(u[0])), ("", ""))
            found.append((name.removesuffix(suffix).replace("_", " "), value_cell(value) + unit))
    return found


def _parity(result: Mapping[str, Any]) -> str:
    body = []
    for name, check in result.get("parity", {}).items():
        difference, agree = check.get("max_abs_difference"), check.get("labels_agree")
        measured = (
            f"{difference:.1e}" if difference is not None else f"{agree} labels agree" if agree is not None else ""
        )
        if "error" in check:
            measured = "it could not be loaded"
        allowed = f"{check['tolerance']:.0e}" if "tolerance" in check else ""
        body.append(
            (name, measured, allowed, number(check["rows"]) if "rows" in check else "", "yes" if check["ok"] else "NO")
        )
    return table(("saved as", "largest difference", "allowed", "rows", "same"), body)


def _limitations(recipe: Recipe, result: Mapping[str, Any], base: str | None, judged: str) -> list[str]:
    """What the numbers of this very run do not show."""
    data, found = result.get("data", {}), []
    if judged == "validation":
        found.append("No test split: no claim about rows that had no part in choosing the weights.")
    accuracy = result["metrics"][judged].get("accuracy")
    for key, baseline in result.get("baselines", {}).items():
        other, difference = baseline.get("accuracy"), baseline.get("difference")
        if difference is not None:
            if difference["verdict"] == "worse":
                found.append(f"Worse than the {key} baseline: {_points(difference)} points of accuracy, row by row.")
            elif difference["verdict"] != "better":
                found.append(
                    f"No signal over the {key} baseline: {_points(difference)} points of accuracy, row by row."
                )
        elif accuracy and other and accuracy["high"] < other["low"]:
            found.append(
                f"Worse than the {key} baseline: its accuracy is {interval(other)}, this model's {interval(accuracy)}."
            )
        elif accuracy and other and accuracy["low"] <= other["high"]:
            found.append(
                f"No signal over the {key} baseline: its accuracy {interval(other)} and this model's "
                f"{interval(accuracy)} overlap."
            )
    found += [f"{note[0].upper()}{note[1:]}." for note in (result.get("teacher") or {}).get("notes", ())]
    if isinstance(recipe.data, TextData) and (truncated := data.get("truncated_share")):
        found.append(
            f"{100 * truncated:.1f}% of the training texts are longer than {recipe.data.max_length} tokens; "
            "the rest of them was cut off."
        )
    for split, count in data.get("duplicates", {}).items():
        if count:
            found.append(
                f"{number(count)} of {number(result['rows'][split])} {split} rows are in train as well: "
                "a memory would answer them."
            )
    rare = [(name, rows) for name, rows in data.get("rows_per_class", {}).items() if rows < FEW_ROWS]
    if rare:
        named = ", ".join(f"{code(name)} ({rows})" for name, rows in rare[:10]) + (", ..." if len(rare) > 10 else "")
        found.append(f"{len(rare)} classes have fewer than {FEW_ROWS} training rows: {named}.")
    found.append(f"One run with seed {result['seed']}: the intervals cover the choice of rows, not that of the seed.")
    unknown = [
        *(["the base model's id on the Hub"] if base is None and recipe.model.from_config is None else []),
        *(["the language of the texts"] if isinstance(recipe.data, TextData) and not recipe.hub.language else []),
        *(["the licence of the model"] if not recipe.hub.license else []),
        *(["the licence of the data"] if not (recipe.data.license or data.get("license")) else []),
    ]
    if unknown:
        found.append(f"Not stated: {'; '.join(unknown)}.")
    return found
