"""Ways to combine the windows of long texts, by heads on frozen features: a table in Markdown.

    python tests/benchmarks/windows.py FOLDER --checkpoint DIR [--max-length 128] [--most 8] [--rows 3000 2000]

FOLDER has train.parquet and test.parquet, as `tasks.py rows` writes them. Every window is read once: the mean of its
tokens. Legend: N texts, W windows of all texts, D features.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from hf_finetune.evaluation.paired import paired_difference, verdict

INVERSE_STRENGTH = 0.01


def window_means(options: argparse.Namespace, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean state of each window (W, D), its tokens (W,) and its text (W,): of the first `most` of a text."""
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    model = AutoModel.from_pretrained(options.checkpoint).eval()
    encoded = tokenizer(texts, truncation=True, max_length=options.max_length, stride=0, return_overflowing_tokens=True)
    text_W = np.array(encoded["overflow_to_sample_mapping"])
    read = np.flatnonzero(np.arange(len(text_W)) - np.searchsorted(text_W, text_W) < options.most)
    text_W, ids = text_W[read], [encoded["input_ids"][i] for i in read]
    tokens_W = np.array([len(each) for each in ids])
    means: Any = None
    order = np.argsort(tokens_W, kind="stable")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for some in np.split(order, range(32, len(order), 32)):
            batch = tokenizer.pad({"input_ids": [ids[i] for i in some]}, return_tensors="pt")
            states_BTD, mask_BT1 = model(**batch).last_hidden_state.float(), batch["attention_mask"][:, :, None]
            means = np.empty((len(order), states_BTD.shape[2]), np.float32) if means is None else means
            means[some] = ((states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)).numpy()
    return means, tokens_W, text_W


def main() -> None:
    """Print the accuracy of each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--most", type=int, default=8, help="windows of a text")
    parser.add_argument("--rows", type=int, nargs=2, default=[3000, 2000], help="training and test rows")
    options = parser.parse_args()
    parts = [pq.read_table(options.folder / f"{name}.parquet") for name in ("train", "test")]
    drawn = [
        part.take(np.random.default_rng(0).permutation(len(part))[:most])
        for part, most in zip(parts, options.rows, strict=True)
    ]
    texts, labels = ([value for part in drawn for value in part[name].to_pylist()] for name in ("text", "label"))
    means_WD, tokens_W, text_W = window_means(options, texts)
    labels_N, train = np.array(labels), len(drawn[0])

    def right(weights_W: np.ndarray) -> np.ndarray:
        """Whether each test row is right by a head on the weighted means of the windows."""
        sums_ND = np.zeros((len(texts), means_WD.shape[1]))
        np.add.at(sums_ND, text_W, means_WD * weights_W[:, None])
        features_ND = sums_ND / np.bincount(text_W, weights_W)[:, None]
        head = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_STRENGTH, max_iter=200))
        head.fit(features_ND[:train], labels_N[:train])
        return head.predict(features_ND[train:]) == labels_N[train:]

    first = text_W != np.roll(text_W, 1)
    ways = {
        "the first window": first,
        "all windows, equal weights": np.ones(len(text_W)),
        "without later ones of fewer than 32 tokens": first | (tokens_W >= 32),
        "all windows, by their tokens": tokens_W,
    }
    rights = {name: right(weights_W.astype(float)) for name, weights_W in ways.items()}
    print("| mean of | test accuracy | difference, points [95%] | verdict |\n|---|---|---|---|")
    for name, right_N in rights.items():
        between = paired_difference(right_N, rights["the first window"])
        cells = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * v for v in (between.value, between.low, between.high)))
        print(f"| {name} | {right_N.mean():.4f} | {cells} | {verdict(between)} |")


if __name__ == "__main__":
    main()
