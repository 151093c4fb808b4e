"""What the service counts."""

from __future__ import annotations

from service_stand_ins import LONGEST, Running


def test_metrics_count_requests_by_route_and_status_texts_tokens_and_batches(service: Running) -> None:
    before = service.client.get("/metrics").text
    assert 'llama2vec_texts_total{side="passage"} 1.0' in before  # the one that made it ready
    service.client.post("/v1/embeddings", json={"input": ["one two", "three"]})
    service.client.post("/v1/embeddings", json={})
    service.client.get("/search", params={"q": "llama"})
    for path in ("/made-up/1", "/made-up/2"):
        service.client.get(path)
    service.client.request("MADEUP", "/search")
    answer = service.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    for line in (
        'llama2vec_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0',
        'llama2vec_requests_total{method="POST",route="/v1/embeddings",status="400"} 1.0',
        'llama2vec_requests_total{method="GET",route="/search",status="200"} 1.0',
        'llama2vec_requests_total{method="GET",route="other",status="404"} 2.0',
        'llama2vec_requests_total{method="other",route="/search",status="405"} 1.0',
        'llama2vec_request_seconds_count{route="/search"} 2.0',
        'llama2vec_texts_total{side="passage"} 3.0',
        'llama2vec_tokens_total{side="passage"} 12.0',
        'llama2vec_batch_texts_sum{side="passage"} 3.0',
        "llama2vec_waiting_texts 0.0",
    ):
        assert line in answer.text.splitlines(), line
    assert "made-up" not in answer.text


def test_texts_that_the_model_cuts_are_counted_and_told_to_the_client(service: Running) -> None:
    long = "word " * (LONGEST + 1)
    embedded = service.client.post("/v1/embeddings", json={"input": [long, "short", long]})
    assert embedded.headers["X-Cut-Texts"] == "2"
    for given in ({"params": {"q": long[:900]}}, {"json": {"q": long}}):
        found = service.client.request("POST" if "json" in given else "GET", "/search", **given)
        assert (found.status_code, found.headers.get("X-Cut-Texts")) == (200, "1" if "json" in given else None)
    assert "X-Cut-Texts" not in service.client.post("/v1/embeddings", json={"input": "short"}).headers
    counted = service.client.get("/metrics").text.splitlines()
    assert 'llama2vec_cut_texts_total{side="passage"} 2.0' in counted
    assert 'llama2vec_cut_texts_total{side="query"} 1.0' in counted
