"""An encoder whose passes run on a Ray cluster: Ray places the work, the store is read and written here.

The block of work is a shard of the store. The contents of a shard decide the model's batches, and so the last bit of
each vector; an actor that encodes whole shards gives the bytes of the plain command. Plain actors need the least code
of ours for that. Ray Data would cut a corpus into batches of its own, wants its own reader of our formats and its own
resume, and still leaves the ordered write of the store to us.

What we use of Ray: actors that are placed on a GPU or on a share of the CPUs, restarted on another node when theirs
dies, and the transfer of passages and vectors. A call that was lost with its worker is made again by another one. Two
shards wait at each worker, so that it is busy while the driver writes; no more are read, so memory stays flat.

A worker says what it runs, and each call says what it must be: another llama2vec, torch, model, recipe, number format
or kind of device is refused.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.artifact import read_object
from llama2vec.config import ModelSettings
from llama2vec.errors import (
    ClusterError,
    ConfigError,
    Llama2VecError,
    MissingDependencyError,
    first_line,
    last_line,
    one_line,
)
from llama2vec.model.source import CONTRACT_FILE, ModelSpec
from llama2vec.records import Passage
from llama2vec.retrieve.settings import PlacingSettings
from llama2vec.retrieve.store.reader import Vectors
from llama2vec.retrieve.store.reuse import BatchwiseEncoder

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 30.0
_IDLE_SECONDS = 900.0
_POLL_SECONDS = 0.5
_SHARDS_PER_WORKER = 2
_TRIES = 6


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What decides the vectors of a worker, by the words of a message."""

    llama2vec: str
    torch: str = ""
    contract: str = ""
    numbers: str = ""
    device: str = ""
    node: str = field(default="", compare=False)

    def check(self, other: WorkerFacts) -> None:
        """Raise a ClusterError with the first difference of another worker; what is empty is not known yet."""
        for name in (one.name for one in fields(self) if one.compare):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours and theirs and ours != theirs:
                raise ClusterError(
                    f"the Ray worker on {other.node} has {name} {theirs[:12]} instead of {ours[:12]}; "
                    "give all machines the same llama2vec, packages and model files"
                )


class EncodingWorker:
    """The actor: one encoder, loaded when it is first asked for."""

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        self._spec, self._settings = spec, settings
        self._encoder: Any = None

    def introduce(self, expected: WorkerFacts) -> tuple[WorkerFacts, ModelSpec, int]:
        """Load the encoder; return its facts, its spec as a store records it, and its width D.

        Raises:
            ClusterError: This worker is another one than expected.
        """
        import ray
        import torch

        own = WorkerFacts(_own_version(), torch.__version__, node=ray.util.get_node_ip_address())
        expected.check(own)
        if self._encoder is None:
            from llama2vec.model.encoder import Encoder

            self._encoder = Encoder.from_spec(self._spec, self._settings)
        encoder = self._encoder
        device = encoder.backbone.model.device.type
        own = replace(own, contract=encoder.contract_hash, numbers=encoder.dtype, device=device)
        expected.check(own)
        return own, encoder.spec, encoder.dimension

    def count_cut(self, expected: WorkerFacts, passages: Sequence[Passage]) -> int:
        """Return how many passages are longer than the model reads of them."""
        self.introduce(expected)
        return int(self._encoder.count_cut(passages))

    def batches(
        self, expected: WorkerFacts, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None
    ) -> list[tuple[list[int], Vectors]]:
        """Return places and vectors [B, D] of every batch of a shard but those that are all ``skip``."""
        self.introduce(expected)
        return list(self._encoder.passage_batches(passages, skip))


class RayEncoder(BatchwiseEncoder):
    """A :class:`~llama2vec.retrieve.store.reader.PassageEncoder` of many workers; made by :func:`ray_encoder`."""

    def __init__(self, spec: ModelSpec, settings: ModelSettings, workers: int, needs: dict[str, float]) -> None:
        import ray

        self._ray, self._stopped, self._guard = ray, threading.Event(), threading.Lock()
        self._fault: Llama2VecError | None = None
        self._waiting: list[threading.Thread] = []
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running, self._used = 0, time.monotonic()
        self._expected, self.spec, self.dimension = _known_here(spec), spec, 0
        self.shards_at_once = _SHARDS_PER_WORKER * workers
        actor = ray.remote(EncodingWorker).options(max_restarts=-1, max_task_retries=0, **needs)
        self._workers = [actor.remote(spec, settings) for _ in range(workers)]
        for worker in self._workers * _SHARDS_PER_WORKER:
            self._await(worker)

    def wait(self) -> None:
        """Return when the first worker has loaded the encoder.

        Raises:
            ClusterError: None starts, or one is another than expected.
        """
        self._free.put(self._take())

    @property
    def contract_hash(self) -> str:
        """Hash of everything that decides what the vectors are."""
        return self._expected.contract

    @property
    def dtype(self) -> str:
        """Number format in which every worker computes."""
        return self._expected.numbers

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors) of the batches that one worker makes of all passages."""
        yield from self._call("batches", passages, skip)

    def count_cut(self, passages: Sequence[Passage]) -> int:
        """Return how many passages are longer than the model reads of them."""
        return int(self._call("count_cut", passages))

    def stop(self) -> None:
        """End every call that runs, with a ClusterError where it was made."""
        self._stopped.set()

    def close(self) -> None:
        """End all calls and give the workers' places back."""
        self.stop()
        for thread in self._waiting:
            thread.join()
        for worker in self._workers:
            self._ray.kill(worker)

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a worker that is free, and another one if that one is lost.

        Raises:
            ClusterError: No worker is left, or this call was lost several times.
            Llama2VecError: What the encoder itself refuses.
        """
        for attempt in range(1, _TRIES + 1):
            worker = self._take()
            self._count(1)
            try:
                found = self._result(getattr(worker, method).remote(self._expected, *arguments))
            except self._ray.exceptions.RayError as error:
                logger.warning("a Ray worker was lost (try %d of %d): %s", attempt, _TRIES, first_line(error))
                self._await(worker)
            else:
                self._free.put(worker)
                return found
            finally:
                self._count(-1)
        raise ClusterError(
            f"Ray lost {_TRIES} workers one after the other over the same passages; look for the reason (memory?) with "
            "`ray logs`, then run the same command again: finished shards are kept"
        )

    def _result(self, call: Any) -> Any:
        """Wait for a call; what our own code raised there is raised here."""
        while not self._ray.wait([call], timeout=_POLL_SECONDS)[0]:
            self._check_stopped()
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Llama2VecError):
                raise error.cause from None
            kind, said = type(error.cause).__name__, one_line(error.cause or error)
            raise ClusterError(
                f"a Ray worker failed ({kind}: {said}); see `ray logs`, then run the same command again: finished "
                "shards are kept"
            ) from error

    def _count(self, change: int) -> None:
        with self._guard:
            self._running, self._used = self._running + change, time.monotonic()

    def _take(self) -> Any:
        """Return a worker with room for one more shard."""
        while True:
            self._check_stopped()
            try:
                return self._free.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if not self._running and time.monotonic() - self._used > _IDLE_SECONDS:
                    raise ClusterError(
                        f"no Ray worker is running, and none has started for {_IDLE_SECONDS / 60:.0f} minutes; see "
                        "`ray status`, then run the same command again: finished shards are kept"
                    ) from None

    def _await(self, worker: Any) -> None:
        """Offer a worker for one more shard as soon as it has loaded the right encoder."""
        thread = threading.Thread(target=self._welcome, args=(worker,), daemon=True)
        self._waiting.append(thread)
        thread.start()

    def _welcome(self, worker: Any) -> None:
        while not self._stopped.is_set():
            try:
                facts, spec, dimension = self._result(worker.introduce.remote(self._expected))
                with self._guard:
                    # The first worker decides what all others must be.
                    self._expected.check(facts)
                    if not self.dimension:
                        self._expected, self.spec, self.dimension = facts, spec, dimension
                self._used = time.monotonic()
                self._free.put(worker)
                return
            except Llama2VecError as error:
                self._fault = self._fault or error
                return
            except self._ray.exceptions.RayError as error:
                if getattr(error, "actor_init_failed", False):
                    self._fault = ClusterError(
                        f"a Ray worker cannot start llama2vec ({last_line(error)}); install it on every machine of the "
                        "cluster, with the same packages as here"
                    )
                    return
                time.sleep(_POLL_SECONDS)  # it is being restarted, here or on another node

    def _check_stopped(self) -> None:
        if self._fault:
            raise self._fault
        if self._stopped.is_set():
            raise ClusterError("encoding was stopped; run the same command again: finished shards are kept")


@contextmanager
def ray_encoder(spec: ModelSpec, settings: ModelSettings, placing: PlacingSettings) -> Iterator[RayEncoder]:
    """Start workers on a Ray cluster; without an address, on a Ray that is started on this machine.

    Ray stays as it was found: a cluster is left, a Ray that was started here ends with the block.

    Raises:
        MissingDependencyError: Ray is not installed.
        ClusterError: No cluster answers, it has no room for a worker, or a worker is another one than this machine.
        ModelError: The workers cannot load the model.
    """
    is_ours = _connect(placing.address or os.environ.get("RAY_ADDRESS", ""))
    import ray

    encoder = None
    try:
        workers, needs = _layout(ray.nodes(), settings.device, placing)
        logger.info("encoding on Ray with workers=%d, each with %s", workers, needs)
        encoder = RayEncoder(spec, settings, workers, needs)
        encoder.wait()
        yield encoder
    finally:
        if encoder:
            encoder.close()
        if is_ours:
            ray.shutdown()


def _connect(address: str) -> bool:
    """Connect to a cluster, or start Ray here; return False where the caller's program has done so already."""
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError(
            "--engine ray needs Ray, which is not installed; run: pip install 'llama2vec[ray]'"
        )
    import ray

    if ray.is_initialized():
        return False
    address = address or "local"
    if "://" in address:
        raise ConfigError(
            f"--address {address}: give HOST:PORT or auto, and run the command on a machine of the cluster "
            "(`ray job submit` does)"
        )
    here = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that we start sends no statistics
        here = {"include_dashboard": False}
    else:
        _check_health(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "Ray cannot start on this machine" if here else f"cannot join the Ray cluster at {address}"
        remedy = "free memory or disk space" if here else "check that this machine has the cluster's Ray and Python"
        raise ClusterError(f"{where} ({one_line(error)}); {remedy}, then run the same command again") from error
    return True


def _check_health(address: str) -> None:
    """Raise a ClusterError if no cluster answers in time. Ray itself would wait for minutes, then end this process."""
    where = [] if address == "auto" else ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *where]
    try:
        healthy = subprocess.run(command, capture_output=True, timeout=_CONNECT_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise ClusterError(
            f"no Ray cluster answers at {address}; start one with `ray start --head`, or leave --address out to start "
            "Ray on this machine"
        )


def _layout(nodes: Sequence[dict[str, Any]], device: str, placing: PlacingSettings) -> tuple[int, dict[str, float]]:
    """Return how many workers there are and what each needs: a GPU where there are any, else a share of the CPUs."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in alive)
    if device.startswith("cuda") or (device == "auto" and gpus):
        count, needs = gpus, {"num_gpus": 1.0}
    else:
        cpus = [node["CPU"] for node in alive if node.get("CPU")]
        share = placing.worker_cpus or min(cpus, default=1)
        count, needs = sum(int(have // share) for have in cpus), {"num_cpus": float(share)}
    count = placing.workers or count
    if not count:
        wanted = "GPU" if "num_gpus" in needs else f"machine with {needs['num_cpus']:g} CPUs"
        raise ClusterError(
            f"the Ray cluster has no {wanted}; add one, or name with --workers how many will come by autoscaling"
        )
    return count, needs


def _known_here(spec: ModelSpec) -> WorkerFacts:
    """Return what this machine knows of the workers that it needs."""
    source = spec.source()
    contract = read_object(Path(source.location) / CONTRACT_FILE) if source.carries_contract else None
    return WorkerFacts(_own_version(), contract=str((contract or {}).get("hash", "")))


def _own_version() -> str:
    return str(sys.modules["llama2vec"].__version__)  # the package names higher layers: an import would point up
