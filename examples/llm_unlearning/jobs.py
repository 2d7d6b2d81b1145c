"""Jobs on worker processes of one thread each, with progress bars."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import queue
from collections.abc import Callable, Sequence
from typing import Any

import torch

POLL_SECONDS = 0.2

_events: Any = None  # in a worker: the queue that carries progress to the parent


@dataclasses.dataclass(frozen=True)
class Job:
    """A call to a module-level function, which also takes the keyword `progress`.

    `progress(done, total)` may be called as often as wanted.
    """

    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers:
    """A pool of worker processes, to be used in a `with` block; leaving it ends them.

    Args:
        count: processes of one thread each.
        console: a rich console. Progress bars are drawn on a terminal; elsewhere each finished job
            prints a line.
    """

    def __init__(self, count: int, console: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._console = console
        self._events = context.Queue()
        self._stage = 0
        self._others = set(multiprocessing.active_children())
        self._pool = concurrent.futures.ProcessPoolExecutor(
            count, context, initializer=_start_worker, initargs=(self._events,)
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is not None:  # an unfinished job may run for minutes more
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._events.cancel_join_thread()
        self._events.close()

    def run(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Run jobs; their results, in the order of `jobs`. A job's exception is raised here."""
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
        )
        # Events of a stage may arrive after its end, so they carry its number.
        self._stage += 1
        quiet = {"transient": True, "disable": not self._console.is_terminal}
        with bars.Progress(*columns, console=self._console, **quiet) as display:
            whole = display.add_task(f"[bold]{title}", total=len(jobs))
            futures = {
                self._pool.submit(_call, (self._stage, i), job.function, job.arguments): i
                for i, job in enumerate(jobs)
            }
            tasks: dict[int, Any] = {}
            waiting = set(futures)
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, POLL_SECONDS)
                for (stage, index), steps, total in _drain(self._events):
                    if stage != self._stage:
                        continue
                    if index not in tasks:
                        tasks[index] = display.add_task(f"  {jobs[index].label}")
                    display.update(tasks[index], completed=steps, total=total)
                for future in done:
                    future.result()
                    index = futures[future]
                    display.advance(whole)
                    if index in tasks:
                        display.update(tasks[index], visible=False)
                    if not self._console.is_terminal:
                        self._console.print(f"{title}: {jobs[index].label} done")
        return [future.result() for future in futures]


def _drain(events: Any) -> list[tuple[tuple[int, int], int, int]]:
    out = []
    while True:
        try:
            out.append(events.get_nowait())
        except queue.Empty:
            return out


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    deterministic()


def deterministic() -> None:
    """One thread, deterministic kernels, and no progress bars of transformers in this process."""
    from transformers.utils import logging

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()


def _call(key: tuple[int, int], function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    def progress(done: int, total: int) -> None:
        _events.put((key, done, total))

    return function(*arguments, progress=progress)
