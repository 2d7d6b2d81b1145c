"""Jobs in worker processes: results in order, the first exception raised, one thread each."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
import torch
from rich.console import Console

from examples.llm_unlearning.jobs import Job, Workers


def squared(value: int, *, progress: Any) -> int:
    """A job that finishes in the reverse order of its value."""
    progress(1, 2)
    time.sleep(0.05 * (3 - value))
    progress(2, 2)
    return value * value


def failing(*, progress: Any) -> None:
    """A job that raises."""
    raise ValueError("this job fails")


def num_threads(*, progress: Any) -> int:
    """A job that tells its worker's threads."""
    return torch.get_num_threads()


@pytest.mark.slow
def test_results_come_in_the_order_of_the_jobs() -> None:
    text = io.StringIO()
    jobs = [Job(f"job {i}", squared, (i,)) for i in range(3)] + [Job("threads", num_threads, ())]
    with Workers(2, Console(file=text)) as workers:
        assert workers.run(jobs, "squaring") == [0, 1, 4, 1]
        assert workers.run([], "nothing") == []
    assert "squaring: job 2 done" in text.getvalue()


@pytest.mark.slow
def test_the_first_exception_is_raised() -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(ValueError, match="this job fails"), Workers(1, console) as workers:
        workers.run([Job("bad", failing, ())], "failing")
