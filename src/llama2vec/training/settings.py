"""Settings that both training stages share, besides the optimization."""

from __future__ import annotations

from pydantic import model_validator

from llama2vec.config import Settings

TRACKERS = ("tensorboard", "wandb", "trackio")


class TrackingSettings(Settings):
    """Where the curves of a training are shown, besides its own log and picture; the result does not depend on it.

    Attributes:
        report_to: ``none``, ``tensorboard``, ``wandb``, ``trackio``, or several as a list. Each needs its package.
            TensorBoard's files are in the output folder; W&B writes to its server, or with ``WANDB_MODE=offline`` to
            the working folder; Trackio to its folder on this machine. A resumed training continues its run.
    """

    report_to: str | list[str] = "none"
    project: str = "llama2vec"  # Project of W&B and Trackio
    name: str = ""  # Name of the run; "" = the output folder's. A short random mark follows it

    @property
    def trackers(self) -> list[str]:
        """The trackers by name, each once."""
        given = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in dict.fromkeys(given) if name != "none"]

    @model_validator(mode="after")
    def _known(self) -> TrackingSettings:
        unknown = [name for name in self.trackers if name not in TRACKERS]
        if unknown:
            raise ValueError(f"report_to: unknown tracker {unknown[0]!r}; choose from {', '.join(TRACKERS)}, none")
        return self
