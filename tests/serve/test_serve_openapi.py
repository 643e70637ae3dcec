"""openapi.json is true: whatever it allows is answered as it says, and never by a fault of the server."""

from __future__ import annotations

import json

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = 30
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_whatever_is_sent_is_answered_as_described(served):
    described = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) == 16
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
            )
            def answered(case):
                case.call_and_validate(checks=CHECKS)

            try:
                answered()
            except Unsatisfiable:  # nothing can be wrong with a request that has no parameters
                assert mode == GenerationMode.NEGATIVE, operation.label


def test_every_endpoint_has_examples_and_errors(client):
    described = client.get("/openapi.json").json()
    paths = described["paths"]
    assert set(paths) == {
        *("/healthz", "/readyz", "/metrics", "/v1/collection", "/v1/search", "/v1/search/batch"),
        *("/v1/recommend", "/v1/image", "/v1/image/thumbnail", "/v1/image/explain", "/v1/tags"),
        *("/v1/products", "/v1/product", "/v1/products/export", "/v1/decisions"),
    }
    for path, methods in paths.items():
        for operation in methods.values():
            assert operation["summary"], path
            if path.startswith("/v1/"):
                assert {"401", "422", "429", "503"} <= set(operation["responses"])
    examples = paths["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v1/search", json=examples).status_code == 404  # a valid body; its image is not here
    examples = paths["/v1/decisions"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v1/decisions", json=examples).status_code == 404
    text = json.dumps(described)
    for name in (
        "SearchBody",
        "BatchBody",
        "RecommendBody",
        "UploadBody",
        "FilterBody",
        "ProblemBody",
        "DecisionsBody",
    ):
        assert name in described["components"]["schemas"]
    assert "HTTPValidationError" not in text
