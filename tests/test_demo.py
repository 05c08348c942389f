"""The chat page, asked through Gradio's own client."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import deployed
import gradio as gr
import psutil
import pytest
from demoing import (
    COUNTING,
    END,
    ENV,
    IMAGE,
    NO_HUB,
    ask,
    chat_of,
    content,
    in_a_notebook,
    is_free,
    launched,
    page_of,
    said,
    session_with,
    some_endpoint,
    visit,
    wait_until,
)
from deployed import NAME
from gradio_client import Client
from scripted import exception

from helpers import demo, endpoint
from helpers.demo import __main__ as command
from helpers.demo import reading, serving
from helpers.errors import SettingsError

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings(COUNTING)


# --- a page over a scripted endpoint -------------------------------------------------------------


@pytest.fixture(scope="module")
def page(served):
    with launched(session_with(served), some_endpoint()) as page:
        yield page


@pytest.fixture
def visitor(page):
    return visit(page)


def test_a_reply_grows_and_ends_with_its_timing(scripted, visitor):
    scripted.will_stream(*said("Grüß ", "Gott ", "👋"), END, pause_s=0.1)
    versions = list(visitor.submit("Hello", api_name="/chat"))
    assert [version[0]["content"] for version in versions[:2]] == ["Grüß ", "Grüß Gott "]
    reply, timing = versions[-1]
    assert reply == {"role": "assistant", "content": "Grüß Gott 👋"}
    assert re.fullmatch(
        r"First token after \d+\.\d\d s · \d+\.\d tokens/s after it · 3 tokens · \$\d+\.\d{4}",
        content(timing),
    )


def test_what_comes_faster_than_a_page_can_show_it_is_shown_together(scripted, visitor):
    words = [f"{n} " for n in range(200)]
    scripted.will_stream(*said(*words), END, pause_s=0.001)
    began = time.monotonic()
    versions = [version[0]["content"] for version in visitor.submit("Hello", api_name="/chat")]
    took_s = time.monotonic() - began
    assert versions[-1] == "".join(words)
    assert len(set(versions)) <= took_s / reading.PACE_S + 2


def test_timing_is_in_aws_time(scripted):
    with launched(session_with(scripted, speed=10.0), some_endpoint()) as page:
        scripted.will_stream(*said("a", "b", "c", "d"), END, pause_s=0.2)
        title = content(ask(visit(page))[-1])
    pace = float(re.search(r"([\d.]+) tokens/s", title)[1])
    assert 0.1 < pace <= 0.6  # 0.2 s here is 2 s there; a token may be read late


def test_what_is_measured_on_aws_is_not_called_a_rehearsal(scripted):
    with launched(session_with(scripted, target="aws", speed=1.0), some_endpoint()) as page:
        scripted.will_stream(*said("a"), END)
        assert " · 1 token · $" in ask(visit(page))[-1]["content"]
        assert "ehearsal" not in page_of(page.url)


def test_the_page_says_rehearsal_and_the_endpoints_name(page):
    html = page_of(page.url)
    assert "Rehearsal: Meta-Llama-3-70B-Instruct on Inferentia2" in html
    assert "inf2-workshop-me-llama-3-70b" in html
    assert "simulated" in html


def test_the_model_gets_the_conversation_and_nothing_of_the_page(scripted, visitor):
    for words in (["first"], ["second"]):
        scripted.will_stream(*said(*words), END)
        ask(visitor, "Hello", system_prompt="Be brief.", temperature=0.5, top_p=0.5, max_tokens=9)
    assert scripted.bodies[1] == {
        "model": "meta-llama/Meta-Llama-3-70B-Instruct",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "Hello"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.5,
        "stream": True,
    }


def test_an_empty_system_prompt_is_left_out(scripted, visitor):
    scripted.will_stream(*said("x"), END)
    ask(visitor, system_prompt="  ")
    assert [turn["role"] for turn in scripted.bodies[0]["messages"]] == ["user"]


def test_half_a_character_in_the_system_prompt_keeps_no_page_from_being_served(scripted):
    half = "caf\udce9"  # what Python makes of a byte of Latin-1 on the command line
    with launched(session_with(scripted), some_endpoint(), system_prompt=half) as page:
        assert "caf\ufffd" in page_of(page.url)


def test_an_empty_message_is_not_sent(scripted, visitor):
    (note,) = ask(visitor, "  \n")
    assert content(note) == "Type a message first."
    assert scripted.bodies == []


def test_a_refusal_is_one_sentence_and_the_chat_goes_on(scripted, visitor):
    scripted.will_refuse(400, "ThrottlingException", "Rate exceeded")
    (note,) = ask(visitor)
    assert "throttled" in content(note)
    scripted.will_stream(*said("here"), END)
    assert ask(visitor)[0]["content"] == "here"
    assert "throttled" not in json.dumps(scripted.bodies[1])


def test_a_broken_reply_keeps_what_was_written(scripted, visitor):
    scripted.will_stream(*said("so ", "far"), exception("ModelStreamError", Message="gone"))
    reply, note, figures = ask(visitor)
    assert reply["content"] == "so far"
    assert content(note).startswith("The reply broke off after 6 characters")
    assert "ask again" in content(note)
    assert "2 tokens" in content(figures)


def test_stop_ends_the_request_upstream(scripted, visitor):
    scripted.will_stream(*said("endless"), ending="hang")
    job = visitor.submit("Hello", api_name="/chat")
    wait_until(job.outputs)
    assert not scripted.gone.is_set()
    job.cancel()
    assert scripted.gone.wait(30)


def test_stop_before_the_first_token_ends_the_request_too(scripted, visitor):
    scripted.will_stream(ending="hang")
    job = sent(visitor, scripted)
    time.sleep(0.2)
    job.cancel()
    assert scripted.gone.wait(30)


def test_stop_before_the_endpoint_has_accepted_ends_the_request_too(scripted, visitor):
    scripted.will_stream(*said("late"), ending="hang", after_s=0.5)
    sent(visitor, scripted).cancel()
    assert scripted.gone.wait(30)


def sent(visitor, scripted):
    """A message that the endpoint has; Gradio's client cancels nothing that has no name yet."""
    job = visitor.submit("Hello", api_name="/chat")
    wait_until(lambda: scripted.bodies and job.communicator.event_id)
    return job


def test_what_nobody_expected_is_shown_and_not_swallowed(scripted):
    def client(*_, **__):
        return SimpleNamespace(invoke_endpoint_with_response_stream=None)

    here = session_with(scripted)
    here.client = client
    with launched(here, some_endpoint()) as page:
        (note,) = ask(visit(page))
    assert "TypeError" in content(note)


def test_close_ends_running_replies_and_frees_the_port(scripted):
    page = launched(session_with(scripted), some_endpoint())
    scripted.will_stream(*said("endless"), ending="hang")
    job = visit(page).submit("Hello", api_name="/chat")
    wait_until(job.outputs)
    page.close()
    page.close()
    assert scripted.gone.wait(30)
    assert is_free(int(page.url.rstrip("/").rpartition(":")[2]))


def test_as_many_replies_run_at_once_as_the_endpoint_has_slots(scripted):
    two_slots = some_endpoint(image=IMAGE, env=ENV | {"MAX_BATCH_SIZE": "2"})
    with launched(session_with(scripted), two_slots) as page:
        for _ in range(3):
            scripted.will_stream(*said("x"), ending="hang")
        jobs = [visit(page).submit("Hello", api_name="/chat") for _ in range(3)]
        wait_until(
            lambda: (
                sum(job.outputs()[-1:] == [[{"role": "assistant", "content": "x"}]] for job in jobs)
                == 2
            )
        )
        time.sleep(0.3)
        assert len(scripted.bodies) == 2
        next(job for job in jobs if "metadata" not in job.outputs()[-1][0]).cancel()
        wait_until(lambda: len(scripted.bodies) == 3)


def test_slots_and_lengths_are_those_of_the_container(scripted):
    chat = chat_of(session_with(scripted), some_endpoint(image=IMAGE, env=ENV, instance_count=2))
    assert (chat.slots, chat.longest_reply) == (16, 1024)
    unknown = chat_of(session_with(scripted), some_endpoint(image="mine", model_id=""))
    assert (unknown.slots, unknown.longest_reply) == (4, 2048)
    assert "inf2-workshop-me-llama-3-70b" in unknown.title


def test_no_slider_offers_what_the_container_refuses(scripted):
    chat = chat_of(session_with(scripted), some_endpoint(image=IMAGE, env=ENV))
    built = in_a_notebook(demo.build, chat)
    sliders = {one.label: one for one in built.blocks.values() if isinstance(one, gr.Slider)}
    assert sliders["Temperature"].minimum > 0
    assert 0 < sliders["Top-p"].minimum < sliders["Top-p"].maximum < 1
    assert sliders["Max tokens"].maximum == 1024
    built.close()


# --- where it is served --------------------------------------------------------------------------


def test_a_taken_port_is_refused_with_what_to_do(scripted):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"Port {port} is taken"):
            launched(session_with(scripted), some_endpoint(), port=port)


def test_no_free_port_at_all_is_said_so(scripted, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(serving, "PORTS", range(port, port + 1))
        with pytest.raises(SettingsError, match="all taken"):
            launched(session_with(scripted), some_endpoint())


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_there_is_not_is_said_so(scripted, port):
    with pytest.raises(SettingsError, match=f"There is no port {port}: leave it out"):
        launched(session_with(scripted), some_endpoint(), port=port)


def test_a_port_that_only_root_may_have_is_said_so(scripted, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(socket.socket, "bind", refuse)  # tests are root in CI
    with pytest.raises(SettingsError, match="Port 80 is root's"):
        launched(session_with(scripted), some_endpoint(), port=80)


def test_launched_again_it_is_at_the_same_address_and_the_earlier_one_is_closed(scripted):
    here = session_with(scripted)
    with launched(here, some_endpoint()) as first:
        scripted.will_stream(*said("endless"), ending="hang")
        job = visit(first).submit("Hello", api_name="/chat")
        wait_until(job.outputs)
        with launched(here, some_endpoint()) as second:
            assert scripted.gone.wait(10)
            assert second.url == first.url
            first.close()  # as a notebook that forgets it does
            assert "Inferentia2" in page_of(second.url)
    assert is_free(second.port)


def test_a_taken_port_closes_nothing_that_works(scripted):
    session, endpoint = session_with(scripted), some_endpoint()
    with launched(session, endpoint) as page, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"Port {port} is taken"):
            launched(session, endpoint, port=port)
        assert not is_free(page.port)


def test_another_endpoint_has_a_page_of_its_own(scripted):
    here = session_with(scripted)
    with launched(here, some_endpoint()) as one:
        with launched(here, some_endpoint(name="another")) as other:
            assert one.url != other.url
            assert "another" in page_of(other.url)
            assert "another" not in page_of(one.url)
        with launched(here, some_endpoint(name="another"), port=one.port) as other:
            assert "another" in page_of(one.url)


def test_a_page_of_another_site_is_not_served_by_this_machines_address(page):
    def status(host):
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
        with closing(connection):
            connection.request("GET", "/config", headers={"Host": host})
            return connection.getresponse().status

    assert [status(host) for host in ("127.0.0.1", f"localhost:{page.port}")] == [200, 200]
    assert status("rebound.example") == 400


def test_a_form_of_another_site_asks_nothing(scripted, page):
    for path in ("queue/join", "call/chat", "run/chat", "run/leave"):
        request = urllib.request.Request(
            f"{page.url}gradio_api/{path}",
            data=b'{"data": ["Hello"], "fn_index": 0, "session_hash": "x"}',
            headers={"Content-Type": "text/plain", "Origin": "http://other.example"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        refused.value.close()
        assert refused.value.code == 422
        assert "Access-Control-Allow-Origin" not in refused.value.headers
    assert scripted.bodies == []


def test_nothing_but_a_link_comes_from_another_site(page):
    def answer(method, path, mode, site="cross-site"):
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
        sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Origin": "http://other.example"}
        with closing(connection):
            connection.request(method, path, b"{}", sent)
            return connection.getresponse().status

    assert answer("GET", "/", "navigate") == 200
    assert answer("GET", "/config", "cors", site="same-origin") == 200
    assert answer("GET", "/config", "cors") == 403
    assert answer("GET", "/logout", "no-cors") == 403
    assert answer("POST", "/gradio_api/upload", "no-cors") == 403
    assert answer("POST", "/gradio_api/upload", "navigate") == 403


def test_nobody_leaves_files_here(page):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nx\r\n'
    request = urllib.request.Request(
        f"{page.url}gradio_api/upload",
        part + b"--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as answer:
        assert answer.code == 413


def test_nobody_begins_an_answer_that_goes_round_the_queue(scripted, page):
    settings = ["", 1, 0.5, 10]
    for path, data in (
        ("run/chat", ["Hello", None, *settings]),
        ("run/send", [[], "Hello", *settings]),
    ):
        assert status(page, f"gradio_api/{path}", {"data": data, "event_id": "mine"}) == 404
    assert status(page, "gradio_api/run/leave", {"data": []}) == 200
    assert scripted.bodies == []


def test_the_environment_switches_nothing_on(scripted, monkeypatch):
    with monkeypatch.context() as patched:
        for name in ("NO_PROXY", "no_proxy"):
            patched.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patched.setenv(name, "http://127.0.0.1:9")  # nothing listens there
        patched.setenv("GRADIO_ALLOWED_PATHS", "/")
        patched.setenv("GRADIO_DEBUG", "1")
        patched.setenv("GRADIO_VIBE_MODE", "1")
        page = launched(session_with(scripted), some_endpoint())
        assert os.environ["GRADIO_ALLOWED_PATHS"] == "/"  # as it was
        for each in threading.enumerate():  # looks for a tokenizer, by way of these proxies
            if each.name == "chat-tokenizer":
                each.join(60)
    with page:
        assert status(page, "gradio_api/file=/etc/passwd") == 403
        assert status(page, "gradio_api/vibe-code") == 403


def test_launched_from_two_threads_there_is_one_page(scripted):
    here, pages = session_with(scripted), []
    threads = [
        threading.Thread(target=lambda: pages.append(launched(here, some_endpoint())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first, second = pages
    assert first.url == second.url
    for page in pages:
        page.close()
    assert is_free(second.port)


# Gradio 6.31 leaves the socket open with which it has tried the port.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_that_somebody_takes_in_the_last_moment_is_left_to_them(scripted, monkeypatch):
    launch, others = gr.Blocks.launch, []

    def overtaken(self, **options):
        if not others:
            others.append(socket.create_server(("127.0.0.1", options["server_port"])))
        return launch(self, **options)

    monkeypatch.setattr(gr.Blocks, "launch", overtaken)
    with launched(session_with(scripted), some_endpoint()) as page:
        (other,) = others
        assert page.url.startswith("http://127.0.0.1:")
        assert f":{other.getsockname()[1]}" not in page.url
        other.close()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
def test_a_launch_that_does_not_get_through_frees_the_port(scripted, monkeypatch, ending):
    ports = []

    def ends(url, **_):  # what Gradio asks when it serves
        ports.append(urllib.parse.urlsplit(url).port)
        assert not is_free(ports[0])
        raise ending

    monkeypatch.setattr("gradio.blocks.httpx.get", ends)
    with pytest.raises(ending):
        launched(session_with(scripted), some_endpoint())
    assert is_free(ports[0])


def test_a_rehearsal_is_never_shared(scripted):
    with pytest.raises(SettingsError, match="does not leave this machine"):
        launched(session_with(scripted), some_endpoint(), share=True)


def shared(scripted, monkeypatch, public):
    """Launch with `share=True`, Gradio's tunnel replaced: it would leave this machine."""
    asked = {}
    launch = gr.Blocks.launch

    def without_tunnel(self, **options):
        asked.update(options)
        app, url, _ = launch(self, **options | {"share": False})
        return app, url, public

    monkeypatch.setattr(gr.Blocks, "launch", without_tunnel)
    here = session_with(scripted, target="aws")
    return here, asked, lambda: launched(here, some_endpoint(), share=True)


def status(page, path, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        page.url + path, data, headers or {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def refusal(user, password, page):
    form = urllib.parse.urlencode({"username": user, "password": password}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{page.url}login", form, timeout=30)
    with refused.value as answer:
        return answer.code, answer.read()


def test_closing_ends_the_public_address_too(scripted, monkeypatch):
    ended = []
    _, _, launch = shared(scripted, monkeypatch, "https://x.gradio.live")
    with launch() as page:
        tunnel = SimpleNamespace(local_port=page.port, kill=lambda: ended.append(page.port))
        monkeypatch.setattr(serving, "CURRENT_TUNNELS", [tunnel])
    assert ended == [page.port]


def test_a_shared_page_has_a_password_and_a_warning(scripted, monkeypatch):
    here, asked, launch = shared(scripted, monkeypatch, "https://x.gradio.live")
    with launch() as page:
        assert asked["share"] is True
        assert asked["auth"] == ("workshop", page.password)
        assert len(page.password) >= 16
        with pytest.raises(Exception, match="(?i)auth|log|credential"):
            visit(page)
        assert visit(page, auth=("workshop", page.password)).view_api(return_format="dict")
        assert refusal("nobody", "wrong", page) == refusal("workshop", "wrong", page)
        for path in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
            assert status(page, path) == 401
        for path in ("gradio_api/queue/join", "gradio_api/call/chat", "gradio_api/run/leave"):
            assert status(page, path, {"data": [], "session_hash": "x"}) == 401
    warning = "\n".join(here.lines)
    assert "PUBLIC" in warning
    assert page.password not in warning + repr(page)


def test_a_page_that_could_not_be_shared_is_closed_again(scripted, monkeypatch):
    _, asked, launch = shared(scripted, monkeypatch, None)
    with pytest.raises(SettingsError, match="No public address"):
        launch()
    assert is_free(asked["server_port"])


def test_in_studio_the_page_is_at_its_proxys_path(scripted):
    here = session_with(scripted)
    environ = NO_HUB | {"SAGEMAKER_APP_TYPE_LOWERCASE": "jupyterlab"}
    with launched(here, some_endpoint(), environ=environ) as page:
        port = page.url.rstrip("/").rpartition(":")[2]
        assert page.path == f"/jupyterlab/default/proxy/{port}/"
        assert here.lines == [f"Chat with inf2-workshop-me-llama-3-70b at {page.path}"]
        assert f'{page.path.rstrip("/")}"' in page_of(page.url)  # its root, for the browser


def test_nothing_is_printed_but_through_the_session(scripted, capsys):
    here = session_with(scripted)
    with launched(here, some_endpoint()) as page:
        pass
    assert here.lines == [f"Chat with inf2-workshop-me-llama-3-70b at {page.url}"]
    assert capsys.readouterr() == ("", "")


# --- against the rehearsal -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    with deployed.rehearsal(tmp_path_factory.mktemp("rehearsal")) as here:
        yield here, endpoint.find(here, NAME)


@pytest.fixture(scope="module")
def rehearsal_page(rehearsal):
    with launched(*rehearsal) as page:
        yield page


def test_a_visitor_chats_with_the_rehearsal(rehearsal_page):
    reply, cut, figures = ask(visit(rehearsal_page), "What is Inferentia2?", max_tokens=40)
    assert "rehearsal" in reply["content"].lower()
    assert content(cut).startswith("Cut at 40 tokens")
    assert " · 40 tokens · $" in content(figures)
    html = page_of(rehearsal_page.url)
    assert NAME in html
    assert "4 answers at once" in html


def test_a_message_without_room_is_refused_before_it_is_sent(rehearsal_page):
    (note,) = ask(visit(rehearsal_page), "word " * 6000)
    assert "too long" in content(note)
    assert "there is room for 3,584" in content(note)


# What could open the page to others, were Gradio left to look for it.
OPENING = {
    "GRADIO_ALLOWED_PATHS": "/",
    "GRADIO_MCP_SERVER": "true",
    "GRADIO_NUM_WORKERS": "1",
    "GRADIO_ROOT_PATH": "https://other.example/",
    "GRADIO_SHARE": "true",
    "GRADIO_SSR_MODE": "true",
}


def listening(process):
    """Local addresses at which a process listens."""
    opened = psutil.Process(process.pid).net_connections()
    return [tuple(one.laddr) for one in opened if one.status == psutil.CONN_LISTEN]


def begun(rehearsal, stderr):
    """The demo's command, in a process of its own."""
    environ = {**os.environ, **OPENING, "WORKSHOP_STATE": str(rehearsal[0].settings.state_dir)}
    del environ["AWS_ENDPOINT_URL"]  # a new process finds the server by itself
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.demo", "--endpoint", NAME],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@pytest.mark.parametrize("lines", [0, 1])
def test_from_the_command_line_it_ends_without_a_word_when_nobody_reads(rehearsal, lines):
    process = begun(rehearsal, subprocess.PIPE)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        for _ in range(lines):  # as `head -1` does
            process.stdout.readline()
        process.stdout.close()
        if lines:  # the second line may have been written before
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    watchdog.cancel()
    assert process.returncode == 1


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_from_the_command_line_it_serves_until_a_signal(rehearsal, ending):
    process = begun(rehearsal, subprocess.STDOUT)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        first = process.stdout.readline()
        url = first.split()[-1]
        assert first == f"[rehearsal] Chat with {NAME} at {url}\n"
        html, port = page_of(url), int(url.rstrip("/").rpartition(":")[2])
        assert "Rehearsal" in html
        assert "other.example" not in html
        assert listening(process) == [("127.0.0.1", port)]
        assert (
            process.stdout.readline()
            == "[rehearsal] Ctrl-C ends the page; the endpoint bills until it is deleted.\n"
        )
        job = Client(url, verbose=False).submit("What is Inferentia2?", api_name="/chat")
        wait_until(job.outputs)
        process.send_signal(ending)
        rest = process.stdout.read()
    watchdog.cancel()
    assert is_free(port)
    if ending == signal.SIGKILL:
        assert (process.returncode, rest) == (-ending, "")
    else:
        assert (process.returncode, rest) == (0, "[rehearsal] Ended. The endpoint is still up.\n")


def test_from_the_command_line_a_missing_endpoint_is_one_sentence(rehearsal, capsys):
    assert command.main(["--endpoint", "inf2-workshop-nowhere"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "03_deploy_endpoint" in err
    assert err.count("\n") == 1
