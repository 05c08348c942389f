"""A chat page over a scripted endpoint, and what visits it."""

import asyncio
import itertools
import json
import os
import socket
import time
import urllib.request
from types import SimpleNamespace

import deployed
from gradio_client import Client
from scripted import part

from helpers import demo
from helpers.clock import Clock
from helpers.demo import serving

# Gradio 6.31 counts its requests with options that pandas 3 calls deprecated.
COUNTING = "ignore:'future.no_silent_downcasting'|The copy keyword is deprecated"
_ACCOUNTS = itertools.count(1)
# Ports of its own for each of the processes that share the tests, and none of a demo without one:
# that one is taken in between is a test's subject, not its luck.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
serving.PORTS = range(7880 + 20 * _WORKER, 7900 + 20 * _WORKER)
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nothing listens there: no tokenizer

IMAGE = deployed.IMAGE.replace("0.0.22", "0.0.28")
ENV = {"HF_MODEL_ID": "m", "MAX_BATCH_SIZE": "8", "MAX_TOTAL_TOKENS": "2048"}


def line(content=None, finish=None):
    delta = {} if content is None else {"role": "assistant", "content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (
        b"data:" + json.dumps({"object": "text_completion", "choices": [choice]}).encode() + b"\n\n"
    )


END = part(line(None, "eos_token"))


def said(*words):
    return [part(line(word)) for word in words]


def wait_until(condition, *, within_s=10):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def page_of(url):
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


def in_a_notebook(call, *arguments, **options):
    """Call while an event loop runs in this thread, as one does in a notebook.

    Without one, Gradio 6.31 makes loops and never closes them.
    """
    if _is_in_a_loop():  # Playwright's
        return call(*arguments, **options)

    async def cell():
        return call(*arguments, **options)

    return asyncio.run(cell())


def _is_in_a_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def launched(*arguments, environ=NO_HUB, **options):
    return in_a_notebook(demo.launch, *arguments, environ=environ, **options)


def chat_of(session, endpoint):
    return demo.Chat(session, endpoint, environ=NO_HUB)


def content(note, *, kind="note"):
    """What a note says, without the word that each has in rehearsal."""
    assert note["metadata"] == {"id": kind}
    text, label = note["content"].rsplit(" · ", 1)
    assert label == "rehearsal"
    return text


def visit(page, **options):
    return Client(page.url, verbose=False, **options)


def session_with(scripted, *, target="rehearsal", speed=60.0):
    lines = []
    return SimpleNamespace(
        target=target,
        account=f"{next(_ACCOUNTS):012}",  # its endpoints are nobody else's
        region="us-east-1",
        clock=Clock(speed),
        client=lambda _service, **config: scripted.client(
            **{name: value for name, value in config.items() if name != "retries"}
        ),
        say=lines.append,
        lines=lines,
    )


def some_endpoint(**changes):
    facts = {
        "name": "inf2-workshop-me-llama-3-70b",
        "model_id": "meta-llama/Meta-Llama-3-70B-Instruct",
        "image": "",
        "env": {},
        "instance_type": "ml.inf2.48xlarge",
        "instance_count": 1,
    }
    return SimpleNamespace(**facts | changes)


def ask(visitor, text="Hello", **options):
    return visitor.predict(text, api_name="/chat", **options)
