"""Holds a Redis server's writes, and lets them go whatever becomes of this process.

`CLIENT PAUSE … WRITE` belongs to the server, not to the connection that asked for it: it stays when that connection
closes. So it is asked for by short leases, again and again. If this process dies, the server ends the last lease.
"""

from __future__ import annotations

import threading
import time

from resp import Redis

LEASE = 0.4
RENEW = 0.1


class Pause:
    """A pause that is being kept. `redis` is a connection that nobody else uses."""

    def __init__(self, redis: Redis, until: float):
        self._redis, self._until = redis, until
        self._stop = threading.Event()
        self.expired = False
        self._renew()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        # A pause can be prolonged, never shortened: no lease may outlast the hold.
        self._redis.call("CLIENT", "PAUSE", max(1, int(min(LEASE, left) * 1000)), "WRITE", timeout=min(LEASE, left))

    def _keep(self) -> None:
        try:
            while not self._stop.wait(min(RENEW, max(0.0, self._until - time.monotonic()))):
                self._renew()
        except Exception:
            # Too late, or the server does not answer. What was written meanwhile shows in its counters.
            self.expired = True
            try:
                self._redis.call("CLIENT", "UNPAUSE", timeout=LEASE)
            except Exception:
                pass

    def release(self, limit: float) -> bool:
        """Ends it; `False` if the server did not confirm that within `limit` seconds: then the lease ends it."""
        until = time.monotonic() + limit
        self._stop.set()
        self._thread.join(limit)
        if self._thread.is_alive():
            return False
        try:
            self._redis.call("CLIENT", "UNPAUSE", timeout=until - time.monotonic())
            return True
        except Exception:
            return False
        finally:
            self._redis.close()
