"""Latency and throughput of `hf-finetune serve`, with many clients at once.

    python tests/benchmarks/serving.py MODEL texts.csv [--clients 200] [--requests 4000] [--flags "--max-batch 1"]

Each client sends one text after another, of the column `text`, and waits for the answer.
"""

import argparse
import json
import shlex
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection

import numpy as np
import pandas as pd


def client(port: int, texts: list[str]) -> list[float]:
    """Send the texts over one connection; return the seconds of each, NaN of one that was lost."""
    connection, seconds = HTTPConnection("127.0.0.1", port, timeout=120), []
    for text in texts:
        started = time.perf_counter()
        connection.request("POST", "/predict", json.dumps({"inputs": text}))
        answer = connection.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - started if answer.status == 200 else np.nan)
    connection.close()
    return seconds


def main() -> None:
    """Serve, ask, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--flags", default="")
    options = parser.parse_args()
    texts = pd.read_csv(options.texts)["text"].astype(str).tolist()
    texts = (texts * (options.requests // len(texts) + 1))[: options.requests]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "hf_finetune", "serve", options.model, "--port", str(port)]
    server = subprocess.Popen([*command, *shlex.split(options.flags)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError):
                client(port, texts[:20])
                break
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)
        parts = [texts[i :: options.clients] for i in range(options.clients)]
        started = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as clients:
            seconds = np.concatenate([*clients.map(lambda part: client(port, part), parts)])
        took = time.perf_counter() - started
    finally:
        server.terminate()
        server.wait()
    p50, p95, p99 = np.nanpercentile(seconds, (50, 95, 99)) * 1000
    print(
        f"{options.clients} clients, {len(seconds)} requests, {int(np.isnan(seconds).sum())} lost: "
        f"{len(seconds) / took:.0f} requests/s, p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms"
    )


if __name__ == "__main__":
    main()
