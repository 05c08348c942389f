import hashlib
import http.server
import json
import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from urllib.parse import unquote

import pytest
import rehearsing
from botocore.exceptions import ClientError
from deployed import IMAGE

from helpers import cleanup, endpoint, errors, messages, recipes, weights
from helpers.errors import WeightsError
from helpers.rehearsal import repository
from helpers.rehearsal.hub import UNGRANTED_TOKEN
from helpers.session import open_session

RECIPE = recipes.get("llama-3-8b")
TOKEN = "hf_rehearsalAbCdEfGhIjKlMnOpQrStUv"
COPIED = ["LICENSE", "generation_config.json", "model.safetensors", "tokenizer.json", "config.json"]


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def shared(state):
    with rehearsing.server(state, speed=1800):
        yield open_session()


@pytest.fixture(scope="module")
def admin(shared):
    """An administrator's S3; the participants' go on with their own keys."""
    shared.client("s3").list_objects_v2(Bucket=shared.bucket, Prefix="inf2-workshop/")
    return open_session(identity="admin").client("s3")


@pytest.fixture
def session(shared):
    """A participant of the test's own."""
    session = rehearsing.participant(shared)
    yield session
    rehearsing.restore()


def objects(session, recipe=RECIPE):
    """What lies where the copy goes: path to object, as S3 tells it, oldest first."""
    prefix = f"inf2-workshop/{session.participant}/weights/{recipe.model_id}/"
    s3 = session.client("s3")
    listed = s3.list_objects_v2(Bucket=session.bucket, Prefix=prefix).get("Contents", [])
    found = {
        one["Key"].removeprefix(prefix): s3.get_object(Bucket=session.bucket, Key=one["Key"])
        for one in listed
    }
    return {path: {**one, "Body": one["Body"].read()} for path, one in found.items()}


# --- a copy


def test_a_copy_has_what_the_container_reads_and_its_tags(session, admin, capsys):
    address = weights.copy(session, RECIPE, hf_token=TOKEN)
    assert address == (
        f"s3://{session.bucket}/inf2-workshop/{session.participant}/weights/{RECIPE.model_id}/"
    )
    said = capsys.readouterr().out.splitlines()
    size = sum(one["ContentLength"] for one in objects(session).values())
    assert f"5 files, {size / 1e3:.2f} kB, to {address}, $0.00 a month until 08_clean_up" in said[0]
    assert [line.split()[1].rstrip(",") for line in said[1:-1]] == COPIED  # config.json last
    there = objects(session)
    assert set(there) == set(COPIED)  # Meta's own checkpoint is left out
    hubs = repository.files(RECIPE.model_id, there["tokenizer.json"]["Body"])
    assert {path: one["Body"] for path, one in there.items()} == {p: hubs[p] for p in COPIED}
    tags = admin.get_object_tagging(
        Bucket=session.bucket, Key=f"{address.partition(session.bucket + '/')[2]}config.json"
    )["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {
        "workshop": "inferentia2",
        "participant": session.participant,
        "recipe": "llama-3-8b",
        "expires": "never",
    }


def test_what_is_there_is_skipped_and_what_is_not_is_copied(session, capsys):
    address = weights.copy(session, RECIPE, hf_token=TOKEN)
    first, s3 = objects(session), session.client("s3")
    prefix = address.partition(f"{session.bucket}/")[2]
    s3.delete_object(Bucket=session.bucket, Key=f"{prefix}tokenizer.json")
    size = first["LICENSE"]["ContentLength"]
    s3.put_object(Bucket=session.bucket, Key=f"{prefix}LICENSE", Body=b"x" * size)
    capsys.readouterr()
    assert weights.copy(session, RECIPE, hf_token=TOKEN) == address
    said = dict(re.findall(r"(\S+), \d+\.\d\d kB: (.*)", capsys.readouterr().out))
    assert {path for path, what in said.items() if what == "copied"} == {
        "tokenizer.json",
        "LICENSE",  # as long, and other bytes
    }
    again = objects(session)
    assert {path: one["Body"] for path, one in again.items()} == {
        path: one["Body"] for path, one in first.items()
    }


def test_only_a_finished_copy_is_found(session):
    assert weights.find(session, RECIPE) is None
    address = weights.copy(session, RECIPE, hf_token=TOKEN)
    assert weights.find(session, RECIPE) == weights.uri(session, RECIPE) == address
    assert weights.model_of(address) == RECIPE.model_id
    assert weights.model_of("s3://bucket/elsewhere/") == ""
    prefix = address.partition(f"{session.bucket}/")[2]
    session.client("s3").delete_object(Bucket=session.bucket, Key=f"{prefix}config.json")
    assert weights.find(session, RECIPE) is None


def test_an_interrupted_copy_goes_on_where_it_was(session, request):
    puts = count()
    # Also where whoever started the tests ignores Ctrl-C, as a shell does for a background job.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt(**_):
        if next(puts) == 2:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: the main thread hears of it

    rehearsing.after(session, "PutObject", interrupt, service="s3")
    with pytest.raises(WeightsError, match="Interrupted: copy again, it goes on where it was"):
        weights.copy(session, RECIPE, hf_token=TOKEN)
    rehearsing.restore()
    assert 0 < len(objects(session)) < len(COPIED)
    assert weights.find(session, RECIPE) is None
    assert weights.copy(session, RECIPE, hf_token=TOKEN) == weights.find(session, RECIPE)


def test_an_interrupt_while_looking_is_one_sentence_too(session):
    rehearsing.fail_after(session, "ListObjectsV2", KeyboardInterrupt(), service="s3")
    with pytest.raises(WeightsError, match="Interrupted: copy again"):
        weights.copy(session, RECIPE, hf_token=TOKEN)


def test_it_is_said_where_clean_up_looks_into_another_bucket(session, admin, capsys):
    if "inf2-workshop-own" not in {one["Name"] for one in admin.list_buckets()["Buckets"]}:
        admin.create_bucket(Bucket="inf2-workshop-own")
    weights.copy(session, RECIPE, hf_token=TOKEN, bucket="inf2-workshop-own")
    said = capsys.readouterr().out
    assert "a month until 08_clean_up deletes them, run on this machine." in said
    assert cleanup.leftovers(session)["kind"].tolist() == ["weights folder"]


@pytest.mark.parametrize(
    ("address", "gated", "words"),
    [
        (None, True, "can read it. With the weights in S3 (weights.copy) there is none."),
        ("s3://b/k/", True, "No token goes to AWS: the weights come from s3://b/k/"),
        (None, False, "is not gated: no token is needed."),
    ],
)
def test_it_is_said_where_the_token_stands(session, capsys, address, gated, words):
    weights.say_token(session, replace(RECIPE, gated=gated), address)
    assert capsys.readouterr().out.rstrip().endswith(words)


# --- deploying from there


def create_model(session, name, address):
    source = {"S3Uri": address, "S3DataType": "S3Prefix", "CompressionType": "None"}
    session.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=session.role(),
        PrimaryContainer={
            "Image": IMAGE,
            "Environment": {**RECIPE.env, "HF_MODEL_ID": weights.FOLDER},
            "ModelDataSource": {"S3DataSource": source},
        },
    )


def test_the_execution_role_may_read_the_workshops_folders_and_no_others(session, admin):
    admin.create_bucket(Bucket="somebodys")
    admin.put_object(Bucket="somebodys", Key="model/config.json", Body=b"{}")
    with pytest.raises(ClientError, match="Could not access model data at s3://somebodys/model/"):
        create_model(session, "inf2-workshop-x", "s3://somebodys/model/")


def test_an_endpoint_comes_up_from_there_and_knows_no_token(session):
    address = weights.copy(session, RECIPE, hf_token=TOKEN)
    name, sagemaker = f"inf2-workshop-{session.participant}-s3", session.client("sagemaker")
    create_model(session, name, address)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": RECIPE.instance_type,
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
        "ModelDataDownloadTimeoutInSeconds": 3600,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 100}
    )
    question = [{"role": "user", "content": "Where do you come from?"}]
    runtime = session.client("sagemaker-runtime")
    assert messages.chat(runtime, name, question, max_tokens=8).text
    model = sagemaker.describe_model(ModelName=name)
    assert "HF_TOKEN" not in model["PrimaryContainer"]["Environment"]
    log = endpoint.container_log(session, name)
    assert any(f"of {RECIPE.model_id} from {address}" in line for line in log)


def test_the_token_is_nowhere(session, state, capsys):
    weights.copy(session, RECIPE, hf_token=TOKEN)
    with pytest.raises(WeightsError) as seen:
        weights.copy(session, replace(RECIPE, model_id="meta-llama/Nothing-8B"), hf_token=TOKEN)
    told = [repr(seen.value), repr(seen.value.__cause__), repr(seen.value.__context__)]
    told += capsys.readouterr()
    told += [repr(one) for one in objects(session).values()]
    assert not any(TOKEN in text for text in told)
    files = [path for path in state.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


# --- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hf_token": UNGRANTED_TOKEN}, "accept the license at https://huggingface.co/meta-llama"),
        ({"hf_token": "no-token"}, "create a new one"),
        ({"hf_token": f"{TOKEN}\nX: y"}, "has characters that none has"),
        ({"hf_token": f"{TOKEN}\u20ac"}, "has characters that none has"),
        ({"bucket": "inf2-workshop-nobodys"}, "deploy iam/template.yaml, which makes it"),
        ({"environ": {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"}}, "be reached"),
    ],
)
def test_a_copy_that_cannot_be_made_says_what_to_do(session, changes, words):
    with pytest.raises(WeightsError, match=words) as seen:
        weights.copy(session, RECIPE, **changes)
    assert TOKEN not in str(seen.value)
    assert seen.value.__context__ is None or TOKEN not in repr(vars(seen.value.__context__))


def test_without_a_token_it_says_where_to_get_one(session, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(WeightsError, match="create one at"):
        weights.copy(session, RECIPE, environ={})


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0.00 kB"), (999_000, "999.00 kB"), (5_000_000, "5.00 MB"), (4_976_000_000, "4.98 GB")],
)
def test_sizes_are_said_in_a_unit_that_fits(size, said):
    assert weights._readable(size) == said


@pytest.mark.parametrize("model_id", ["..", "a/../b", "a", "/a", "a/b/c", "https://x/y"])
def test_a_name_that_is_no_models_is_refused(session, model_id):
    with pytest.raises(WeightsError, match="looks like organization/name"):
        weights.copy(session, replace(RECIPE, model_id=model_id), hf_token=TOKEN)


@pytest.mark.parametrize(
    ("operation", "words"),
    [("ListObjectsV2", "cannot be looked into: not allowed"), ("PutObject", "cannot be written")],
)
def test_what_s3_refuses_is_one_sentence(session, operation, words):
    rehearsing.refuse(session, operation, "AccessDenied", "Access Denied", status=403, service="s3")
    with pytest.raises(WeightsError, match=f"{words}.*ask for that permission"):
        weights.copy(session, RECIPE, hf_token=TOKEN)


def test_a_bucket_of_another_region_is_refused(session):
    def elsewhere(parsed, **_):
        parsed["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] = "eu-west-1"

    rehearsing.after(session, "ListObjectsV2", elsewhere, service="s3")
    with pytest.raises(WeightsError, match="is in eu-west-1, and an endpoint in us-east-1 cannot"):
        weights.copy(session, RECIPE, hf_token=TOKEN)


# --- a Hub in trouble

OPEN = replace(RECIPE, model_id="o/open", gated=False)


class Hub:
    """A Hub of one model, whose files come from another host, as the real one's do."""

    def __init__(self, files):
        self.files, self.asked, self.trouble = files, [], {}

    def answer(self, handler):
        path = unquote(handler.path.partition("?")[0])
        self.asked.append((handler.headers["Host"], path, handler.headers))
        if path == "/api/models/o/open":
            siblings = repository.siblings(self.files, sizes=True)
            body = json.dumps({"id": "o/open", "sha": "c0ffee", "siblings": siblings}).encode()
            return self.send(handler, 200, body)
        name = path.removeprefix("/o/open/resolve/c0ffee/")
        if handler.headers["Host"].startswith("127."):
            there = f"http://localhost:{handler.server.server_port}{handler.path}"
            return self.send(handler, 302, b"", Location=there)
        content = self.files[name]
        if change := self.trouble.get(name):
            return change(handler, content)
        return self.send(handler, 200, content)

    def send(self, handler, status, body, *, cut=None, **headers):
        handler.send_response(status)
        for header, value in {"Content-Length": len(body), **headers}.items():
            handler.send_header(header, str(value))
        handler.end_headers()
        handler.wfile.write(body[:cut])
        handler.close_connection = cut is not None


@contextmanager
def serving(hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hub.answer(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": TOKEN}
        server.shutdown()


@pytest.fixture
def hub():
    return Hub({"config.json": b"{}", "model.safetensors": bytes(range(256)) * 80_000})


def test_a_large_file_goes_in_parts_and_the_token_stays_with_the_hub(session, hub):
    with serving(hub) as environ:
        weights.copy(session, OPEN, environ=environ)
    large = objects(session, OPEN)["model.safetensors"]
    assert large["Body"] == hub.files["model.safetensors"]
    assert large["ETag"].endswith('-2"')  # of two parts
    assert large["Metadata"]["hub-digest"] == hashlib.sha256(large["Body"]).hexdigest()
    told = {host.partition(":")[0]: "Authorization" in headers for host, _, headers in hub.asked}
    assert told == {"127.0.0.1": True, "localhost": False}


def test_a_broken_connection_goes_on_in_the_middle(session, hub):
    asked = []

    def break_off(handler, content):
        asked.append(handler.headers["Range"])
        begin = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        hub.send(handler, 206 if begin else 200, content[begin:], cut=9_000_000)

    hub.trouble["model.safetensors"] = break_off
    with serving(hub) as environ:
        weights.copy(session, OPEN, environ=environ)
    assert objects(session, OPEN)["model.safetensors"]["Body"] == hub.files["model.safetensors"]
    assert len(asked) == 3 and asked[0] is None


def other_bytes(hub, handler, content):
    hub.send(handler, 200, b"x" * len(content))


def too_few(hub, handler, content):
    hub.send(handler, 200, content[:-5])


def too_many(hub, handler, content):
    hub.send(handler, 200, content + b"more")


def no_more(hub, handler, content):
    hub.send(handler, 206 if handler.headers["Range"] else 200, content, cut=0)


def forbidden(hub, handler, content):
    hub.send(handler, 403, b"no")


def busy(hub, handler, content):
    hub.send(handler, 503, b"later")


def gone(hub, handler, content):
    hub.send(handler, 404, b"no")


def odd(hub, handler, content):
    hub.send(handler, 418, b"?")


@pytest.mark.parametrize(
    ("trouble", "words", "size"),
    [
        (other_bytes, "is not what the Hub lists", 300),
        (other_bytes, "is not what the Hub lists", 80_000),  # in parts
        (too_many, "is not what the Hub lists", 300),
        (no_more, "broke off after 0.00 kB of 20.48 MB", 80_000),
        (forbidden, "The Hub answers 403 for model.safetensors of o/open: check the token", 300),
        (too_few, "begins anew instead of going on at byte 76795; try another network", 300),
        (busy, "cannot be had, the Hub answers 503, after 0.00 kB of 76.80 kB", 300),
        (gone, "answers 404 .* the file has changed since it was listed", 300),
        (odd, "answers 418 .* look at https://status.huggingface.co", 300),
    ],
)
def test_a_file_that_is_not_the_hubs_never_becomes_an_object(
    session, admin, hub, trouble, words, size
):
    hub.files["model.safetensors"] = bytes(range(256)) * size
    hub.trouble["model.safetensors"] = lambda *asked: trouble(hub, *asked)
    with serving(hub) as environ, pytest.raises(WeightsError, match=words) as seen:
        weights.copy(session, OPEN, environ=environ)
    assert objects(session, OPEN) == {}
    assert TOKEN not in repr(seen.value) and seen.value.__context__ is None
    uploads = admin.list_multipart_uploads(Bucket=session.bucket)
    assert not uploads.get("Uploads")  # nothing half done goes on costing


def test_content_without_an_end_is_read_to_the_size_that_is_listed(session, hub):
    sent = []

    def endless(handler, content):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            for _ in range(400):  # MiB
                handler.wfile.write(bytes(2**20))
                sent.append(1)
        except OSError:  # nobody listens any more
            pass

    hub.files["model.safetensors"] = b"short"
    hub.trouble["model.safetensors"] = endless
    with serving(hub) as environ, pytest.raises(WeightsError, match="is not what the Hub lists"):
        weights.copy(session, OPEN, environ=environ)
    assert len(sent) < 100
    assert objects(session, OPEN) == {}


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(session, hub):
    turns = count()

    def once(handler, content):
        status = 503 if next(turns) == 0 else 200
        hub.send(handler, status, content if status == 200 else b"")

    hub.trouble["config.json"] = once
    with serving(hub) as environ:
        weights.copy(session, OPEN, environ=environ)
    assert objects(session, OPEN)["config.json"]["Body"] == b"{}"


@pytest.mark.parametrize("spoiled", [{"size": None}, {"blobId": None}, {"size": -1}])
def test_a_file_that_is_listed_without_its_size_is_refused(session, hub, monkeypatch, spoiled):
    def siblings(*given, **options):
        listed = real(*given, **options)
        one = next(one for one in listed if one["rfilename"] == "config.json")
        one.update(spoiled)
        return listed

    real = repository.siblings
    monkeypatch.setattr(repository, "siblings", siblings)
    with serving(hub) as environ, pytest.raises(WeightsError, match="config.json without its size"):
        weights.copy(session, OPEN, environ=environ)


@pytest.mark.parametrize(
    "name", ["../up", "a//b", "/etc/x", "a/./b", "x" * 256], ids=lambda name: name[:8]
)
def test_names_that_cannot_lie_in_the_folder_are_refused(session, hub, name):
    hub.files[name] = b"?"
    with serving(hub) as environ, pytest.raises(WeightsError, match="cannot lie in /opt/ml/model"):
        weights.copy(session, OPEN, environ=environ)
    assert objects(session, OPEN) == {}


def test_old_weights_are_copied_where_there_are_no_others(session, hub):
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"old", "empty.txt": b""}
    with serving(hub) as environ:
        weights.copy(session, OPEN, environ=environ)
        assert set(objects(session, OPEN)) == set(hub.files)
        hub.files["model.safetensors"] = b"new"
        session.participant += "b"
        weights.copy(session, OPEN, environ=environ)
    assert set(objects(session, OPEN)) == {"config.json", "empty.txt", "model.safetensors"}


def test_a_repository_without_a_configuration_is_no_model(session, hub):
    del hub.files["config.json"]
    with serving(hub) as environ, pytest.raises(WeightsError, match="has no config.json"):
        weights.copy(session, OPEN, environ=environ)


def test_a_hub_that_does_not_know_the_model_is_one_sentence(session, hub):
    unknown = replace(OPEN, model_id="o/other")
    with serving(hub) as environ, pytest.raises(WeightsError, match="does not list the files"):
        hub.answer = lambda handler: hub.send(handler, 404, b"{}")
        weights.copy(session, unknown, environ=environ)


# --- the command line


def test_the_command_line_prints_the_address_last(shared, capsys):
    assert weights.main(["--recipe", "llama-3-8b"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == weights.find(shared, RECIPE)


def test_the_command_line_says_what_is_wrong_in_a_sentence(shared, capsys):
    assert weights.main(["--recipe", "llama-3-8b", "--bucket", "inf2-workshop-nobodys"]) == 1
    assert "There is no bucket inf2-workshop-nobodys" in capsys.readouterr().err


def test_ctrl_c_ends_the_command_with_a_sentence(capsys, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "open_session", interrupt)
    assert weights.main([]) == 130
    assert capsys.readouterr().err == "Interrupted: nothing was copied.\n"


def test_its_errors_are_the_workshops():
    assert issubclass(errors.WeightsError, errors.WorkshopError)
