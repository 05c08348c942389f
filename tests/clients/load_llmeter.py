"""LLMeter's runner under a plan, for `make accuracy`: what it measured, a JSON line a request.

    load_llmeter.py PLAN.json

The plan has `name` (of the run), `users`, `lengths` (output tokens of each request) and `results`
(the file to write). The endpoint is called `raw` and speaks TGI's own `inputs`, as LLMeter does in
streams. LLMeter is left as it is: a callback of its own kind gives each request its length and a
seed, and an event handler of botocore's sends the seed as the request's InferenceId, so that the
server's record of the same request can be found.
"""

import asyncio
import json
import logging
import resource
import sys
from pathlib import Path

from llmeter.callbacks.base import Callback
from llmeter.endpoints import SageMakerStreamEndpoint
from llmeter.runner import Runner


class Planned(Callback):
    """The next length of the plan for each request, whichever client sends it."""

    def __init__(self, lengths):
        self._left = iter(list(enumerate(lengths)))

    async def before_invoke(self, payload):
        seed, length = next(self._left)
        payload["parameters"] |= {"seed": seed, "max_new_tokens": length}


def inference_id(name, payload):
    return f"{name}-{payload['parameters']['seed']}"


def told(name, response):
    return {
        "inference_id": inference_id(name, response.input_payload),
        "ttft_s": response.time_to_first_token,
        "tpot_s": response.time_per_output_token,
        "output_tokens": response.num_tokens_output,
        "error": response.error,
    }


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    plan = json.loads(Path(sys.argv[1]).read_text())
    logging.disable(logging.CRITICAL)
    endpoint = SageMakerStreamEndpoint("raw", model_id="rehearsal")

    def name_request(params, **_):
        return params | {"InferenceId": inference_id(plan["name"], json.loads(params["Body"]))}

    events = endpoint._sagemaker_runtime.meta.events
    events.register("provide-client-params.sagemaker-runtime", name_request)
    runner = Runner(
        endpoint,
        callbacks=[Planned(plan["lengths"])],
        disable_per_client_progress_bar=True,
        disable_clients_progress_bar=True,
    )
    payload = SageMakerStreamEndpoint.create_payload("What is a rehearsal?")
    before_s = cpu_s()
    ran = asyncio.run(
        runner.run(
            payload=payload, n_requests=len(plan["lengths"]) // plan["users"], clients=plan["users"]
        )
    )
    used_s = cpu_s() - before_s
    lines = [told(plan["name"], response) for response in ran.responses]
    lines.append({"cpu_s": used_s, "seconds": ran.total_test_time})
    Path(plan["results"]).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
