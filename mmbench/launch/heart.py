"""The heart of a worker: a thread that keeps its leases, and looks for the end of the sweep."""

import logging
import threading
import time
from collections.abc import Callable

from mmbench.launch.lease import Lease
from mmbench.launch.sweepfolder import SweepFolder

WATCH = 5.0  # seconds between two looks for the marker ``cancelled``

log = logging.getLogger(__name__)


class Heart:
    """Beats from ``start`` to ``stop``.

    Args:
        sweep: whose cells the leases are on.
        seconds: between two touches of a lease.
        cancelled: called once when the sweep is cancelled.
    """

    def __init__(self, sweep: SweepFolder, seconds: float, cancelled: Callable[[], None]) -> None:
        self.sweep, self.seconds, self.cancelled = sweep, seconds, cancelled
        self.leases: set[Lease] = set()
        self.lock = threading.Lock()  # of ``leases``
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self.thread.start()

    def stop(self) -> None:
        """Beat no more."""
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
        told = False
        while not self.done.wait(min(WATCH, max(0.0, due - time.monotonic()))):
            if not told and self.sweep.cancelled:
                told = True
                self.cancelled()
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
