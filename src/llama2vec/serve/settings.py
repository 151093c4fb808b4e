"""Settings of the HTTP service; each field is an option of ``llama2vec serve``."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from llama2vec.config import Settings

_DAY = 86_400.0
_HOST = re.compile(r"[\w.-]+|\[?[0-9A-Fa-f:.]+\]?")
"""A name, an IPv4 or an IPv6 address."""


class ServeSettings(Settings):
    """Limits of the HTTP service, and how it batches."""

    max_batch: int = Field(default=64, ge=1, description="Texts in one model pass; 1 = no batching.")
    max_batch_tokens: int = Field(0, ge=0, description="Tokens in one model pass; 0 = chosen for the device.")
    max_wait_ms: float = Field(
        5.0, ge=0, le=10_000, description="Milliseconds that an idle model waits for more texts."
    )
    max_waiting: int = Field(default=8192, ge=1, description="Texts queued or being encoded before requests get 503.")
    max_connections: int = Field(default=512, ge=1, description="Open connections before new ones get 503.")
    max_body_bytes: int = Field(default=4 << 20, ge=1, description="Largest request body.")
    max_texts: int = Field(default=2048, ge=1, description="Texts in one request.")
    max_characters: int = Field(default=65_536, ge=1, description="Characters in one text.")
    max_depth: int = Field(default=100, ge=1, description="Passages in one answer.")
    timeout_seconds: float = Field(60.0, gt=0, le=_DAY, description="Seconds to receive, answer and deliver a request.")
    idle_seconds: float = Field(5.0, gt=0, le=_DAY, description="Seconds that an idle connection is kept open.")
    files: Path | None = Field(
        default=None,
        description="Folder of the documents, or auto for the one recorded in the index; anyone who can search can "
        "then read the indexed documents.",
    )
    table: Path | None = Field(
        default=None,
        description="Query table from `llama2vec distill` that answers while the user types, before the model does; "
        "pass it as --model to use it instead of the model.",
    )
    grace_seconds: float = Field(30.0, ge=0, le=_DAY, description="Seconds to let open requests finish at shutdown.")

    @model_validator(mode="after")
    def _one_request_fits(self) -> ServeSettings:
        if self.max_waiting < self.max_texts:
            raise ValueError(
                f"--max-waiting {self.max_waiting} must be at least --max-texts {self.max_texts}, "
                "or the largest request could never be accepted"
            )
        return self


class ProxySettings(Settings):
    """What a reverse proxy between the clients and the service changes."""

    allow_host: list[str] = Field(default=[], description="Another host name that requests may use; repeat for more.")
    root_path: str = Field(default="", description="Path under which a proxy offers the service, such as /docs-search.")
    trusted_proxy: list[str] = Field(
        default=[], description="Address or network of a proxy whose X-Forwarded-For counts; repeat for more."
    )

    @field_validator("allow_host")
    @classmethod
    def _are_names(cls, hosts: list[str]) -> list[str]:
        # As the gate reads them in a request: without the brackets of an IPv6 address and the dot of the root.
        names = [host.strip("[]").rstrip(".") for host in hosts]
        for host, name in zip(hosts, names, strict=True):
            if not name or not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is not a host name; write one such as search.example.org, without a port")
        return names

    @field_validator("root_path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and (not path.startswith("/") or "//" in path or not path.isprintable() or {*path} & {*"?#% "}):
            raise ValueError("give a path such as /docs-search")
        return path

    @field_validator("trusted_proxy")
    @classmethod
    def _are_addresses(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"{proxy} is not an IP address or network; write 10.0.0.7 or 10.0.0.0/8") from None
        return proxies
