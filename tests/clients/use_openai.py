"""The openai client over SageMaker's OpenAI route, with a bearer token of sagemaker-core's."""

import json
import os
from pathlib import Path

import openai
from sagemaker.core.token_generator import generate_token

served = json.loads(Path("served.json").read_text())  # model by endpoint
chat = json.loads(Path("chat.json").read_text())
token = generate_token(region=os.environ["AWS_REGION"])


def client(endpoint, api_key=token):
    url = f"{os.environ['AWS_ENDPOINT_URL']}/endpoints/{endpoint}/openai/v1"
    return openai.OpenAI(base_url=url, api_key=api_key, max_retries=0)


def streamed(completions, asked, **more):
    chunks = list(completions.create(**asked, stream=True, **more))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    usage = chunks[-1].usage
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": usage and usage.model_dump(exclude_none=True),
    }


def refusal(completions, asked):
    try:
        answer = completions.create(**asked)
        list(answer if asked.get("stream") else ())
    except openai.APIError as error:
        return [type(error).__name__, str(error)]


found = {}
for endpoint, model in served.items():
    asked, completions = {**chat, "model": model}, client(endpoint).chat.completions
    found[endpoint] = {
        "whole": completions.create(**asked).model_dump(exclude_none=True),
        "streamed": streamed(completions, asked),
        "counted": streamed(completions, asked, stream_options={"include_usage": True}),
        "refused": refusal(completions, {**asked, "max_tokens": 100_000}),
        "refused stream": refusal(completions, {**asked, "max_tokens": 100_000, "stream": True}),
    }
asked = {**chat, "model": "m"}
found["missing"] = refusal(client("nobody").chat.completions, asked)
found["no token"] = refusal(client("tgi-3", "sk-of-nobody").chat.completions, asked)
Path("found.json").write_text(json.dumps(found))
