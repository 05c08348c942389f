"""LLMeter's SageMaker endpoints: TGI's own payload, and its runner with two clients at once."""

import asyncio
import json
import os
from pathlib import Path

from llmeter.endpoints import SageMakerEndpoint, SageMakerStreamEndpoint
from llmeter.runner import Runner

chat = json.loads(Path("chat.json").read_text())
raw = json.loads(Path("raw.json").read_text())


def asked(kind, **more):
    tokens = more.pop("max_tokens", raw["parameters"]["max_new_tokens"])
    return kind.create_payload(raw["inputs"], max_tokens=tokens, **more)


def invoke(kind, endpoint, payload, **more):
    answer = kind(endpoint, model_id="llama-3", **more).invoke(payload)
    return {
        "text": answer.response_text,
        "tokens": answer.num_tokens_output,
        "first": answer.time_to_first_token,
        "last": answer.time_to_last_token,
        "error": answer.error,
    }


stream, whole = SageMakerStreamEndpoint, SageMakerEndpoint
found = {
    "streamed": invoke(stream, "raw", asked(stream)),
    "to the end": invoke(stream, "raw", asked(stream, max_tokens=700)),
    "whole": invoke(whole, "raw", asked(whole)),
    "whole chat": invoke(
        whole,
        "tgi-3",
        chat,
        generated_text_jmespath="choices[0].message.content",
        token_count_jmespath="usage.completion_tokens",
    ),
    "missing": invoke(stream, "nobody", asked(stream)),
    "refused": invoke(whole, "raw", asked(whole, max_tokens=100_000)),
    "refused stream": invoke(stream, "raw", asked(stream, max_tokens=100_000)),
}
runner = Runner(
    stream("raw", model_id="llama-3"),
    disable_per_client_progress_bar=True,
    disable_clients_progress_bar=True,
)
ran = asyncio.run(runner.run(payload=asked(stream), n_requests=3, clients=2))
wanted = ("total_requests", "failed_requests", "total_output_tokens")
found["run"] = {name: ran.stats[name] for name in wanted}

os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = os.environ["CRUMBS_URL"]
found["in crumbs"] = invoke(stream, "raw", asked(stream, max_tokens=300))
Path("found.json").write_text(json.dumps(found))
