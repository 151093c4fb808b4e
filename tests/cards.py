"""A manifest and a card, as a saved encoder's folder has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MANIFEST: dict[str, Any] = {
    "stage": "adapt",
    "settings": {
        "model": {"name": "smollm2-135m", "lora": {"rank": 16}},
        "text": {"corpus": "/home/someone/secret/news.jsonl", "language": "de"},
        "optimizer": {"batch_size": 16, "learning_rate": 0.001},
    },
    "inputs": {"corpus": "5adb8dec48cdddfb"},
    "results": {"steps": 32, "seconds": 270.8, "losses": {"loss_self": 7.10406}},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "code": "120c79b25c58",
}


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")
