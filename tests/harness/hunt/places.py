"""Where runs go: processes of this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol

from . import drive
from .records import Wrong, kind_here

HERE: Final = "this machine"


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
        try:
            self.client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise Wrong(f"--scheduler {address}: cannot be reached: {line}") from None
        self.last: dict[str, tuple[int, int]] = {}
        self.ended = threading.Event()
        # Of its own: a worker that does not answer must not keep the hunt from going on.
        threading.Thread(target=self._look, daemon=True).start()

    def workers(self) -> Mapping[str, int]:
        """The workers that the scheduler knows, and their threads."""
        found: Mapping[str, int] = self.client.nthreads()
        return found

    def kind(self, worker: str, *what: Any) -> dict[str, Any]:
        """What a worker says of itself; why it has nothing to say."""
        answers = self.client.run(kind_here, *what, workers=[worker], on_error="return")
        said = answers.get(worker)
        if isinstance(said, dict):
            return said
        line = (str(said).splitlines() or [""])[0]
        return {"missing": f"it does not find the suite: start it in a checkout ({line})"}

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
            said = self.client.run(drive.progress, on_error="ignore")
            self.last = {name: far for each in said.values() for name, far in each.items()}

    def stop(self) -> None:
        """End all runs; a worker that does not answer keeps its own."""
        self.ended.set()
        asked = threading.Thread(target=self.client.run, args=(drive.stop,), daemon=True)
        asked.start()
        asked.join(timeout=5)
        self.client.close(timeout=5)
