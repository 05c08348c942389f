"""A crowd on the chat page: 50 of Gradio's own clients talk with it for two minutes.

    make crowd
    .venv/bin/python tests/demo_crowd.py [--clients 50 --seconds 120]

Three processes beside this one: a rehearsal with `--truth`, of two replicas with four slots, at a
speed at which a token takes 10 ms; the page, as users serve it; and the clients, a thread each, so
that most of them wait in line. A client holds a conversation of several turns through `/chat`, then
begins another as somebody new. Some leave in the middle: of three clients one cancels its last
answer while it is written, one as soon as it is told its place in line. Half way through, a process
with more clients is killed. Before all that, another crowd has come for one conversation each, and
as many visitors as Gradio remembers: what a process takes once is no leak.

What a rehearsal replies is a function of all that it is sent. A client therefore knows each reply
to the last letter: another text means lost tokens, or a conversation that is not its own. The
server's own record says that nothing was asked twice, for nobody, or after somebody had left.

| figure | what it is |
|---|---|
| versions | of an answer as it grew, those that came to the client |
| waited in line | as the note under the answer says, in real seconds |
| overtaken by | how much later somebody asked who was served earlier |
| written for nobody | how long after somebody had left the last token was made for them |
| memory | of the page's process: proportional, and private, which others cannot change |
| … in the second half | slope of a straight line through it |
| left behind | objects, threads and files of the page, more than before the crowd came |
| CPU | of each process, in % of one core |
"""

import argparse
import contextlib
import gc
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import linear_regression

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import deployed
import rehearsing

from helpers.rehearsal.container import text

SPEED = 4  # a token takes 10 ms, a prefill 0.3 s
REPLICAS = 2  # of four slots
TURNS, TOKENS = 4, 40  # of a conversation, of an answer
LONG = 400  # tokens of an answer that nobody waits for
FOR_NOBODY = ("complete", LONG)  # how one ends that went on all the same
SYSTEM_PROMPT = "You are in a crowd."
SETTINGS = {"temperature": 0.5, "top_p": 0.9}
# Limits of what depends on the machine; for one that is not loaded. Objects stay the same in
# number: what grows is the heap, around sessions that Gradio keeps and forgets. A server that has
# nothing to write, as while it prefills for all four slots (1.2 s), does not see who has left.
SLOPE_KIB_S, GROWTH_MIB, OVERTAKEN_S, FOR_NOBODY_S = 12.0, 6.0, 4.0, 1.5
KILLED = 6  # clients in the process that is killed
SAMPLE_S = 0.5
EARLY_S = 60.0  # before anything is counted: Gradio's sessions are all taken, the heap has its size
ANSWER_S = 300.0  # nobody waits so long, however slow the machine
# What may be left. Gradio keeps the last event, and with it the answer, until the next one begins;
# threads that it makes up to as many as it may; botocore, a connection for each slot.
SPARE = {
    **dict.fromkeys(("answers", "places in line", "readings", "streams"), 1),
    "Gradio's events": 2,
    "threads": 40,
    "open files": 4 * REPLICAS,
    "Gradio's unfinished events": KILLED,  # a number for each client that was killed
    "Gradio's sessions": math.inf,  # as many as it may, which it has already
}
QUIET_S = 120.0  # within which a page that was left is as before
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there: no tokenizer
    "NO_PROXY": "127.0.0.1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when nothing was wrong."""
    options = _parser().parse_args(arguments)
    if options.serve:
        return _serve()
    if options.talk:
        return _talk(**json.loads(options.talk))
    from helpers.demo.serving import SESSIONS  # Gradio takes long to import: not in each client

    print(f"Rehearsal: {options.clients} clients for {options.seconds:g} s, {os.cpu_count()} CPUs")
    print(f"load average before: {_load()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        came = visit(
            Path(folder),
            clients=options.clients,
            seconds=options.seconds,
            early=options.clients,
            strangers=SESSIONS,
        )
    wrong = [*came.wrong(), *came.too_much()]
    for name, figure in came.figures().items() if came.answers else ():
        print(f"  {name:22} {figure}")
    print(f"load average after: {_load()}")
    for sentence in wrong[:20]:
        print(f"WRONG: {sentence}")
    print(f"rehearsal: {len(wrong)} things wrong" if wrong else "rehearsal: nothing wrong")
    return int(bool(wrong))


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--talk", help=argparse.SUPPRESS)
    return parser


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


# --- the page, in a process of its own ------------------------------------------------------------


def _serve() -> int:
    """Serve the page; say where, then for each line of input what the process holds."""
    from helpers import demo, endpoint, session

    here = session.open_session()
    with demo.launch(here, endpoint.find(here, deployed.NAME, in_service=True)) as page:
        print(page.url, flush=True)
        for _ in sys.stdin:
            print(json.dumps(_held(page)), flush=True)
    return 0


def _held(page) -> dict[str, int]:
    """How much there is in this process of what must not pile up."""
    from gradio.queueing import Event

    from helpers.demo.chat import Answer
    from helpers.demo.line import Place
    from helpers.demo.reading import Reading
    from helpers.messages import ChatStream

    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    queue, app = page._page._queue, page._page.app
    return {
        "answers under way": len(page._chat._running),
        "waiting": len(page._chat._line._waiting),
        "served": len(page._chat._line._served),
        "answers": kinds[Answer],
        "places in line": kinds[Place],
        "readings": kinds[Reading],
        "streams": kinds[ChatStream],
        "threads that read": sum(each.name == "chat-reply" for each in threading.enumerate()),
        "threads": threading.active_count(),
        "open files": len(os.listdir("/dev/fd")),
        "Gradio's events": kinds[Event],
        "Gradio's iterators": len(app.iterators),
        "Gradio's iterators to reset": len(app.iterators_to_reset),
        "Gradio's unfinished events": sum(map(len, queue.pending_event_ids_session.values())),
        "Gradio's sessions": len(app.state_holder.session_data),
    }


class Page:
    """The page under the crowd.

    Attributes:
        url: Where it is served.
        pid: Its process.
    """

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self.pid = process.pid
        # The session says where the page is, too, but not at the beginning of a line.
        self.url = next(line for line in process.stdout if line.startswith("http")).strip()

    def held(self) -> dict[str, int]:
        """How many it holds of what must not pile up."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def memory_mib(self) -> tuple[float, float]:
        """Proportional set size, and what is private."""
        return _memory_mib(self.pid)

    def is_left(self) -> bool:
        """Whether no answer is under way."""
        return not self.held()["answers under way"]


@contextlib.contextmanager
def _page(environment: Mapping[str, str]):
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Page(process)
        finally:
            process.stdin.close()  # which ends it


def _memory_mib(pid: int) -> tuple[float, float]:
    """0 and 0 where there is no Linux to tell."""
    told = Path(f"/proc/{pid}/smaps_rollup")
    found = re.findall(
        r"^(Pss|Private_Dirty): +(\d+) kB", told.read_text() if told.exists() else "", re.M
    )
    kib = {name: int(number) for name, number in found}
    return kib.get("Pss", 0) / 1024, kib.get("Private_Dirty", 0) / 1024


def _cpu_s(pid: int) -> float:
    if not Path("/proc/self/stat").exists():
        return 0.0
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


# --- the clients, in a process of their own -------------------------------------------------------


def _talk(*, url: str, names: Sequence[str], seconds: float, stay: bool = False) -> int:
    """Be these clients until the time is over; tell what came of it, a line of JSON each."""
    until_s = time.monotonic() + seconds
    with ThreadPoolExecutor(len(names)) as pool:
        for place, name in enumerate(names):
            if stay:
                pool.submit(_visit, url, name, _stay)
            else:
                leaves = ("while it was written", "before", "")[place % 3]
                pool.submit(_come_and_go, url, name, until_s, leaves)
    return 0


_telling = threading.Lock()


def _tell(**members) -> None:
    with _telling:
        print(json.dumps(members), flush=True)


def _come_and_go(url: str, name: str, until_s: float, leaves: str) -> None:
    """One conversation at least, each by somebody new."""
    for number in itertools.count(1):
        _visit(url, f"{name}.{number}", _converse, leaves)
        if time.monotonic() > until_s:
            return


def _visit(url: str, name: str, act: Callable, *more) -> None:
    from gradio_client import Client

    # Each request would read all certificates of the machine, to verify nothing.
    options = {"ssl_verify": False, "download_files": False, "analytics_enabled": False}
    patience = {"timeout": ANSWER_S}
    try:
        client = Client(url, max_workers=1, verbose=False, httpx_kwargs=patience, **options)
        act(client, name, *more)
        client.close()
    except Exception as error:  # told, and the others go on
        _tell(wrong=f"{name}: {error!r}")


def _converse(client, name: str, leaves: str) -> None:
    """A conversation of several turns; not everybody waits for the last answer."""
    turns: list[dict[str, str]] = []
    for turn in range(1, TURNS + 1):
        turns.append({"role": "user", "content": f"I am {name}, and this is turn {turn}."})
        if turn == TURNS and leaves:
            _leave(_ask(client, turns, LONG), leaves)
            return
        asked_s = time.monotonic()
        job = _ask(client, turns, TOKENS)
        job.result(ANSWER_S)
        reply, versions = expected(turns, TOKENS), job.outputs()
        for sentence in wrong_with(versions, reply):
            _tell(wrong=f"{name}, turn {turn}: {sentence}")
        _tell(asked_s=asked_s, **_seen(versions))
        turns.append({"role": "assistant", "content": reply.text})


def _ask(client, turns: Sequence[Mapping[str, str]], tokens: int):
    return client.submit(
        turns[-1]["content"],
        api_name="/chat",
        system_prompt=SYSTEM_PROMPT,
        max_tokens=tokens,
        **SETTINGS,
    )


def _leave(job, when: str) -> None:
    """Cancel an answer while it is written, or as soon as there is a place in line."""
    _wait_for(job, _text if when == "while it was written" else bool)
    job.cancel()
    _tell(left_s=time.monotonic(), when=when)


def _stay(client, name: str) -> None:
    """Ask, and be killed."""
    job = _ask(client, [{"role": "user", "content": f"I am {name}."}], LONG)
    _wait_for(job, _text)
    _tell(written=True)
    job.result(ANSWER_S)


def _wait_for(job, condition: Callable) -> None:
    deadline_s = time.monotonic() + ANSWER_S
    while not (job.done() or any(map(condition, job.outputs()[-1:]))):
        if time.monotonic() > deadline_s:
            raise TimeoutError
        time.sleep(0.02)


def expected(turns: Sequence[Mapping[str, str]], tokens: int) -> text.Reply:
    """The reply to this conversation, which the rehearsal gives to no other."""
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, *turns]
    question = {"model": deployed.MODEL_ID, "messages": messages, **SETTINGS}
    return text.reply(question, max_tokens=tokens)


def wrong_with(versions: Sequence[Sequence[Mapping]], reply: text.Reply) -> list[str]:
    """Sentences about an answer that is not this reply, or did not come as it should.

    Args:
        versions: What `/chat` gave, one after the other.
        reply: What it should have given in the end.
    """
    texts = [_text(version) for version in versions]
    if not any(texts):
        return [f"there was no answer, but {versions[-1:]}"]
    wrong = []
    if texts[-1] != reply.text:
        is_short = reply.text.startswith(texts[-1])
        what = "it lacks its end" if is_short else "it answers another conversation"
        wrong.append(f"{what}: {texts[-1]!r}")
    if any(not later.startswith(earlier) for earlier, later in itertools.pairwise(texts)):
        wrong.append("a version does not begin with the one before")
    places = [place for version in versions if (place := _place(version)) is not None]
    if any(later >= earlier for earlier, later in itertools.pairwise(places)):
        wrong.append(f"it went back in line: {places}")
    if _tokens(versions[-1]) != reply.output_tokens:
        wrong.append(f"its note says {_tokens(versions[-1])} tokens, not {reply.output_tokens}")
    return wrong


def _text(version: Sequence[Mapping]) -> str:
    return "".join(said["content"] for said in version if not said.get("metadata"))


def _notes(version: Sequence[Mapping]) -> str:
    return "\n".join(said["content"] for said in version if said.get("metadata"))


def _place(version: Sequence[Mapping]) -> int | None:
    """How many are before somebody in line."""
    if "yours is the next" in (notes := _notes(version)):
        return 0
    found = re.search(r"(\d+) before you in line", notes)
    return int(found[1]) if found else None


def _tokens(version: Sequence[Mapping]) -> int:
    found = re.search(r"(\d+) tokens? ·", _notes(version))
    return int(found[1]) if found else 0


def _seen(versions: Sequence[Sequence[Mapping]]) -> dict[str, float]:
    waited = re.search(r"Waited ([\d.]+) s in line", _notes(versions[-1]))
    return {
        "versions": sum(bool(_text(version)) for version in versions),
        "waited_s": float(waited[1]) / float(os.environ["WORKSHOP_SPEED"]) if waited else 0.0,
    }


class Clients:
    """A process with clients.

    Attributes:
        told: What they have told so far.
    """

    def __init__(self, environment: Mapping[str, str], **asked):
        self.told: list[dict] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--talk", json.dumps(asked)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def are_here(self) -> bool:
        """Whether they have not all left."""
        return self._process.poll() is None or self._reader.is_alive()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End them where they stand."""
        self._process.kill()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.told.append(json.loads(line))


# --- the whole ------------------------------------------------------------------------------------


@dataclass
class Visit:
    """What came of it.

    Attributes:
        seconds: How long conversations began.
        told: What the clients have told.
        killed_s: When some were killed, by `CLOCK_MONOTONIC`.
        truth: What the server has recorded.
        samples: Seconds, proportional and private memory of the page in MiB, while they came.
        before, after: What the page held.
        rest_mib: Its memory, both kinds, when nobody was there before and after.
        cpu: Of each process, in cores.
    """

    seconds: float = 0.0
    told: list[dict] = field(default_factory=list)
    killed_s: float = math.nan
    truth: list[dict] = field(default_factory=list)
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    rest_mib: list[tuple[float, float]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def answers(self) -> list[dict]:
        return [told for told in self.told if "asked_s" in told]

    @property
    def leavers(self) -> list[dict]:
        return [told for told in self.told if "left_s" in told]

    def wrong(self) -> list[str]:
        """A sentence for each thing that must not happen on any machine."""
        wrong = [told["wrong"] for told in self.told if "wrong" in told]
        if not self.answers:
            wrong.append("nobody got an answer")
        outcomes = Counter((each["outcome"], each["tokens"]) for each in self.truth)
        if (written := outcomes["complete", TOKENS]) != len(self.answers):
            wrong.append(
                f"the server wrote {written} answers, {len(self.answers)} came to somebody"
            )
        wrong += [
            f"{number} answers of {tokens} tokens ended as {outcome}"
            for (outcome, tokens), number in outcomes.items()
            if outcome != "left" and (outcome, tokens) not in {("complete", TOKENS), FOR_NOBODY}
        ]
        return wrong + self.piled_up(self.after)

    def piled_up(self, held: Mapping[str, int]) -> list[str]:
        """A sentence for each thing of which the page holds more than before the crowd came."""
        return [
            f"{name}: {held[name]} are left, {number} were there before"
            for name, number in self.before.items()
            if held[name] > number + SPARE.get(name, 0)
        ]

    def overtaken_s(self) -> float:
        """How much later somebody asked who was served earlier, at most."""
        served = sorted(
            (told["asked_s"] + told["waited_s"], told["asked_s"]) for told in self.answers
        )
        latest = itertools.accumulate((asked_s for _, asked_s in served), max)
        return max(
            (late - asked for late, (_, asked) in zip(latest, served, strict=True)), default=0
        )

    def for_nobody_s(self) -> list[float]:
        """How long the server went on after somebody, the nearest one, had left."""
        left_s = [self.killed_s, *(told["left_s"] for told in self.leavers)]
        ends = [
            each["last_s"] for each in self.truth if each["outcome"] == "left" and each["last_s"]
        ]
        return [min((end - one for one in left_s), key=abs) for end in ends]

    def _whole_for_nobody(self) -> int:
        return sum((each["outcome"], each["tokens"]) == FOR_NOBODY for each in self.truth)

    def slope_kib_s(self, which: int) -> float:
        """Of memory, in the second half of the time in which conversations began."""
        half = [each for each in self.samples if self.seconds / 2 < each[0] < self.seconds]
        if len(half) < 2:
            return 0.0
        seconds, mib = ([each[n] for each in half] for n in (0, which))
        return 1024 * linear_regression(seconds, mib).slope

    def too_much(self) -> list[str]:
        """A sentence for each figure that is beyond what a machine without load should show."""
        before, after = (private for _, private in self.rest_mib)
        figures = (
            ("private memory, MiB more", after - before, GROWTH_MIB),
            ("private memory, KiB/s more", self.slope_kib_s(2), SLOPE_KIB_S),
            ("overtaken by, s", self.overtaken_s(), OVERTAKEN_S),
            ("written for nobody to the end", self._whole_for_nobody(), 0),
            ("written for nobody, s", max(self.for_nobody_s(), default=0), FOR_NOBODY_S),
        )
        return [
            f"{name}: {figure:.2f}, not {limit:g} at most"
            for name, figure, limit in figures
            if figure > limit
        ]

    def figures(self) -> dict[str, str]:
        """What to print."""
        waited = sorted(told["waited_s"] for told in self.answers)
        late = self.for_nobody_s()
        tokens = TOKENS * len(self.answers)
        versions = sum(each["versions"] for each in self.answers)
        return {
            "answers, tokens": f"{len(self.answers)}, {tokens}",
            "versions": f"{versions} ({versions / tokens:.0%} of the tokens one by one)",
            "waited in line": "p50 {:.1f}  p95 {:.1f}  max {:.1f} s".format(
                *(waited[int(share * (len(waited) - 1))] for share in (0.5, 0.95, 1))
            ),
            "overtaken by": f"{self.overtaken_s():.2f} s",
            "left": f"{len(self.leavers)} cancelled, {len(late)} of the requests had begun",
            "written for nobody": f"{1000 * max(late, default=0):.0f} ms at most, "
            f"{self._whole_for_nobody()} to the end",
            "memory, proportional": self._memory(1),
            "memory, private": self._memory(2),
            "left behind": ", ".join(
                f"{name} {self.before[name]} → {after}"
                for name, after in self.after.items()
                if after != self.before[name]
            ),
            "CPU": ", ".join(f"{name} {share:.0%}" for name, share in self.cpu.items()),
        }

    def _memory(self, which: int) -> str:
        before, after = (rest[which - 1] for rest in self.rest_mib)
        slope = f"{self.slope_kib_s(which):+.1f} KiB/s in the second half"
        return f"{before:.1f} → {after:.1f} MiB at rest, {slope}"


def visit(
    folder: Path,
    *,
    clients: int,
    seconds: float,
    early: int = 0,
    strangers: int = 0,
    speed: float = SPEED,
) -> Visit:
    """Let so many clients come for so many seconds.

    Args:
        folder: For the server's state and record.
        clients: How many are there at a time.
        seconds: For so long, new conversations begin.
        early: Clients that come and go before anything is counted.
        strangers: How many more sessions Gradio is made to know of before that.
        speed: Of the rehearsal.
    """
    came, truth = Visit(seconds), folder / "truth.jsonl"
    with deployed.rehearsal(folder, instances=REPLICAS):
        pass  # it came up at full speed, and goes on slowly
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        **QUIET,
        "WORKSHOP_TARGET": "rehearsal",
        "WORKSHOP_STATE": str(folder),
        "WORKSHOP_SPEED": str(speed),
    }
    with (
        rehearsing.serving(folder, "--truth", str(truth), speed=speed) as server,
        _page(environment) as page,
    ):
        talk = partial(Clients, environment, url=page.url)
        names = [f"client {number}" for number in range(1, clients + 1)]
        if early:
            with talk(names=[f"early {name}" for name in names[:early]], seconds=EARLY_S) as before:
                _wait_until(lambda: not before.are_here())
            came.told += before.told
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(_look_in, [page.url] * strangers))
        _wait_until(page.is_left)
        came.before = page.held()
        came.rest_mib.append(page.memory_mib())
        with talk(names=names, seconds=seconds) as crowd:
            _watch(came, crowd, page, server.pid, lambda: _kill_some(came, talk, seconds / 2))
        with contextlib.suppress(TimeoutError):
            _wait_until(lambda: not came.piled_up(page.held()), within_s=QUIET_S)
        came.after = page.held()
        came.rest_mib.append(page.memory_mib())
        came.told += crowd.told
    came.truth = [json.loads(line) for line in truth.read_text().splitlines()]
    return came


def _look_in(url: str) -> None:
    """Say nothing, in a session of its own; of `/chat`, without Gradio's client: it takes long."""
    body = json.dumps({"data": ["", "", *SETTINGS.values(), TOKENS]}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}gradio_api/call/chat", body, headers)
    with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{asked.full_url}/{event}", timeout=ANSWER_S) as answer:
        assert b"Type a message first" in answer.read()


def _watch(came: Visit, crowd: Clients, page: Page, server: int, meanwhile: Callable) -> None:
    """Look at the processes until the crowd has left."""
    processes = {"page": page.pid, "clients": crowd.pid, "server": server}
    began_s, before_s = time.monotonic(), {name: _cpu_s(pid) for name, pid in processes.items()}
    with ThreadPoolExecutor(1) as other:
        killing = other.submit(meanwhile)
        while crowd.are_here():
            passed_s = time.monotonic() - began_s
            came.samples.append((passed_s, *page.memory_mib()))
            with contextlib.suppress(OSError, IndexError):  # the clients have just ended
                came.cpu = {
                    name: (_cpu_s(pid) - before_s[name]) / passed_s
                    for name, pid in processes.items()
                }
            time.sleep(SAMPLE_S)
        killing.result()


def _kill_some(came: Visit, talk: Callable[..., Clients], after_s: float) -> None:
    time.sleep(after_s)
    names = [f"somebody {number}" for number in range(KILLED)]
    with talk(names=names, seconds=0, stay=True) as some:
        _wait_until(lambda: len(some.told) >= KILLED // 2, within_s=ANSWER_S)
        some.kill()
        came.killed_s = time.monotonic()


def _wait_until(condition: Callable[[], bool], *, within_s: float = ANSWER_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
