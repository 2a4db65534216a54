"""Push a finished run to the Hub, pull it, and verify that the copy predicts as the run does."""

import json
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from hf_finetune.config.recipe import Hub
from hf_finetune.data.inputs import TextInputs
from hf_finetune.errors import InputError, PushError, StoppedBySignal
from hf_finetune.hub.contents import named_base
from hf_finetune.hub.push import Pushed, push
from hf_finetune.hub.space.push import SpaceOptions, check_branch, push_space
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.pipeline import parity
from hf_finetune.pipeline.classical.parity import compare_pulled
from hf_finetune.tasks.trained_model import TrainedModel, load_trained
from hf_finetune.tasks.trained_pipeline import Trained, TrainedPipeline, load_finished, refuse_local_checkpoints
from hf_finetune.utils.artifacts import HEAD_FILE, artifacts_in
from hf_finetune.utils.sequences import LETTERS


def push_run(folder: Path, target: Hub, *, include_predictions: bool = False) -> Pushed:
    """Push a finished run in one commit, pull it, and compare the logits of both copies.

    Raises:
        InputError: no token, no such run, no right to write.
        PushError: the Hub kept failing.
        GateError: the pulled copy differs in a byte or in its logits.
    """

    def check_logits(pulled: Path) -> None:
        finished = load_finished(str(folder))
        if isinstance(finished, TrainedPipeline):
            parity.refuse_failed(
                {"pull": compare_pulled(finished, artifacts_in(pulled)["classical"], _probe_rows(finished))}
            )
            return
        sent = artifacts_in(pulled)
        has_named_base = named_base(json.loads((folder / "recipe.json").read_text(encoding="utf-8"))) is not None
        local = finished
        rows = _probe_rows(local)
        kind = next(iter(artifacts_in(folder)))
        if kind == "onnx":
            parity.refuse_failed({"pull": _compare_graphs(finished, pulled, rows)})
            return
        head = pulled / HEAD_FILE if kind == "encoder" else None
        artifacts = [] if kind == "adapter" else [parity.Artifact("pull", sent[kind], head=head)]
        if kind == "adapter" or ("adapter" in sent and has_named_base):
            artifacts.append(_pulled_adapter(folder, sent["adapter"], on_named_base=has_named_base))
        encoded = local.inputs.encode(rows)
        expected_NC = parity.reference_logits(local.model, local.inputs, encoded)
        with parity.checking(
            artifacts,
            rows=parity.rows_to_load(rows, encoded),
            expected_NC=expected_NC,
            size=local.task.logit_size(expected_NC),
            labels=local.labels,
            long=parity.plain_settings(local.inputs),
            task=local.task.hub_task(local.kind),
        ) as checks:
            parity.refuse_failed(checks())

    if (classical := artifacts_in(folder).get("classical")) is not None:
        refuse_local_checkpoints(classical)
    return push(folder, target, include_predictions=include_predictions, check=check_logits)


def push_with_space(folder: Path, target: Hub, *, include_predictions: bool = False) -> tuple[Pushed, str]:
    """Push a finished run, see `push_run`, and publish a Space that runs it, see `hub.space.push.push_space`.

    Returns:
        What was pushed, and the page of the Space.

    Raises:
        InputError, PushError, GateError: see both.
    """
    check_branch(target)
    pushed, finished = push_run(folder, target, include_predictions=include_predictions), load_finished(str(folder))
    return pushed, push_space(target, _space_options(finished, target.license))


def _space_options(finished: Trained, license: str | None) -> SpaceOptions:
    is_graph = isinstance(finished, TrainedModel) and isinstance(finished.model, ExportedNetwork)
    return SpaceOptions(
        inputs="pair" if finished.pairs else finished.kind,
        has_scores=finished.task.activation != "identity" and finished.task.name != "tokens",
        extras=(*(["onnx"] if is_graph else []), *(["vision"] if finished.kind == "image" else [])),
        license=license,
    )


def push_if_asked(folder: Path, hub: Hub) -> None:
    """Push a run at its end if its recipe names a repository.

    Raises:
        PushError: see `push_run`. Its InputErrors, and a full disk, become PushErrors here: the run is already written.
        GateError: see `push_run`.
        StoppedBySignal: a signal stopped the push.
    """
    if hub.repo_id is None:
        return
    again = f"the run is finished, `hf-finetune push {folder} {hub.repo_id}` sends it"
    try:
        push_run(folder, hub)
    except (InputError, OSError) as error:
        raise PushError(f"{error}; {again}") from None
    except KeyboardInterrupt:
        raise StoppedBySignal(f"the push was stopped by a signal; {again}") from None


def _compare_graphs(local: TrainedModel, pulled: Path, rows: Dataset) -> parity.Check:
    """Compare a pulled graph with that of the run."""
    graphs = local, load_trained(str(pulled))
    logits = [parity.reference_logits(each.model, each.inputs, each.inputs.encode(rows)) for each in graphs]
    return parity.compare(logits[1], logits[0], parity.TOLERANCE * local.task.logit_size(logits[0]))


def _pulled_adapter(folder: Path, pulled: Path, *, on_named_base: bool) -> parity.Artifact:
    """Return a pulled adapter with its base checkpoint.

    Args:
        folder: of the run.
        on_named_base: take the checkpoint that the pulled adapter names, to verify `model.base_model`. False: take the
            run's own, as the name stands for the same weights, or for a path that exists on no other machine.
    """
    sent, local = (json.loads((f / "adapter_config.json").read_text("utf-8")) for f in (pulled, folder / "adapter"))
    base = (sent if on_named_base else local)["base_model_name_or_path"]
    return parity.Artifact("pulled adapter", pulled, base=base, revision=sent.get("revision"))


def _probe_rows(classifier: Trained) -> Dataset:
    """Return rows to compare two copies of a model, whose data may be gone: its label names, letters of its sequences,
    one row longer than it reads at once; or noise images."""
    if classifier.kind == "text":
        gap, names = (" ", classifier.labels) if classifier.sequence is None else ("", LETTERS[classifier.sequence])
        parts, most = names[:8], 1
        if isinstance(classifier, TrainedModel) and isinstance(classifier.inputs, TextInputs):
            most = classifier.inputs.max_length
        texts = [*(f"{a}{gap}{b}" for a in parts for b in parts), gap.join(islice(cycle(parts), 2 * most))]
        return Dataset.from_dict({"text": texts, **({"text_pair": texts[::-1]} if classifier.pairs else {})})
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (32, 64, 96, 128)]
    return Dataset.from_dict({"image": [Image().encode_example(pixels) for pixels in noise]})
