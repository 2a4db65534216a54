"""Load saved artifacts with plain transformers and peft and write their logits: a script, run in a fresh process.

It imports nothing of this package, so what it loads loads for anyone who has the folder.

    python plain_loading.py JOB.json     writes JOB.npz, logits (N, C) by artifact, and labels.json next to it
"""

import json
import sys
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

BATCH_ROWS = 16


class Artifact(TypedDict):
    """A folder to load: a model, an encoder for a head, or an adapter on a base checkpoint."""

    name: str
    kind: str
    path: str
    base: str | None
    revision: str | None
    head: str | None


class Job(TypedDict):
    """The content of JOB.json."""

    task: str
    rows: list[dict[str, Any]]
    """`text` (and `text_pair`) or the path of an `image`. Where words are scored, also the `places` of their tokens."""
    num_labels: int
    threads: int
    trust_remote_code: bool
    artifacts: list[Artifact]


def batches(job: Job, processor: Any) -> list[dict[str, Any]]:
    """Return the rows of the job as batches of the saved tokenizer or image processor, in order."""
    rows = job["rows"]
    encoded = []
    for part in (rows[i : i + BATCH_ROWS] for i in range(0, len(rows), BATCH_ROWS)):
        if job["task"] == "image-classification":
            from PIL import Image

            batch = processor([Image.open(r["image"]) for r in part], return_tensors="pt")
        else:
            pairs = [r["text_pair"] for r in part] if "text_pair" in part[0] else None
            batch = processor([r["text"] for r in part], pairs, truncation=True, padding=True, return_tensors="pt")
        encoded.append(dict(batch))
    return encoded


def of_words(logits: torch.Tensor, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return logits (W, C) of the words of rows from those of their tokens (N, T, C)."""
    return torch.cat([row_TC[torch.tensor(row["places"])] for row_TC, row in zip(logits, rows, strict=True)])


# The model card prints this function, so it uses nothing but torch and safetensors.
def head_logits(encoder: torch.nn.Module, inputs: dict, path: str) -> torch.Tensor:
    """Return logits (N, C): head.safetensors, applied to the hidden states that its header names."""
    with safe_open(path, "pt") as file:
        how, head = file.metadata(), load_file(path)
    layers, first = int(how["last_layers"]), int(how["first"])
    output = encoder(**inputs, output_hidden_states=True)
    layer_states = [output.last_hidden_state, *(output.hidden_states[-n] for n in range(2, layers + 1))]
    # Feature maps of a convolutional network: one token per position.
    states = torch.cat([s.flatten(2).transpose(1, 2) if s.dim() == 4 else s for s in layer_states], -1)
    tokens = states[:, first:]
    mask = inputs.get("attention_mask", torch.ones(tokens.shape[:2]))[:, :, None].bool()
    if how["pooling"] == "cls":
        features = states[:, 0]
    elif how["pooling"] == "mean":
        features = (tokens * mask).sum(1) / mask.sum(1)
    elif how["pooling"] == "max":
        features = tokens.masked_fill(~mask, -torch.inf).amax(1)
    else:
        weights = (tokens @ head["query"])[:, :, None].masked_fill(~mask, -torch.inf).softmax(1)
        features = (tokens * weights).sum(1)
    if how["activation"]:
        activations: dict = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "relu": torch.relu}
        features = activations[how["activation"]](features @ head["dense.weight"].T + head["dense.bias"])
    return features @ head["out.weight"].T + head["out.bias"]


def load(job: Job, artifact: Artifact) -> tuple[torch.nn.Module, Any]:
    """Return the artifact as a model in float32, with its tokenizer or image processor."""
    auto = {
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "image-classification": transformers.AutoModelForImageClassification,
    }[job["task"]]
    images = job["task"] == "image-classification"
    auto_processor = transformers.AutoImageProcessor if images else transformers.AutoTokenizer
    processor = auto_processor.from_pretrained(artifact["path"])
    trust = {"trust_remote_code": True} if job["trust_remote_code"] else {}
    if artifact["kind"] != "adapter":
        auto_model = transformers.AutoModel if artifact["kind"] == "encoder" else auto
        return auto_model.from_pretrained(artifact["path"], dtype=torch.float32, **trust), processor
    from peft import PeftModel

    assert artifact["base"] is not None
    # The random head of the base must not matter: the adapter brings its own.
    torch.manual_seed(987654321)
    base = auto.from_pretrained(
        artifact["base"],
        revision=artifact["revision"],
        num_labels=job["num_labels"],
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        **trust,
    )
    return PeftModel.from_pretrained(base, artifact["path"]), processor


def pipeline_words(pipe: Any, row: dict[str, Any]) -> list[dict[str, str]]:
    """Return what `pipeline` predicts for each word of a text. It must group entities, too."""
    pipe(row["text"], aggregation_strategy="simple")
    by_token = {token["index"]: token["entity"] for token in pipe(row["text"], ignore_labels=[])}
    return [{"label": by_token.get(place, "")} for place in row["places"]]


def main(path: Path) -> None:
    """Write the logits of each artifact of the job, and the labels of `pipeline` on the model."""
    job: Job = json.loads(path.read_text())
    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("highest")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logits: dict[str, Any] = {}
    for artifact in job["artifacts"]:
        model, processor = load(job, artifact)
        model.eval()
        with torch.inference_mode():
            head = artifact["head"]
            parts = [
                model(**b).logits if head is None else head_logits(model, b, head) for b in batches(job, processor)
            ]
            if job["task"] == "token-classification":
                starts = range(0, len(job["rows"]), BATCH_ROWS)
                parts = [of_words(part, job["rows"][i : i + BATCH_ROWS]) for part, i in zip(parts, starts, strict=True)]
        logits[artifact["name"]] = torch.cat(parts).numpy()
    np.savez(path.with_suffix(".npz"), **logits)

    first = next((a for a in job["artifacts"] if a["kind"] == "model"), None)
    labels = None
    if first is not None:
        pipe = transformers.pipeline(job["task"], first["path"], device="cpu")  # type: ignore[call-overload]
        if job["task"] == "image-classification":
            predictions = [pipe(r["image"], top_k=1)[0] for r in job["rows"][:BATCH_ROWS]]
        elif job["task"] == "token-classification":
            predictions = [each for r in job["rows"][:BATCH_ROWS] for each in pipeline_words(pipe, r)]
        else:
            rows = [{k: r[k] for k in ("text", "text_pair") if k in r} for r in job["rows"][:BATCH_ROWS]]
            predictions = [pipe(r, top_k=1, truncation=True) for r in rows]
        labels = [(p[0] if isinstance(p, list) else p)["label"] for p in predictions]
    (path.parent / "labels.json").write_text(json.dumps(labels))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
