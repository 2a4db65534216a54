"""The penalty of a head that is fitted alone: what held-out halves say of each value, and what test rows say.

    python tests/benchmarks/head_penalty.py DATA_FOLDER CHECKPOINT [--rows 1500 | --per-class 8] [--seed 0]

Logistic regression on the standardized embeddings of sentence-transformers, in bf16, of rows that `rivals.draw` draws.
Prints, for each of scikit-learn's C, the log loss of held-out halves, the same at its best temperature, and the accuracy
on 1,000 test rows.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rivals import draw
from scipy.special import log_softmax
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression

from hf_finetune.evaluation.calibration import least_log_loss
from hf_finetune.training.warm_start import Standardized, halves_of

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
ABSENT = -20.0
"""Logit of a class that the other half lacks."""


def regression(strength: float) -> LogisticRegression:
    """As `warm_start` fits it."""
    return LogisticRegression(C=strength, max_iter=200, tol=1e-3)


def held_out_logits(features_ND: np.ndarray, labels_N: np.ndarray, strength: float) -> np.ndarray:
    """Logits (N, C) of each row by a fit to the other half."""
    logits_NC = np.full((len(labels_N), labels_N.max() + 1), ABSENT)
    halves = halves_of(np.arange(len(labels_N)))
    for held_out, fitted in (halves, halves[::-1]):
        head = regression(strength).fit(features_ND[fitted], labels_N[fitted])
        scores = head.decision_function(features_ND[held_out])
        scores = np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
        logits_NC[np.ix_(held_out, head.classes_)] = scores
    return logits_NC


def main() -> None:
    """Embed the rows, and print a line for each value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoint")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--rows", type=int)
    size.add_argument("--per-class", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, test = draw(options.folder, options.rows, options.per_class, options.seed, 1_000)
    encoder = SentenceTransformer(options.checkpoint, device="cpu")
    encoder.max_seq_length = 128
    with torch.autocast("cpu", torch.bfloat16):
        features_ND, test_ND = (encoder.encode(list(rows.text)).astype(np.float32) for rows in (train, test))
    standard = Standardized.of(features_ND)
    test_ND = (test_ND - standard.mean_D) / standard.scale_D
    classes, labels_N = np.unique(train.label, return_inverse=True)
    print("| C | held-out log loss | at its best temperature | test accuracy |\n|---|---|---|---|")
    for strength in STRENGTHS:
        logits_NC = held_out_logits(standard.features_ND, labels_N, strength)
        loss = -log_softmax(logits_NC, axis=1)[np.arange(len(labels_N)), labels_N].mean()
        head = regression(strength).fit(standard.features_ND, labels_N)
        accuracy = (classes[head.predict(test_ND)] == test.label.to_numpy()).mean()
        print(f"| {strength:g} | {loss:.4f} | {least_log_loss(labels_N, logits_NC):.4f} | {accuracy:.4f} |")


if __name__ == "__main__":
    main()
