"""LiteLLM's provider `sagemaker_chat`; it does not read AWS_ENDPOINT_URL, but takes a base URL."""

import json
import os
from pathlib import Path

import litellm

served = json.loads(Path("served.json").read_text())  # model by endpoint
chat = json.loads(Path("chat.json").read_text())
sent = []


def log(call):
    if body := call["additional_args"].get("complete_input_dict"):
        sent.append(body)


def ask(server, endpoint, *, stream=False, **more):
    # Its model is the endpoint's name; vLLM wants the name of the model that it serves.
    name = {"hf_model_name": served[endpoint]} if endpoint == "vllm" else {}
    way = "invocations-response-stream" if stream else "invocations"
    asked = {**chat, **name, **more, "model": f"sagemaker_chat/{endpoint}", "stream": stream}
    url = f"{os.environ[server]}/endpoints/{endpoint}/{way}"
    return litellm.completion(**asked, sagemaker_base_url=url, logger_fn=log, num_retries=0)


def whole(endpoint):
    reply = ask("AWS_ENDPOINT_URL", endpoint)
    return {
        "text": reply.choices[0].message.content,
        "finish": reply.choices[0].finish_reason,
        "usage": reply.usage.model_dump(exclude_none=True),
        "sent": sent[-1],
    }


def streamed(server, endpoint, **more):
    chunks = list(ask(server, endpoint, stream=True, **more))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": choices[-1].finish_reason if choices else None,
        "sent": sent[-1],
    }


def refusal(endpoint, **more):
    try:
        ask("AWS_ENDPOINT_URL", endpoint, **more)
    except litellm.exceptions.APIError as error:
        return [type(error).__name__, error.status_code, str(error)]
    except litellm.BadRequestError as error:
        return [type(error).__name__, error.status_code, str(error)]


found = {
    endpoint: {"whole": whole(endpoint), "streamed": streamed("LINES_URL", endpoint)}
    for endpoint in served
}
found["to the end"] = streamed("LINES_URL", "tgi-2-0-2", max_tokens=700)
found["in pairs"] = streamed("PAIRS_URL", "tgi-2-0-2")
served["nobody"] = "m"
found["missing"] = refusal("nobody")
found["missing stream"] = refusal("nobody", stream=True)
found["refused"] = refusal("tgi-3", top_p=1.0)
Path("found.json").write_text(json.dumps(found))
