"""The service's counters, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from llama2vec.records import Side
from llama2vec.serve.batcher import Batch

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 64, 256, 1024, 2048, 4096, 16384, 65536)


class Metrics:
    """The counters of one service; ``waiting`` returns how many texts are queued or being encoded."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        labels = ("route", "method", "status")
        self._requests = counter("llama2vec_requests", "Answered requests.", labels)
        self._seconds = histogram("llama2vec_request_seconds", "Request to answer.", ("route",), buckets=_SECONDS)
        self._texts = counter("llama2vec_texts", "Texts encoded.", ("side",))
        self._cut = counter("llama2vec_cut_texts", "Texts of which the model read only the beginning.", ("side",))
        self._tokens = counter("llama2vec_tokens", "Tokens that the model read.", ("side",))
        self._batch_texts = histogram("llama2vec_batch_texts", "Texts of a batch.", ("side",), buckets=_TEXTS)
        self._batch_tokens = histogram("llama2vec_batch_tokens", "Tokens of a batch.", ("side",), buckets=_TOKENS)
        self._batch_seconds = histogram("llama2vec_batch_seconds", "Time of a batch.", ("side",), buckets=_SECONDS)
        gauge = Gauge("llama2vec_waiting_texts", "Texts queued or being encoded.", registry=self._registry)
        gauge.set_function(waiting)

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_batch(self, batch: Batch) -> None:
        """Count one batch of the encoder."""
        self._texts.labels(batch.side).inc(batch.texts)
        self._tokens.labels(batch.side).inc(batch.tokens)
        self._batch_texts.labels(batch.side).observe(batch.texts)
        self._batch_tokens.labels(batch.side).observe(batch.tokens)
        self._batch_seconds.labels(batch.side).observe(batch.seconds)

    def count_cut(self, side: Side, texts: int) -> None:
        """Count texts that are longer than the model reads."""
        self._cut.labels(side).inc(texts)

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
