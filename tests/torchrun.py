"""A process of a test as torchrun starts one."""

from __future__ import annotations

import os


def as_process(rank: int, processes: int, port: int) -> None:
    """Let this process be one of a group that meets at a port; 0 = it is alone. It has one thread and draws no plot."""
    import torch

    from llama2vec.training import loop

    torch.set_num_threads(1)
    loop.draw_losses = lambda *_: None
    if port:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
        }  # fmt: skip
