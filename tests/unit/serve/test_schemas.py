"""What the OpenAPI schema says holds, whatever is sent."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from service_stand_ins import Running, Start

schemathesis = pytest.importorskip("schemathesis")


def test_whatever_fits_the_schema_or_not_is_answered_as_the_schema_says(start: Start) -> None:
    """Valid and invalid requests of every kind: no 5xx, no undocumented status or body, no hint of our insides."""
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    service = start(max_texts=4, max_characters=300, max_depth=20)
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    tried = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        raw = operation.definition.raw
        # Nothing can be wrong about a text in the path.
        can_be_wrong = "requestBody" in raw or any(part["in"] == "query" for part in raw.get("parameters", []))
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if can_be_wrong else (GenerationMode.POSITIVE,):

            @settings(
                max_examples=15, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                nonlocal tried
                tried += 1
                answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
                if case.meta.generation.mode is GenerationMode.POSITIVE and answer.status_code == 400:
                    # What depends on the loaded model and index is not in the schema.
                    assert answer.json()["error"]["param"] in ("dimensions", "mode", "where")
                body = answer.content.decode()
                assert "Traceback" not in body
                assert "site-packages" not in body

            check()
    assert tried > 100
    assert 'status="500"' not in httpx.get(f"{service.url}/metrics").text


def test_the_schema_has_no_answer_that_is_never_given(shared_service: Running) -> None:
    schema = shared_service.client.get("/openapi.json").json()
    assert "422" not in json.dumps(schema)
    assert set(schema["paths"]) == {
        "/healthz", "/metrics", "/search", "/fields", "/context", "/explain", "/v1/embeddings",
        "/v1/models", "/v1/models/{model_id}",
    }  # fmt: skip
