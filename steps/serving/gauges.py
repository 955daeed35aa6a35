"""A service's measurements: percentiles of its latest answers, and Prometheus counters."""

from collections import Counter as Count
from collections import deque

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

WINDOW = 1000  # answers
PERCENTILES = (50, 95, 99)
BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds


class Gauges:
    """Counts requests by route and status; keeps the seconds of the latest answers. For one event loop's thread."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._statuses: Count[int] = Count()
        self._prometheus = CollectorRegistry()
        self._requests = Counter(
            "regraft_requests", "Requests by route and status.", ("route", "status"), registry=self._prometheus
        )
        self._answered = Histogram(
            "regraft_answer_seconds",
            "From the first byte to the answer.",
            ("route",),
            buckets=BUCKETS,
            registry=self._prometheus,
        )
        self._pictures = Counter("regraft_pictures", "Pictures that got an answer.", registry=self._prometheus)
        self._unfamiliar = Counter(
            "regraft_unfamiliar", "Answers to pictures unlike the training images.", registry=self._prometheus
        )
        self._version = Gauge("regraft_version", "The registry's number of the version.", registry=self._prometheus)
        self._degraded = Gauge("regraft_degraded", "1 while an old version answers.", registry=self._prometheus)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Record one request; its time counts only if it was answered (a refusal is quick and not representative)."""
        self._statuses[status] += 1
        self._requests.labels(route, str(status)).inc()
        if status == 200:
            self._seconds.append(seconds)
            self._answered.labels(route).observe(seconds)

    def answered(self, unfamiliar: bool) -> None:
        """Count one picture's answer; from any thread."""
        self._pictures.inc()
        self._unfamiliar.inc(unfamiliar)

    def latency(self) -> dict[str, object]:
        """Return percentiles in milliseconds of the last `WINDOW` answers, and all requests by their status."""
        times = np.percentile(self._seconds, PERCENTILES) * 1000 if self._seconds else [None] * len(PERCENTILES)
        named = {f"p{p}_ms": None if v is None else round(float(v), 3) for p, v in zip(PERCENTILES, times, strict=True)}
        return {"answers": len(self._seconds), **named, "requests": {str(k): n for k, n in self._statuses.items()}}

    def prometheus(self, version: str, degraded: bool) -> bytes:
        """Return everything in Prometheus' text format."""
        self._version.set(int(version))
        self._degraded.set(degraded)
        return generate_latest(self._prometheus)
