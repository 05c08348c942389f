"""The unattended run: in order, to the first failure, with a bill, and nothing left running."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

from helpers import notebooks, settings, workshop
from helpers.errors import ResultsError
from helpers.rehearsal import launch

ROOT = Path(__file__).parent.parent
SANITIZER = ROOT / "tests" / "nbval_sanitize.cfg"
LONG = "time.sleep(600)"
SAY = 'print("[rehearsal] hello")'
CREATE = """
import boto3
boto3.client("sagemaker").create_model(
    ModelName="inf2-workshop-short",
    ExecutionRoleArn="arn:aws:iam::123456789012:role/inf2-workshop-execution",
    PrimaryContainer={"Image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/tgi:1"},
)
"""
DELETE = """
import boto3
boto3.client("sagemaker").delete_model(ModelName="inf2-workshop-short")
"""
OPEN = """
import sys
sys.path.insert(0, ROOT)
from helpers.session import open_session
open_session().describe()
""".replace("ROOT", repr(str(ROOT)))


def write(folder, notebooks):
    """Write notebooks of one code cell after another, by name; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, sources in notebooks.items():
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
        notebook.metadata = {"kernelspec": {"name": "conda_python3", "display_name": "Studio"}}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def run(folder, results_dir):
    return workshop.run(notebooks.find(folder), results_dir, environ=os.environ)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Send every temporary folder of the run to a place where the test can look."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def test_notebooks_run_in_order_and_what_was_made_is_told(tmp_path, scratch, capsys):
    folder = write(
        tmp_path / "notebooks", {"01_environment": [OPEN, CREATE], "08_clean_up": [OPEN, DELETE]}
    )
    assert run(folder, tmp_path / "results") is True
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    progress = [line.split()[1:3] for line in lines if line.endswith(" s")]
    assert progress == [["01_environment", "ok"], ["08_clean_up", "ok"]]
    assert any(line.split()[1:3] == ["model", "inf2-workshop-short"] for line in lines)
    assert "nothing was left" in lines[-1]
    assert all("rehearsal" in line for line in lines)
    assert printed.err == ""
    saved = nbformat.read(tmp_path / "results" / "notebooks" / "08_clean_up.ipynb", as_version=4)
    assert "[rehearsal]" in saved.cells[0].outputs[0].text
    assert list(scratch.iterdir()) == []  # the server has ended and its state is gone


def test_the_first_failure_ends_the_run_and_shows_the_cell_and_what_is_left(
    tmp_path, scratch, capsys
):
    failing = "x = 1\nraise RuntimeError('the disk is full\\nand more')"
    folder = write(tmp_path / "notebooks", {"01_a": [OPEN, CREATE, failing, SAY], "02_b": [SAY]})
    assert run(folder, tmp_path / "results") is False
    lines = capsys.readouterr().out.splitlines()
    assert "[rehearsal]     RuntimeError: the disk is full" in lines
    assert "[rehearsal]     in cell 2:" in lines
    assert "[rehearsal]     | x = 1" in lines
    assert "[rehearsal] Left behind: model inf2-workshop-short." in lines
    assert not any("Traceback" in line or "02_b" in line for line in lines)
    assert (tmp_path / "results" / "notebooks" / "01_a.ipynb").exists()
    assert list(scratch.iterdir()) == []


def test_clean_up_runs_last_also_when_there_is_a_notebook_09(tmp_path):
    names = ["01_a", "08_clean_up", "09_scale_out"]
    folder = write(tmp_path, dict.fromkeys(names, [SAY]))
    assert [path.stem for path in notebooks.find(folder)] == ["01_a", "09_scale_out", "08_clean_up"]


def test_a_kernel_that_dies_or_hangs_is_a_failure_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "CELL_TIMEOUT_S", 1)
    hanging = "import time; time.sleep(60)"
    folder = write(tmp_path, {"01_dies": ["import os; os._exit(1)"], "02_hangs": [hanging]})
    dies, hangs = (notebooks.execute(path, environ=os.environ) for path in notebooks.find(folder))
    assert "DeadKernelError" in dies.error
    assert "CellTimeoutError" in hangs.error
    assert hangs.cell == (0, hanging)


@pytest.mark.parametrize("arguments", [[], ["--record"]])
def test_a_run_on_aws_is_refused_because_nobody_watches_the_money(
    arguments, tmp_path, scratch, monkeypatch, capsys
):
    monkeypatch.setenv("WORKSHOP_TARGET", "aws")
    monkeypatch.setenv("WORKSHOP_RESULTS", str(tmp_path / "results"))
    folder = write(tmp_path / "notebooks", {"01_a": [SAY]})
    assert workshop.main([*arguments, "--notebooks", str(folder)]) == 2
    assert "nobody spends money by accident" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert list(scratch.iterdir()) == []


def test_the_command_says_by_its_status_whether_it_worked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKSHOP_RESULTS", str(tmp_path / "results"))
    folder = write(tmp_path / "notebooks", {"01_a": [SAY]})
    assert workshop.main(["--notebooks", str(folder)]) == 0
    (results_dir,) = (tmp_path / "results").iterdir()
    assert results_dir.name.startswith("workshop-2") and results_dir.name.endswith("-rehearsal")
    assert f"Results: {results_dir}" in capsys.readouterr().out
    assert workshop.main(["--record", "--notebooks", str(write(folder, {"02_b": ["1 / 0"]}))]) == 1


def test_no_secret_and_no_setting_of_the_caller_reaches_a_notebook(tmp_path):
    environ = {
        "PATH": "/bin",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_ENDPOINT_URL": "http://192.0.2.1",
        "HF_TOKEN": "hf_real",
        "WORKSHOP_PARTICIPANT": "me",
        "WORKSHOP_SPEED": "120",
    }
    given = workshop.rehearsal_environment(
        environ, state_dir=tmp_path / "state", results_dir=tmp_path / "results"
    )
    assert given == {
        "PATH": "/bin",
        "WORKSHOP_SPEED": "120",
        "WORKSHOP_TARGET": "rehearsal",
        "WORKSHOP_STATE": str(tmp_path / "state"),
        "WORKSHOP_RESULTS": str(tmp_path / "results"),
    }


def test_an_interrupt_stops_the_kernels_and_the_server(tmp_path, scratch, monkeypatch, capsys):
    folder = write(
        tmp_path / "notebooks", {"01_environment": [OPEN], "02_long": ["import time", LONG, SAY]}
    )
    seen = []

    def interrupted(executed):
        if executed.name == "01_environment":
            (state,) = scratch.glob("workshop-*/state")
            seen.append(launch.ensure(settings.load({"WORKSHOP_STATE": str(state)})))
            raise KeyboardInterrupt

    monkeypatch.setattr(workshop, "_report", interrupted)
    started = time.monotonic()
    assert workshop.main(["--notebooks", str(folder)]) == 130
    assert time.monotonic() - started < 30
    assert "nothing bills" in capsys.readouterr().err
    assert launch.probe(seen[0].url) is None
    assert {thread.name for thread in threading.enumerate()}.isdisjoint(
        path.stem for path in notebooks.find(folder)
    )


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGHUP])
def test_kill_and_a_closed_terminal_end_a_run_like_ctrl_c(tmp_path, name):
    note = (
        f"import os, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    )
    folder = write(tmp_path / "notebooks", {"01_long": [OPEN, f"{note}\nimport time\n{LONG}"]})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.workshop", "--notebooks", str(folder)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "WORKSHOP_RESULTS": str(tmp_path / "results")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run under nohup hands its children an ignored SIGHUP.
        preexec_fn=lambda: signal.signal(name, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (state,) = scratch.glob("workshop-*/state")
    server = launch.status(settings.load({"WORKSHOP_STATE": str(state)}))
    process.send_signal(name)
    process.send_signal(name)  # impatience does not cut the cleaning up short
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "nothing bills" in err and "Traceback" not in err
    assert launch.probe(server.url) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list(scratch.glob("workshop-*")) == []


def test_signals_are_as_before_after_a_run(tmp_path):
    before = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)]
    assert workshop.main(["--notebooks", str(tmp_path)]) == 2
    assert [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)] == before


def test_two_runs_of_the_same_second_do_not_share_a_folder(tmp_path):
    folder = write(tmp_path / "notebooks", {"01_a": [SAY]})
    for name in ("results", "results-2"):
        assert run(folder, tmp_path / "results") is True
        assert (tmp_path / name / "notebooks" / "01_a.ipynb").exists()


def test_a_rehearsal_that_died_is_told(tmp_path, capsys):
    kill = """
import os, signal
from helpers import settings
from helpers.rehearsal import launch
os.kill(launch.status(settings.load()).pid, signal.SIGKILL)
"""
    folder = write(tmp_path / "notebooks", {"01_a": [OPEN, CREATE, kill]})
    assert run(folder, tmp_path / "results") is False
    printed = capsys.readouterr().out
    assert "The rehearsal AWS has ended before its journal could be read" in printed
    assert "nothing was left" not in printed


def test_a_running_cell_is_ended_when_the_run_is_abandoned(tmp_path):
    folder = write(tmp_path, {"01_long": ["import time", LONG]})
    ended = []
    with notebooks.prepared(notebooks.find(folder), environ=os.environ) as (take_turn,):
        waiting = threading.Thread(target=lambda: ended.append(take_turn()))
        waiting.start()
        time.sleep(3)  # it is in its long cell by now
    waiting.join(timeout=30)
    assert "DeadKernelError" in ended[0].error


def test_only_imports_run_before_a_notebooks_turn(tmp_path):
    trace = tmp_path / "trace"
    note = "with open(PATH, 'a') as trace: trace.write(NAME + ' ')".replace(
        "PATH", repr(str(trace))
    )
    imports = "import sys\n\nsys.path.insert(0, '..')\nimport json"
    folder = write(
        tmp_path / "notebooks",
        {
            "01_a": [imports, "import time; time.sleep(3)", note.replace("NAME", "'a'")],
            "02_b": [note.replace("NAME", "'b'"), SAY],
            "03_c": [imports, note.replace("NAME", "'c'")],
        },
    )
    with notebooks.prepared(notebooks.find(folder), environ=os.environ) as turns:
        executed = [take_turn() for take_turn in turns]
    assert trace.read_text() == "a b c "
    assert [one.error for one in executed] == [None, None, None]
    assert [cell.execution_count for cell in executed[2].notebook.cells] == [1, 2]


def test_a_folder_without_notebooks_is_refused(tmp_path, capsys):
    with pytest.raises(ResultsError, match="no numbered notebook"):
        notebooks.find(tmp_path)
    assert workshop.main(["--notebooks", str(tmp_path)]) == 2
    assert "no numbered notebook" in capsys.readouterr().err


# The bill


def entry(time_s, operation, name="demo", detail=""):
    return {"time": time_s, "operation": operation, "name": name, "detail": detail}


JOURNAL = [
    entry(0, "CreateModel"),
    entry(1, "CreateEndpointConfig", detail="2 x ml.inf2.48xlarge"),
    entry(2, "CreateEndpoint", detail="2 x ml.inf2.48xlarge"),
    entry(900, "UpdateEndpoint", detail="2 x ml.inf2.48xlarge"),
    entry(1802, "DeleteEndpoint"),
    entry(1803, "DeleteEndpointConfig"),
    entry(1804, "DeleteModel"),
]


def test_an_endpoint_costs_from_its_creation_to_its_deletion():
    table = workshop.cost_table(workshop.lives(JOURNAL, now_s=9999))
    assert table.to_dict("records") == [
        {
            "endpoint": "demo",
            "instances": "2 x ml.inf2.48xlarge",
            "minutes": 30.0,
            "cost ($)": 15.58,  # two machines for half an hour at $15.58/h
        }
    ]


def test_an_endpoint_that_was_not_deleted_costs_until_now():
    (row,) = workshop.cost_table(workshop.lives(JOURNAL[:3], now_s=3602)).to_dict("records")
    assert row["cost ($)"] == 31.16


def test_a_name_used_twice_is_two_things():
    again = [
        entry(2000, "CreateEndpoint", detail="1 x ml.inf2.xlarge"),
        entry(5600, "DeleteEndpoint"),
    ]
    made = workshop.lives([*JOURNAL, *again], now_s=9999)
    endpoints = [thing for thing in made if thing.kind == "endpoint"]
    assert [(thing.created_s, thing.until_s) for thing in endpoints] == [(2, 1802), (2000, 5600)]
    assert workshop.cost_table(made)["cost ($)"].tolist() == [15.58, 0.99]
    assert workshop.made_table(made)["deleted"].tolist()[-1] == "1970-01-01 01:33:20"


# Recording


def record(folder):
    return workshop.record(notebooks.find(folder), environ=os.environ)


def test_recording_twice_writes_the_same_bytes(tmp_path, scratch):
    folder = write(tmp_path / "notebooks", {"01_a": [SAY, f"{SAY}\n{SAY}"]})
    first, second = [], []
    for recorded in (first, second):
        assert record(folder) is True
        recorded += [path.read_bytes() for path in notebooks.find(folder)]
    assert first == second
    notebook = nbformat.read(folder / "01_a.ipynb", as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert [cell.id for cell in notebook.cells] == ["01-00", "01-01"]
    assert len(notebook.cells[1].outputs) == 1
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert list(scratch.iterdir()) == []


def test_a_recording_keeps_its_first_run_as_the_sample(tmp_path, scratch):
    make_run = """
import os, pathlib
run = pathlib.Path(os.environ["WORKSHOP_RESULTS"], "20260101T000000Z-rehearsal-x-c5")
run.mkdir(parents=True)
for name in ("run.json", "requests.jsonl", "clients.json", "summary.json", "throughput.png"):
    (run / name).write_text("rehearsal")
"""
    folder = write(tmp_path / "notebooks", {"06_benchmark": [make_run]})
    (folder / "images").mkdir()
    assert record(folder) is True
    sample = tmp_path / "results" / "samples" / workshop.SAMPLE
    assert {path.name for path in sample.iterdir()} == {
        "run.json",
        "requests.jsonl",
        "clients.json",
        "summary.json",
    }
    assert (folder / "images" / "throughput.png").read_text() == "rehearsal"


def test_a_recording_with_a_leak_or_a_failure_writes_nothing(tmp_path, scratch, capsys):
    leaking = write(tmp_path / "leaking", {"02_b": ["print('/home/me/x')"]})
    failing = write(tmp_path / "failing", {"02_b": ["1 / 0"]})
    for folder in (leaking, failing):
        before = [path.read_bytes() for path in notebooks.find(folder)]
        assert record(folder) is False
        assert [path.read_bytes() for path in notebooks.find(folder)] == before
    printed = capsys.readouterr().out
    assert "02_b: cell 0 shows an absolute path in its output." in printed
    assert "ZeroDivisionError" in printed


def test_normalizing_keeps_tags_and_drops_the_rest():
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": ["nbval-ignore-output"], "timing": 3})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    normal = notebooks.normalize(notebook, "07_plot_results")
    assert normal.cells[0].metadata == {"tags": ["nbval-ignore-output"]}
    assert "widgets" not in normal.metadata


def test_leaks_are_found_in_tables_but_not_in_figures():
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": "<td>111122223333</td>"}),
        nbformat.v4.new_output("display_data", data={"image/png": "+/tmp/hf_abcdefghijk"}),
        nbformat.v4.new_output("display_data", data={"application/json": {"key": "/root/x"}}),
    ]
    cells = [nbformat.v4.new_code_cell("1", outputs=[output]) for output in outputs]
    found = notebooks.output_leaks(nbformat.v4.new_notebook(cells=cells), "01_a")
    assert found == [
        "01_a: cell 0 shows an account id in its output.",
        "01_a: cell 2 shows an absolute path in its output.",
    ]


# nbval is strict


STORED = "[rehearsal] Endpoint demo is InService\nTTFT 2.41 s, 61.20 tokens/s [rehearsal]\n"


def compared(tmp_path, stored):
    """Run cells that print STORED under nbval, against other stored outputs; return outcomes."""
    cells = [
        nbformat.v4.new_code_cell(
            f"print({STORED!r}, end='')",
            execution_count=count,
            outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)],
        )
        for count, text in enumerate(stored.values(), start=1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_strict.ipynb")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-q", "-rA", "-p", "no:cacheprovider"]
        + ["-p", "conftest", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    outcomes = re.findall(r"^(PASSED|FAILED) \S*::Cell (\d+)", finished.stdout, re.MULTILINE)
    by_cell = {int(cell): outcome for outcome, cell in outcomes}
    return {name: by_cell[index] for index, name in enumerate(stored)}


def test_nbval_sees_a_changed_word_and_not_a_changed_measurement(tmp_path):
    stored = {
        "same": STORED,
        "other measurement": STORED.replace("2.41", "12.87"),
        "other word": STORED.replace("InService", "Failed"),
        "other unit": STORED.replace("tokens/s", "tokens/h"),
        "line missing": STORED.partition("\n")[0] + "\n",
    }
    assert compared(tmp_path, stored) == {
        "same": "PASSED",
        "other measurement": "PASSED",
        "other word": "FAILED",
        "other unit": "FAILED",
        "line missing": "FAILED",
    }


def sanitized(text):
    for regex, replacement in get_sanitize_patterns(SANITIZER.read_text()):
        text = re.sub(regex, replacement, text)
    return text


def test_the_sanitizer_is_read_whole():
    lines = SANITIZER.read_text().splitlines()
    wanted = sum(line.startswith("regex:") for line in lines)
    assert len(get_sanitize_patterns(SANITIZER.read_text())) == wanted > 0


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_word_of_a_committed_output_is_compared(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            for word in re.finditer(r"[A-Za-z]{3,}", text):
                changed = text[: word.start()] + "Xyz" + text[word.end() :]
                assert sanitized(changed) != sanitized(text), word[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12.5 tokens/s [rehearsal]", "9.25 tokens/s [rehearsal]"),
        ("0   1.25  rehearsal", "0  11.25  rehearsal"),
        ("<td>1.25</td>", "<td>812.50</td>"),
        ("0 of 5 done\r5 of 5 done\n", "0 of 5 done, 9 s left\r3 of 5 done\r5 of 5 done   \n"),
        ("audit: valid, 9 checks passed\n", "audit: valid, 7 checks passed, 2 notes\n"),
        ("run 20260301T120000Z", "run 20271122T162247Z"),
        ("created 2026-03-01 12:00:00 UTC", "created 2027-11-22 16:22:47 UTC"),
        ("http://127.0.0.1:4566/", "http://127.0.0.1:51234/"),
    ],
)
def test_what_must_vary_may_vary(one, other):
    assert sanitized(one) == sanitized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[rehearsal] $15.58/h", "[rehearsal] $12.98/h"),
        ("[rehearsal] TGI 0.0.22", "[rehearsal] TGI 0.0.28"),
        ("50 requests [rehearsal]", "49 requests [rehearsal]"),
        ("<td>24</td>", "<td>12</td>"),
        ("audit: valid, 9 checks passed", "audit: INVALID: errors: 5 % of the requests failed"),
    ],
)
def test_what_must_not_vary_is_compared(one, other):
    assert sanitized(one) != sanitized(other)
