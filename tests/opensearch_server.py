"""A stand-in for an OpenSearch server: the few requests of an export and a search, answered from memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


class OpenSearchServer(ThreadingHTTPServer):
    """Indexes by name, each with its mappings and documents."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.indexes: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.scrolls: dict[str, list[Any]] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and answer of a request whose body holds JSON, or several lines of it."""
        self.requests.append((method, path, body))
        parts = path.strip("/").split("/")
        if path == "/":
            return 200, {"version": {"number": "3.0.0", "distribution": "opensearch"}}
        if parts[:2] == ["_search", "scroll"]:
            return 200, {} if method == "DELETE" else self._scrolled(body["scroll_id"])
        index = self.indexes.get(parts[0])
        if len(parts) == 1 and method == "PUT":
            self.indexes[parts[0]] = {"mappings": body["mappings"], "documents": {}}
            return 200, {"acknowledged": True}
        if index is None:
            return 404, {"error": "index_not_found_exception", "status": 404}
        if len(parts) == 1:
            return 200, {}
        if parts[1] == "_mapping" and method == "PUT":
            index["mappings"] |= body
            return 200, {"acknowledged": True}
        if parts[1] == "_mapping":
            return 200, {parts[0]: {"mappings": index["mappings"]}}
        return 200, getattr(self, parts[1])(index, body)

    def _refresh(self, index: dict[str, Any], body: Any) -> Any:
        return {}

    def _count(self, index: dict[str, Any], body: Any) -> Any:
        assert body == {"query": {"exists": {"field": "digest"}}}
        return {"count": sum("digest" in one for one in index["documents"].values())}

    def _bulk(self, index: dict[str, Any], lines: list[Any]) -> Any:
        items, place = [], 0
        width = index["mappings"]["properties"]["vector"]["dimension"]
        while place < len(lines):
            [(action, about)] = lines[place].items()
            place += 1 if action == "delete" else 2
            result: dict[str, Any] = {"_id": about["_id"], "status": 200}
            if action == "delete":
                result["status"] = 200 if index["documents"].pop(about["_id"], None) else 404
            elif len(lines[place - 1]["vector"]) != width:
                result |= {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "another dimension"}}
            else:
                index["documents"][about["_id"]] = lines[place - 1]
            items.append({action: result})
        return {"errors": any(item[next(iter(item))]["status"] >= 400 for item in items), "items": items}

    def _msearch(self, index: dict[str, Any], lines: list[Any]) -> Any:
        return {"responses": [self._search(index, body) for body in lines[1::2]]}

    def _search(self, index: dict[str, Any], body: Any) -> Any:
        documents = list(index["documents"].values())
        query = body.get("query", {})
        if "knn" in query:
            asked = np.array(query["knn"]["vector"]["vector"])
            products = [float(np.dot(asked, one["vector"])) for one in documents]
            # How OpenSearch makes a score of an inner product.
            scores = [product + 1 if product >= 0 else 1 / (1 - product) for product in products]
        elif "multi_match" in query:
            words = query["multi_match"]["query"].split()
            scores = [sum(f"{one['title']} {one['text']}".count(word) for word in words) for one in documents]
        else:
            self.scrolls["all"] = [{"_source": one, "_score": None} for one in documents]
            return self._scrolled("all")
        best = sorted(zip(scores, documents, strict=True), key=lambda pair: -pair[0])[: body["size"]]
        return {"hits": {"hits": [{"_score": score, "_source": one} for score, one in best if score > 0]}}

    def _scrolled(self, name: str) -> Any:
        part, self.scrolls[name] = self.scrolls[name][:100], self.scrolls[name][100:]
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        return {"_scroll_id": name, "_shards": shards, "hits": {"hits": part}}


class _Handler(BaseHTTPRequestHandler):
    server: OpenSearchServer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = self.path.partition("?")[0]
        lines = [json.loads(line) for line in text.split("\n") if line]  # Not U+2028
        body = lines if path.endswith(("_bulk", "_msearch")) else (lines[0] if lines else None)
        status, content = self.server.answer(self.command, path, body)
        data = b"" if self.command == "HEAD" else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815


@contextmanager
def running_opensearch() -> Iterator[OpenSearchServer]:
    """Start the stand-in for the length of a block."""
    with OpenSearchServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
