"""Dynamic batching: rows of requests that wait at the same time are computed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hf_finetune.inference.serving.config import ServeLimits


class QueueFull(Exception):
    """More rows wait than the limit allows."""


@dataclass
class Waiting:
    """Rows of a request that wait for their predictions."""

    rows: Any
    answer: asyncio.Future[list[dict[str, Any]]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Computes the rows of requests in one thread, those that wait together in one call.

    Args:
        compute: returns the predictions of the rows of several requests, a list for each.
        seen: is called with the number of rows of every batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], list[list[dict[str, Any]]]],
        limits: ServeLimits,
        seen: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.compute, self.limits, self.seen = compute, limits, seen
        self.waiting: deque[Waiting] = deque()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.arrived, self.full = asyncio.Event(), asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.stopping = False

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(len(each.rows) for each in self.waiting)

    def start(self) -> None:
        """Begin to compute; within a running event loop."""
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answer what waits or is computed, and end."""
        assert self.task is not None, "it was started"
        self.stopping = True
        self.arrived.set()
        self.full.set()
        await self.task
        self.thread.shutdown()

    async def predict(self, rows: Any) -> list[dict[str, Any]]:
        """Return the predictions of the rows of a request.

        Raises:
            QueueFull: too many rows wait.
        """
        if self.rows + len(rows) > self.limits.max_queue:
            raise QueueFull
        waiting = Waiting(rows)
        self.waiting.append(waiting)
        self.arrived.set()
        if self.rows >= self.limits.max_batch:
            self.full.set()
        return await waiting.answer

    async def _run(self) -> None:
        gathered = False
        while self.waiting or not self.stopping:
            await self.arrived.wait()
            if gathered:  # else nothing was computed, and what arrives is computed at once
                await self._gather()
            batch = self._take()
            if not self.waiting:
                self.arrived.clear()
            if batch:  # empty if they were canceled, or the server stops
                await self._answer(batch)
            gathered = bool(self.waiting)

    async def _answer(self, batch: list[Waiting]) -> None:
        """Compute a batch. If it fails, its requests do, and the server goes on."""
        self.seen(sum(len(each.rows) for each in batch))
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self.thread, self.compute, [each.rows for each in batch])
        except Exception as error:
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, answer in zip(batch, answers, strict=True):
            if not each.answer.done():  # its client may be gone
                each.answer.set_result(answer)

    async def _gather(self) -> None:
        """Wait for more rows until a batch is full, at most `max_wait`."""
        if self.rows >= self.limits.max_batch or self.stopping or not self.limits.max_wait:
            return
        self.full.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.full.wait(), self.limits.max_wait / 1000)

    def _take(self) -> list[Waiting]:
        """Take the first request, and those after it that fit into its batch; requests that were canceled are dropped.

        Returns:
            Nothing if all of the queue were canceled.
        """
        batch, count = list[Waiting](), 0
        while self.waiting:
            first = self.waiting[0]
            if batch and count + len(first.rows) > self.limits.max_batch:
                break
            self.waiting.popleft()
            if not first.answer.done():
                batch.append(first)
                count += len(first.rows)
        return batch
