"""The heart of a worker: a thread that keeps its leases, and looks for the end of the sweep."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mmbench.launch.lease import Lease
from mmbench.launch.sweepfolder import SweepFolder

WATCH = 5.0  # seconds between two looks for the marker ``cancelled``

log = logging.getLogger(__name__)


class Heart:
    """Beats for as long as its context lasts.

    Args:
        sweep: whose cells the leases are on.
        seconds: between two touches of a lease.
        stop: called once when the sweep is cancelled.
    """

    def __init__(self, sweep: SweepFolder, seconds: float, stop: Callable[[], None]) -> None:
        self.sweep, self.seconds, self.stop = sweep, seconds, stop
        self.leases: set[Lease] = set()
        self.lock = threading.Lock()  # of ``leases``
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.done.set()
        self.thread.join()

    def keep(self, lease: Lease) -> None:
        """Keep a lease from now on."""
        with self.lock:
            self.leases.add(lease)

    def let_go(self, lease: Lease) -> None:
        """Touch a lease no more."""
        with self.lock:
            self.leases.discard(lease)

    def _beat(self) -> None:
        """Touch every lease in time; look for the marker that cancels the sweep."""
        due = time.monotonic() + self.seconds
        cancelled = False
        while not self.done.wait(min(WATCH, max(0.0, due - time.monotonic()))):
            if not cancelled and self.sweep.cancelled:
                cancelled = True
                self.stop()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + self.seconds
            with self.lock:
                held = list(self.leases)
            for lease in held:
                try:
                    lease.beat()
                except OSError as err:
                    log.warning("cannot keep %s: %s", lease.file, err)
