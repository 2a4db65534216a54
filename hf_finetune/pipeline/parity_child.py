"""Loads saved artefacts with plain transformers and peft and writes their logits. Run as a script, in a fresh process.

Imports nothing of this package: what loads here loads for anyone who has the folder.

    python parity_child.py JOB.json     writes JOB.npz (one array of logits (N, C) an artefact) and labels.json beside it
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

BATCH_ROWS = 16


def batches(job: dict, processor) -> list[dict]:
    """The job's rows as the saved tokenizer or image processor makes them, in order, padded batch by batch."""
    rows = job["rows"]
    parts = [rows[i : i + BATCH_ROWS] for i in range(0, len(rows), BATCH_ROWS)]
    if job["task"] == "image-classification":
        from PIL import Image

        return [dict(processor([Image.open(r["image"]) for r in part], return_tensors="pt")) for part in parts]
    made = []
    for part in parts:
        pairs = [r["text_pair"] for r in part] if "text_pair" in part[0] else None
        made.append(
            dict(processor([r["text"] for r in part], pairs, truncation=True, padding=True, return_tensors="pt"))
        )
    return made


def head_logits(encoder, inputs, path):
    """Logits (N, C): head.safetensors, applied to what its header says of the encoder's states."""
    with safe_open(path, "pt") as file:
        how, head = file.metadata(), load_file(path)
    layers, first = int(how["last_layers"]), int(how["first"])
    output = encoder(**inputs, output_hidden_states=True)
    states = [output.last_hidden_state, *(output.hidden_states[-n] for n in range(2, layers + 1))]
    # A convolutional network gives maps: as many tokens as they have places.
    states = torch.cat([s.flatten(2).transpose(1, 2) if s.dim() == 4 else s for s in states], -1)
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
        act = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "relu": torch.relu}[how["activation"]]
        features = act(features @ head["dense.weight"].T + head["dense.bias"])
    return features @ head["out.weight"].T + head["out.bias"]


def load(job: dict, artefact: dict):
    """The artefact as a model in float32, and its tokenizer or image processor."""
    text = job["task"] == "text-classification"
    auto = transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForImageClassification
    processor = (transformers.AutoTokenizer if text else transformers.AutoImageProcessor).from_pretrained(
        artefact["path"]
    )
    trust = {"trust_remote_code": True} if job["trust_remote_code"] else {}
    if artefact["kind"] == "encoder":
        return transformers.AutoModel.from_pretrained(artefact["path"], dtype=torch.float32, **trust), processor
    if artefact["kind"] == "model":
        return auto.from_pretrained(artefact["path"], dtype=torch.float32, **trust), processor
    from peft import PeftModel

    # Whatever the head of the base starts from, the adapter must bring its own.
    torch.manual_seed(987654321)
    base = auto.from_pretrained(
        artefact["base"],
        revision=artefact["revision"],
        num_labels=job["num_labels"],
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        **trust,
    )
    return PeftModel.from_pretrained(base, artefact["path"]), processor


def main(path: Path) -> None:
    """Do the job."""
    job = json.loads(path.read_text())
    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("highest")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logits = {}
    for artefact in job["artefacts"]:
        model, processor = load(job, artefact)
        model.eval()
        with torch.inference_mode():
            head = artefact["head"]
            found = [
                model(**b).logits if head is None else head_logits(model, b, head) for b in batches(job, processor)
            ]
        logits[artefact["name"]] = torch.cat(found).numpy()
    np.savez(path.with_suffix(".npz"), **logits)

    first = next((a for a in job["artefacts"] if a["kind"] == "model"), None)
    labels = None
    if first is not None:
        pipe = transformers.pipeline(job["task"], first["path"], device="cpu")
        if job["task"] == "image-classification":
            answers = [pipe(r["image"], top_k=1)[0] for r in job["rows"][:BATCH_ROWS]]
        else:
            rows = [{k: r[k] for k in ("text", "text_pair") if k in r} for r in job["rows"][:BATCH_ROWS]]
            answers = [pipe(r, top_k=1, truncation=True) for r in rows]
        labels = [(a[0] if isinstance(a, list) else a)["label"] for a in answers]
    (path.parent / "labels.json").write_text(json.dumps(labels))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
