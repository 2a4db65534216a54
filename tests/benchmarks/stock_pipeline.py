"""The rival of `hf-finetune predict`: transformers' text-classification pipeline as it comes, float32, batches of 32.

    python tests/benchmarks/stock_pipeline.py MODEL FILE.parquet

Prints one line of JSON: rows a second from text to label, and the labels.
"""

import json
import resource
import sys
import time

import pyarrow.parquet as pq
from transformers import pipeline


def main() -> None:
    """Label every text of the file."""
    texts = pq.read_table(sys.argv[2])["text"].to_pylist()
    classify = pipeline("text-classification", sys.argv[1], device="cpu")
    classify(texts[:32], batch_size=32)  # the first batch is slower than the rule
    started = time.perf_counter()
    found = [answer["label"] for answer in classify(texts, batch_size=32, truncation=True, max_length=128)]
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"predict_rows_per_s": len(texts) / seconds, "labels": found, "peak_rss_mb": peak}))


if __name__ == "__main__":
    main()
