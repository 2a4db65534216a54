"""Load saved artifacts with plain transformers and peft and write their logits: a script, run in a fresh process.

It imports nothing of this package, so what it loads loads for anyone who has the folder.

    python plain_loading.py JOB.json     writes JOB.npz, logits (N, C) by artifact, and labels.json next to it
    python plain_loading.py              the same of the job that its input names, when it does
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
    long: dict[str, Any] | None
    """Arguments of `head_and_tail` or `windows`, by which long texts are read. None: they are cut off."""
    num_labels: int
    threads: int
    trust_remote_code: bool
    artifacts: list[Artifact]


def batches(job: Job, processor: Any) -> list[tuple[dict[str, Any], list[torch.Tensor] | None]]:
    """Return the rows of the job as batches of the saved tokenizer or image processor, in order.

    With each batch come the shares of its rows' windows. None: one each.
    """
    rows, long = job["rows"], job["long"]
    encoded: list[tuple[dict[str, Any], list[torch.Tensor] | None]] = []
    for part in (rows[i : i + BATCH_ROWS] for i in range(0, len(rows), BATCH_ROWS)):
        if job["task"] == "image-classification":
            from PIL import Image

            encoded.append((dict(processor([Image.open(r["image"]) for r in part], return_tensors="pt")), None))
            continue
        texts, pairs = [r["text"] for r in part], [r["text_pair"] for r in part] if "text_pair" in part[0] else None
        if long is None or pairs is not None:
            batch = processor(texts, pairs, truncation=True, padding=True, return_tensors="pt")
            encoded.append((dict(batch), None))
        elif "head" in long:
            encoded.append((dict(head_and_tail(processor, texts, **long)), None))
        else:
            batch, shares = windows(processor, texts, **long)
            encoded.append((dict(batch), shares))
    return encoded


def of_words(logits: torch.Tensor, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return logits (W, C) of the words of rows from those of their tokens (N, T, C)."""
    return torch.cat([row_TC[torch.tensor(row["places"])] for row_TC, row in zip(logits, rows, strict=True)])


# The model card prints the next four functions, so they use nothing but torch and safetensors.
def head_and_tail(tokenizer: Any, texts: list[str], head: int) -> dict:
    """Return the inputs of texts: of long ones the first `head` tokens, and the last ones up to the maximum length."""
    most, encoded = tokenizer.model_max_length, tokenizer(texts, verbose=False)
    cut = {n: [r if len(r) <= most else r[:head] + r[head - most :] for r in rows] for n, rows in encoded.items()}
    return tokenizer.pad(cut, return_tensors="pt")


def windows(
    tokenizer: Any, texts: list[str], stride: int, most: int, by_tokens: bool = False
) -> tuple[dict, list[torch.Tensor]]:
    """Return the inputs of the first windows of texts, and the share of each window in its text."""
    encoded = tokenizer(texts, truncation=True, stride=stride, return_overflowing_tokens=True)
    owners = encoded.pop("overflow_to_sample_mapping")
    read = [i for i, owner in enumerate(owners) if i - owners.index(owner) < most]
    inputs = tokenizer.pad({name: [rows[i] for i in read] for name, rows in encoded.items()}, return_tensors="pt")
    counts = [sum(owners[i] == text for i in read) for text in range(len(texts))]
    weights = torch.tensor([float(len(encoded["input_ids"][i])) if by_tokens else 1.0 for i in read])
    return inputs, [part / part.sum() for part in weights.split(counts)]


def token_states(tokens: torch.Tensor, mask: torch.Tensor, kind: str, head: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network of a head over the tokens makes of their states, and the mask (N, T, 1) of its states."""
    weights = {name.removeprefix("network."): tensor for name, tensor in head.items() if name.startswith("network.")}
    if kind == "convolution":
        filters, width, _ = weights["weight"].shape
        layer: Any = torch.nn.Conv1d(width, filters, kernel_size=3, padding="same")
    else:
        recurrent = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind]
        layer = recurrent(tokens.shape[2], weights["weight_hh_l0"].shape[1], bidirectional=True)
    layer.load_state_dict(weights)
    rows = [row[keep[:, 0]] for row, keep in zip(tokens, mask, strict=True)]
    states = [layer(row.T).relu().T if kind == "convolution" else layer(row)[0] for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None])[:, :, None]


def head_logits(
    encoder: torch.nn.Module, inputs: dict, path: str, shares: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Return logits (N, C): head.safetensors, applied to the hidden states that its header names.

    `shares` are those of the texts' chunks, where chunks are the rows of the inputs.
    """
    with safe_open(path, "pt") as file:
        how, head = file.metadata(), load_file(path)
    layers, first = int(how["last_layers"]), int(how["first"])
    output = encoder(**inputs, output_hidden_states=True)
    layer_states = [output.last_hidden_state, *(output.hidden_states[-n] for n in range(2, layers + 1))]
    # Feature maps of a convolutional network: one token per position.
    states = torch.cat([s.flatten(2).transpose(1, 2) if s.dim() == 4 else s for s in layer_states], -1)
    tokens = states[:, first:]
    mask = inputs.get("attention_mask", torch.ones(tokens.shape[:2]))[:, :, None].bool()
    if "network" in how:
        tokens, mask = token_states(tokens, mask, how["network"], head)
    if how["pooling"] == "cls":
        features = states[:, 0]
    elif how["pooling"] == "mean":
        features = (tokens * mask).sum(1) / mask.sum(1)
    elif how["pooling"] == "max":
        features = tokens.masked_fill(~mask, -torch.inf).amax(1)
    else:
        weights = (tokens @ head["query"])[:, :, None].masked_fill(~mask, -torch.inf).softmax(1)
        features = (tokens * weights).sum(1)
    if shares is not None and "chunks" in how:
        combined = []
        for share, vectors in zip(shares, features.split([len(share) for share in shares]), strict=True):
            if how["chunks"] == "attention":
                share = (vectors @ head["chunk_query"] + share.log()).softmax(0)
            combined.append(vectors.amax(0) if how["chunks"] == "max" else share @ vectors)
        features = torch.stack(combined)
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


def _logits(model: torch.nn.Module, head: str | None, inputs: dict, shares: list[torch.Tensor] | None) -> torch.Tensor:
    logits = model(**inputs).logits if head is None else head_logits(model, inputs, head, shares)
    if shares is None or len(logits) == len(shares):
        return logits
    return torch.stack(
        [share @ part for share, part in zip(shares, logits.split([len(s) for s in shares]), strict=True)]
    )


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
            parts = [_logits(model, artifact["head"], *batch) for batch in batches(job, processor)]
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
    if len(sys.argv) == 1:
        # Imported by their first use, which can come before the job.
        _ = transformers.AutoModelForSequenceClassification, transformers.AutoTokenizer, transformers.pipeline
    if name := sys.argv[1] if len(sys.argv) > 1 else sys.stdin.readline().rstrip("\n"):
        main(Path(name))
