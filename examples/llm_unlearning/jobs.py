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


def run_jobs(jobs: Sequence[Job], workers: int, title: str, console: Any) -> list[Any]:
    """Run jobs on `workers` processes; their results, in the order of `jobs`.

    The first exception of a job is raised here, and the remaining jobs are cancelled. Progress
    bars are drawn on a terminal; elsewhere each finished job prints a line.
    """
    if not jobs:
        return []
    from rich import progress as bars

    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_start_worker, initargs=(events,)
    )
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeElapsedColumn(),
    )
    finished = False
    try:
        with bars.Progress(*columns, console=console, transient=True) as display:
            whole = display.add_task(f"[bold]{title}", total=len(jobs))
            futures = {
                pool.submit(_call, i, job.function, job.arguments): i for i, job in enumerate(jobs)
            }
            tasks: dict[int, Any] = {}
            waiting = set(futures)
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, POLL_SECONDS)
                for index, steps, total in _drain(events):
                    if index not in tasks:
                        tasks[index] = display.add_task(f"  {jobs[index].label}")
                    display.update(tasks[index], completed=steps, total=total)
                for future in done:
                    future.result()
                    display.advance(whole)
                    index = futures[future]
                    if index in tasks:
                        display.update(tasks[index], visible=False)
                    if not console.is_terminal:
                        console.print(f"{title}: {jobs[index].label} done")
        finished = True
        return [future.result() for future in futures]
    finally:
        if not finished:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        events.cancel_join_thread()
        events.close()


def _drain(events: Any) -> list[tuple[int, int, int]]:
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


def _call(index: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    def progress(done: int, total: int) -> None:
        _events.put((index, done, total))

    return function(*arguments, progress=progress)
