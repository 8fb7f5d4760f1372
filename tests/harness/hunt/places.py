"""Where runs go: processes of this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

from . import drive
from .records import Wrong, kind_here

HERE: Final = "this machine"
#: How Dask says that someone does not answer. Since Python 3.11 the one is the other.
SILENT: Final = (OSError, asyncio.TimeoutError)
#: The same, and what it says when it was closed while it was asked.
CLOSED: Final = (*SILENT, RuntimeError, CancelledError)


class Gone(Exception):  # the end of a hunt, not an error of ours
    """The scheduler does not answer any more."""


class Begun(Protocol):
    """A run that was begun, as both kinds of futures say it."""

    def done(self) -> bool:
        """Whether it has ended."""

    def result(self) -> dict[str, Any]:
        """Its record; raises what kept it from being made."""

    def cancel(self) -> Any:
        """Wait for it no more."""


class Places(Protocol):
    """Where runs go."""

    def workers(self) -> Mapping[str, int]:
        """Who makes runs now, and how many each makes at a time."""

    def kind(self, worker: str, *what: Any) -> dict[str, Any]:
        """What `kind_here` says there."""

    def begin(self, job: dict[str, Any]) -> Begun:
        """Begin a run on the worker that the job names."""

    def progress(self) -> dict[str, tuple[int, int]]:
        """What `drive.progress` says, everywhere."""

    def stop(self) -> None:
        """End all runs."""


class Processes:
    """This machine: some runs side by side, each in processes of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count)

    def workers(self) -> Mapping[str, int]:
        """This machine alone."""
        return {HERE: self.count}

    def kind(self, worker: str, *what: Any) -> dict[str, Any]:
        """What this process says."""
        return kind_here(*what)

    def begin(self, job: dict[str, Any]) -> Begun:
        """Begin a run in a thread that watches its processes."""
        made: Future[dict[str, Any]] = self.pool.submit(drive.run, job)
        return made

    def progress(self) -> dict[str, tuple[int, int]]:
        """Of the runs of this process."""
        return drive.progress()

    def stop(self) -> None:
        """End all runs, and wait until their processes are gone."""
        drive.stop()
        self.pool.shutdown(cancel_futures=True)


class Workers:
    """The workers of a Dask scheduler, each started in a checkout of the suite.

    Each run is sent to one worker by name, so that what becomes of a run whose worker dies is for
    the hunt to say, and not for the scheduler.
    """

    #: Seconds between two looks at how far the runs are.
    PAUSE: Final = 1.0

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client  # an extra of its own: a hunt on one machine needs none
        except ModuleNotFoundError:
            raise Wrong(
                "--scheduler needs dask.distributed: python -m pip install distributed"
            ) from None
        # Who comes and goes is for the hunt to say.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            self.client = Client(address, timeout=10, set_as_default=False)
        except (*SILENT, ValueError) as error:
            raise Wrong(f"--scheduler {address}: cannot be reached: {_line(error)}") from None
        self.last: dict[str, tuple[int, int]] = {}
        self.ended = threading.Event()
        # Of its own: a worker that does not answer must not keep the hunt from going on.
        threading.Thread(target=self._look, daemon=True).start()

    def workers(self) -> Mapping[str, int]:
        """The workers that the scheduler knows, and their threads."""
        try:
            found: Mapping[str, int] = self.client.nthreads()
        except SILENT as error:
            raise Gone(f"the scheduler does not answer: {_line(error)}") from None
        return found

    def kind(self, worker: str, *what: Any) -> dict[str, Any]:
        """What a worker says of itself; why it has nothing to say."""
        try:
            answers = self.client.run(kind_here, *what, workers=[worker], on_error="return")
        except SILENT as error:
            return {"missing": f"it does not answer: {_line(error)}"}
        said = answers.get(worker)
        if isinstance(said, dict):
            return said
        return {"missing": f"it does not find the suite: start it in a checkout ({_line(said)})"}

    def begin(self, job: dict[str, Any]) -> Begun:
        """Send a run to its worker."""
        sent: Begun = self.client.submit(
            drive.run, job, key=job["name"], workers=[job["worker"]], pure=False
        )
        return sent

    def progress(self) -> dict[str, tuple[int, int]]:
        """Of the runs of all workers, as they said last."""
        return self.last

    def _look(self) -> None:
        while not self.ended.wait(self.PAUSE):
            with suppress(*CLOSED):  # the hunt itself sees who is gone
                said = self.client.run(drive.progress, on_error="ignore")
                self.last = {name: far for each in said.values() for name, far in each.items()}

    def stop(self) -> None:
        """End all runs; a worker that does not answer keeps its own."""
        self.ended.set()
        asked = threading.Thread(target=self._stop, daemon=True)
        asked.start()
        asked.join(timeout=5)
        with suppress(*SILENT):
            self.client.close(timeout=5)

    def _stop(self) -> None:
        with suppress(*CLOSED):
            self.client.run(drive.stop, on_error="ignore")


def _line(said: object) -> str:
    """The first line of what is said."""
    return (str(said).splitlines() or [""])[0]
