"""Embeddings through OpenAI's own client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import openai
import pytest
from service_stand_ins import Running, StandInEncoder, Start, vector_of, wait_until

from llama2vec.model.encoder import Encoder
from llama2vec.serve.loaded import ServedModel


@pytest.fixture
def client(service: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openais_client_gets_the_encoders_vectors_as_numbers_and_as_base64(client: openai.OpenAI) -> None:
    texts = ["A llama.", "An alpaca.", "Überall 🦙"]
    expected = [vector_of(text, "passage") for text in texts]
    for given in ({"encoding_format": "float"}, {"encoding_format": "base64"}, {}):
        answer = client.embeddings.create(model="stand-in", input=texts, **cast(Any, given))
        assert [row.index for row in answer.data] == [0, 1, 2]
        rows = [row.embedding for row in answer.data]
        if isinstance(rows[0], str):  # the client decodes only what it asked for by itself
            import base64

            rows = [np.frombuffer(base64.b64decode(cast(str, row)), dtype="<f4").tolist() for row in rows]
        np.testing.assert_allclose(rows, expected, atol=1e-7)
        assert answer.model == "stand-in"
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 12


def test_input_type_chooses_the_side_and_passage_is_the_default(client: openai.OpenAI) -> None:
    def embed(**more: Any) -> list[float]:
        return client.embeddings.create(model="stand-in", input="llama", **more).data[0].embedding

    np.testing.assert_allclose(embed(), vector_of("llama", "passage"), atol=1e-7)
    np.testing.assert_allclose(embed(extra_body={"input_type": "passage"}), embed())
    np.testing.assert_allclose(embed(extra_body={"input_type": "query"}), vector_of("llama", "query"), atol=1e-7)


def test_fewer_dimensions_are_the_first_ones_at_unit_length(client: openai.OpenAI) -> None:
    full = vector_of("llama", "passage")
    short = client.embeddings.create(model="stand-in", input="llama", dimensions=3).data[0].embedding
    np.testing.assert_allclose(short, full[:3] / np.linalg.norm(full[:3]), atol=1e-7)
    whole = client.embeddings.create(model="stand-in", input="llama", dimensions=8, user="somebody").data[0].embedding
    np.testing.assert_allclose(whole, full, atol=1e-7)


def test_the_served_model_is_listed_with_its_contract(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, cast(Any, model).dimensions, cast(Any, model).contract_hash) == ("stand-in", 8, "c0ffee")
    assert client.models.retrieve("stand-in").id == "stand-in"
    with pytest.raises(openai.NotFoundError, match="this service has only"):
        client.models.retrieve("text-embedding-3-small")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": ["fine", ""]}, "input.1", "at least 1 character"),
        ({"input": [1, 2]}, "input.0", "send texts, not token ids"),
        ({"input": [[1, 2]]}, "input.0", "send texts, not token ids"),
        ({"input": ["fine", None]}, "input.1", "valid string"),
        ({"input": 7}, "input", "a text or a list of texts"),
        ({"input": {"text": "llama"}}, "input", "a text or a list of texts"),
        ({}, "input", "required"),
        ({"input": "llama", "dimensions": 9}, "dimensions", "this model has 8, fewer than 9"),
        ({"input": "llama", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "llama", "dimensions": "3"}, "dimensions", "valid integer"),
        ({"input": "llama", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "llama", "input_type": "document"}, "input_type", "'query' or 'passage'"),
        ({"input": "llama", "dimension": 3}, "dimension", "unknown field 'dimension'; did you mean 'dimensions'?"),
        ({"input": "llama", "<script>": 3}, None, "unknown field in request"),
    ],
)
def test_a_request_that_does_not_fit_is_told_which_field_and_why(
    shared_service: Running, body: dict[str, Any], param: str | None, message: str
) -> None:
    answer = shared_service.client.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert message in error["message"]
    assert shared_service.encoder.calls == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"llama", b"[1]", b'"llama"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"input": "\\ud800"}',
     b'{"input": NaN}',
     b'{"input": "llama", "dimensions": ' + b"9" * 5000 + b"}"],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_a_body_that_is_no_request_is_a_bad_request_and_nothing_else(
    shared_service: Running, content: bytes, kind: str | None
) -> None:
    answer = shared_service.client.post(
        "/v1/embeddings", content=content, headers={"Content-Type": kind} if kind else {}
    )
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] in ("invalid_json", "invalid_value"), "our words, not the framework's"


def test_concurrent_requests_share_the_models_passes(start: Start) -> None:
    service = start(max_wait_ms=0)
    service.encoder.gate.clear()
    answers: list[int] = []

    def ask(number: int) -> None:
        body = {"input": f"text {number}"}
        answers.append(service.client.post("/v1/embeddings", json=body).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    threads[0].start()
    assert service.encoder.working.wait(10)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: "llama2vec_waiting_texts 16.0" in service.client.get("/metrics").text)
    service.encoder.gate.set()
    for thread in threads:
        thread.join(10)
    assert answers == [200] * 16
    # One for the first, one for all that came while it was in work (a late one may need a third).
    assert len(service.encoder.calls) <= 3
    assert sum(len(texts) for _, texts in service.encoder.calls) == 16


def test_a_real_encoders_vectors_and_token_counts_arrive(
    start: Start, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = Encoder.load(save_model(tmp_path / "model"))
    service = start(encoder=cast(StandInEncoder, _Recorded(ServedModel(encoder, "tiny"))), with_search=False)
    texts = ["The river bridge.", "castle " * 400, "winter market of the harbour", "a"]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        for side, encode in (("query", encoder.encode_queries), ("passage", encoder.encode_passages)):
            answer = client.embeddings.create(model="tiny", input=texts, extra_body={"input_type": side})
            expected = encode(texts)
            assert np.abs(np.array([row.embedding for row in answer.data]) - expected).max() < 1e-6
            numbers = [
                client.embeddings.create(
                    model="tiny", input=text, encoding_format="float", extra_body={"input_type": side}
                )
                for text in texts
            ]
            assert np.abs(np.array([one.data[0].embedding for one in numbers]) - expected).max() < 1e-6
            assert sum(one.usage.prompt_tokens for one in numbers) == answer.usage.prompt_tokens
            ids, settings = encoder.contract.ids, encoder.contract.encoder
            most = getattr(settings, f"{side}_max_tokens") + len(ids.prefix) + len(ids.suffixes["self"])
            assert numbers[1].usage.prompt_tokens == most


class _Recorded:
    """A served model with the stand-in's record of calls."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self.calls: list[Any] = []
        self.gate, self.working = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def test_as_many_texts_as_clients_send_at_once_are_answered_and_hold_up_no_question(start: Start) -> None:
    service = start()
    limits = service.client.get("/openapi.json").json()["components"]["schemas"]["EmbeddingRequest"]["properties"]
    assert limits["input"]["anyOf"][1]["maxItems"] == 2048
    service.encoder.gate.clear()
    answers: list[httpx.Response] = []

    def embed(texts: list[str]) -> None:
        answers.append(httpx.post(f"{service.url}/v1/embeddings", json={"input": texts}, timeout=60))

    many = threading.Thread(target=embed, args=([f"text {number}" for number in range(2048)],))
    many.start()
    assert service.encoder.working.wait(20)
    one = threading.Thread(target=embed, args=(["a question"],))
    one.start()
    wait_until(lambda: "llama2vec_waiting_texts 2049.0" in service.client.get("/metrics").text)
    service.encoder.gate.set()
    one.join(20)
    many.join(60)
    assert [answer.status_code for answer in answers] == [200, 200]
    # The batch that was under way, then the one with the question; more than thirty came later.
    assert ["a question" in texts for _, texts in service.encoder.calls[:2]] == [False, True]
    data = max((answer.json()["data"] for answer in answers), key=len)
    assert [one["index"] for one in data] == list(range(2048))
