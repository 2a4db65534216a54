"""Rows of several requests in one call."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from hf_finetune.inference.serving.batching import Batcher, QueueFull
from hf_finetune.inference.serving.config import ServeLimits

LIMITS = ServeLimits(max_batch=4, max_queue=6)


class Network:
    """Answers each row with itself, one call after another, each when `go` is set."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.go = threading.Event()

    def __call__(self, parts: list[Any]) -> list[list[dict[str, Any]]]:
        assert self.go.wait(10)
        self.batches.append(parts)
        if ["bad"] in parts:
            raise RuntimeError("bad")
        return [[{"predicted": row} for row in rows] for rows in parts]


async def _requests(network: Network, *requests: list[str]) -> list[Any]:
    """Send the requests while the first one is computed."""
    batcher = Batcher(network, LIMITS)
    batcher.start()
    tasks = [asyncio.create_task(batcher.predict(requests[0]))]
    await asyncio.sleep(0.05)
    for rows in requests[1:]:
        tasks.append(asyncio.create_task(batcher.predict(rows)))
        await asyncio.sleep(0)
    network.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await batcher.stop()
    return answers


def test_rows_gather_while_others_are_computed() -> None:
    network = Network()
    answers = asyncio.run(_requests(network, ["a"], ["b", "c"], ["d"], ["e", "f"]))
    assert [[row["predicted"] for row in rows] for rows in answers] == [["a"], ["b", "c"], ["d"], ["e", "f"]]
    # Requests stay whole, in order, and no batch has more than four rows.
    assert network.batches == [[["a"]], [["b", "c"], ["d"]], [["e", "f"]]]


@pytest.mark.parametrize("full", [False, True])
def test_only_rows_that_gathered_wait_for_more(full: bool) -> None:
    """A request that comes to an idle server is computed at once; those after it wait, unless they fill a batch."""

    async def run() -> tuple[float, float]:
        network, limits = Network(), replace(LIMITS, max_wait=300.0)
        batcher, clock = Batcher(network, limits), asyncio.get_running_loop().time
        batcher.start()
        network.go.set()
        started = clock()
        await batcher.predict(["a"])
        alone = clock() - started
        network.go.clear()
        tasks = [asyncio.create_task(batcher.predict(["a"]))]
        await asyncio.sleep(0.02)
        tasks += [asyncio.create_task(batcher.predict(["b"])) for _ in range(4 if full else 1)]
        await asyncio.sleep(0.02)
        started = clock()
        network.go.set()
        await asyncio.gather(*tasks)
        together = clock() - started
        await batcher.stop()
        return alone, together

    alone, together = asyncio.run(run())
    assert alone < 0.2 and (together < 0.2) is full


def test_a_full_queue() -> None:
    answers = asyncio.run(_requests(Network(), ["a"], ["b"] * 4, ["c"] * 3, ["d"] * 2))
    assert [type(each) for each in answers] == [list, list, QueueFull, list]


def test_a_batch_that_fails() -> None:
    answers = asyncio.run(_requests(Network(), ["a"], ["bad"], ["b"] * 4))
    assert isinstance(answers[1], RuntimeError) and [len(answers[i]) for i in (0, 2)] == [1, 4]


def test_a_request_larger_than_a_batch() -> None:
    network = Network()
    answers = asyncio.run(_requests(network, ["a"] * 5))
    assert len(answers[0]) == 5 and network.batches == [[["a"] * 5]]


def test_what_is_computed_at_the_end_is_answered() -> None:
    async def run() -> list[Any]:
        network = Network()
        batcher = Batcher(network, LIMITS)
        batcher.start()
        task = asyncio.create_task(batcher.predict(["a"]))
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_later(0.05, network.go.set)
        await batcher.stop()
        return await asyncio.wait_for(task, 1)

    assert asyncio.run(run()) == [{"predicted": "a"}]


@pytest.mark.parametrize("gone", [True, False])
def test_a_client_that_is_gone(gone: bool) -> None:
    network = Network()

    async def run() -> list[Any]:
        batcher = Batcher(network, LIMITS)
        batcher.start()
        first = asyncio.create_task(batcher.predict(["a"]))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.predict(["b"]))
        await asyncio.sleep(0.05)
        if gone:
            second.cancel()
        network.go.set()
        answers = await asyncio.gather(first, second, return_exceptions=True)
        await batcher.stop()
        return answers

    answers = asyncio.run(run())
    assert answers[0] == [{"predicted": "a"}]
    assert isinstance(answers[1], asyncio.CancelledError) if gone else answers[1] == [{"predicted": "b"}]
    assert network.batches == ([[["a"]]] if gone else [[["a"]], [["b"]]])
