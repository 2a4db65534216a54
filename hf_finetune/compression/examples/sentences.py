"""Rank texts by how similar they are to the first one: by the encoder beside this file, with sentence-transformers.

python example.py "the battery is empty at once" "it does not charge" "fast delivery"
"""

import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer(str(Path(__file__).parent), device="cpu")


def embeddings(texts: list) -> np.ndarray:
    """Return the embeddings of texts: shape (N, D)."""
    return encoder.encode(texts)


if __name__ == "__main__":
    query, *texts = sys.argv[1:]
    scores = encoder.similarity(embeddings([query]), embeddings(texts))[0].tolist()
    for score, text in sorted(zip(scores, texts, strict=True), reverse=True):
        print(f"{score:.3f} {text}")
