"""Curves in TensorBoard, W&B or Trackio, by the callbacks of transformers; a resumed training continues its run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llama2vec.artifact import read_object
from llama2vec.errors import MissingDependencyError, TrainingError, one_line
from llama2vec.files import write_json
from llama2vec.processes import on_first_process, process_rank
from llama2vec.training.settings import TrackingSettings

TRACKING_FILE, TENSORBOARD = "tracking.json", "tensorboard"
_CALLBACKS = {"tensorboard": "TensorBoardCallback", "wandb": "WandbCallback", "trackio": "TrackioCallback"}


def check_trackers(settings: TrackingSettings) -> None:
    """Raise a MissingDependencyError that names the first tracker whose package is not installed."""
    for name in settings.trackers:
        if find_spec(name) is None:
            raise MissingDependencyError(f"tracking.report_to: {name} is not installed; run: pip install {name}")


@dataclass(frozen=True, slots=True)
class Tracking:
    """The trackers of one training."""

    settings: TrackingSettings = field(default_factory=TrackingSettings)
    name: str = ""  # What the run is called where the settings name none
    facts: Mapping[str, Any] = field(default_factory=dict)  # Shown as the run's configuration

    def arguments(self, folder: Path) -> dict[str, str]:
        """Return what the arguments of transformers' trainer say of the run."""
        if not self.settings.trackers:
            return {}
        return {"run_name": f"{self.settings.name or self.name}-{self._mark(folder)}", "project": self.settings.project}

    @contextmanager
    def started(self, folder: Path, step: int) -> Iterator[list[Any]]:
        """Find the runs of a training folder again, or begin them; yield the callbacks, and end the runs.

        Args:
            folder: The training's folder.
            step: Step that the training resumes from, 0 = from the start.

        Raises:
            TrainingError: A tracker cannot begin a run.
        """
        named, mark = self.arguments(folder), self._mark(folder) if self.settings.trackers else ""
        callbacks: list[Any] = []
        with ExitStack() as stack:
            for name in self.settings.trackers:
                import transformers.integrations

                given: dict[str, Any] = {}
                if name == "tensorboard" and process_rank() == 0:
                    given["tb_writer"] = stack.enter_context(_tensorboard(folder, step))
                elif name == "wandb":
                    on_first_process(partial(_begin_wandb, named["project"], named["run_name"], mark, self.facts))
                    stack.callback(_end_wandb)
                callbacks.append(getattr(transformers.integrations, _CALLBACKS[name])(**given))
            yield callbacks

    def _mark(self, folder: Path) -> str:
        """Return the mark of this training, made once and kept in its folder."""

        def find() -> str:
            found = (read_object(folder / TRACKING_FILE) or {}).get("run")
            if not isinstance(found, str):
                write_json(folder / TRACKING_FILE, {"run": (found := uuid.uuid4().hex[:8])})
            return found

        return on_first_process(find)


def _tensorboard(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the checkpoint, or all of an attempt that made none, come again.
    return SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)  # type: ignore[no-untyped-call]


def _begin_wandb(project: str, name: str, mark: str, facts: Mapping[str, Any]) -> None:
    import wandb

    try:
        wandb.init(project=project, name=name, id=mark, resume="allow", config=dict(facts))
    # Its errors have no common class.
    except Exception as error:
        raise TrainingError(
            f"tracking.report_to: wandb cannot begin a run ({one_line(error)}); run `wandb login`, or set "
            "WANDB_MODE=offline"
        ) from None


def _end_wandb() -> None:
    import wandb

    if process_rank() == 0:
        wandb.finish()
