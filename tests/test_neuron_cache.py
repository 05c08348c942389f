import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import contracts, neuron_cache, recipes
from helpers.contracts import CACHE, CONTRACTS, TGI, VLLM
from helpers.errors import ContainerError
from helpers.rehearsal import hub, registry

BIG = "ml.inf2.48xlarge"
GUIDE = recipes.get("llama-3-70b").env
LATER = recipes.get("llama-3-70b-tgi-0.0.28").env
LLAMA_3_3 = recipes.get("llama-3.3-70b-vllm").env
MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"


@contextmanager
def serving(answer):
    """A Hub on loopback; `answer(path, query)` gives status, headers and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            status, headers, body = answer(path, query)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def hub_url():
    """The rehearsal's Hub, behind a server of the test's own."""
    rehearsed = hub.Hub({})
    with serving(lambda path, query: rehearsed.answer(path, {}, query)) as url:
        yield url


def look_up(url, version, env, instance_type=BIG, **options):
    contract = CONTRACTS.get((TGI, version)) or CONTRACTS[VLLM, version]
    return neuron_cache.look_up(
        contract, env, instance_type=instance_type, environ={"HF_ENDPOINT": url}, **options
    )


def near(version, env, instance_type=BIG, entries=CACHE):
    contract = CONTRACTS.get((TGI, version)) or CONTRACTS[VLLM, version]
    asked = contracts.looked_for(contract, env, instance_type=instance_type)
    assert contracts.pick(contract, asked, instance_type=instance_type, entries=entries) is None
    return [str(one) for one in neuron_cache.near_misses(contract, asked, instance_type, entries)]


# --- the Hub's registry


def test_the_guides_shape_is_listed_in_the_registry(hub_url):
    verdict = look_up(hub_url, "0.0.22", GUIDE)
    assert verdict.source == neuron_cache.LIVE
    assert (verdict.entry.batch_size, verdict.entry.auto_cast_type) == (4, "fp16")
    assert verdict.entry.versions == ("0.0.22",)
    assert "2695ea9" in verdict.entry.source
    assert not verdict.near


def test_what_was_assumed_is_still_assumed_when_the_rehearsal_lists_it(hub_url):
    assert not look_up(hub_url, "0.0.22", GUIDE).entry.assumed
    assert look_up(hub_url, "0.0.28", LATER).entry.assumed


def test_the_registry_says_the_same_as_the_table():
    folders = {
        f"neuronxcc-{neuron_cache.compiler_of(one)}+rehearsal/{neuron_cache.folder(one)}/": one
        for one in CONTRACTS.values()
    }
    listed = Counter()
    for path, text in registry.files().items():
        contract = next(one for place, one in folders.items() if path.startswith(place))
        model_id = "/".join(path.split("/")[-3:-1])
        found = neuron_cache.entry(path, text.decode(), model_id, contract)
        listed[contract, model_id, *shape_of(found), found.assumed] += 1
    expected = Counter(
        (contract, entry.model_id, *shape_of(entry), entry.assumed)
        for contract in CONTRACTS.values()
        for entry in CACHE
        if entry.counts_for(contract)
    )
    assert listed == expected


def shape_of(entry):
    return [getattr(entry, name) for name in contracts.SHAPE]


def test_a_miss_names_what_other_containers_have(hub_url):
    verdict = look_up(hub_url, "0.0.25", GUIDE)
    assert verdict.entry is None
    assert [str(one) for one in verdict.near] == [
        "batch 4 is cached as bf16, not fp16: set HF_AUTO_CAST_TYPE to bf16",
        "batch 4 is cached for compiler 2.13.66.0, 2.14.227.0 or 2.15.143.0, not 2.15.128.0: "
        "use container version 0.0.22, 0.0.23, 0.0.24, 0.0.27 or 0.0.28",
    ]


def test_the_files_lie_where_optimum_neuron_looks_for_them():
    places = Counter(path.rpartition("/")[0] for path in registry.files())
    assert places[f"neuronxcc-2.13.66.0+rehearsal/0_REGISTRY/0.0.22/inference/llama/{MODEL}"] == 2
    assert places[f"neuronxcc-2.17.194.0+rehearsal/0_REGISTRY/0.2.0/llama/{MODEL}"] == 2
    vllm = "neuronxcc-2.21.33363.0+rehearsal/0_REGISTRY/0.4.4/llama/"
    assert places[f"{vllm}meta-llama/Llama-3.3-70B-Instruct"] == 3


def test_a_folder_lists_what_is_in_it_and_a_missing_one_nothing():
    files = registry.files()
    root = registry.tree(files, "", recursive=False)
    assert {one["type"] for one in root} == {"directory"}
    assert "neuronxcc-2.13.66.0+rehearsal" in {one["path"] for one in root}
    compiler = "neuronxcc-2.13.66.0+rehearsal"
    below = registry.tree(files, compiler, recursive=True)
    assert {one["type"] for one in below} == {"directory", "file"}
    assert f"{compiler}/0_REGISTRY/0.0.22/inference" in {one["path"] for one in below}
    assert registry.tree(files, "neuronxcc-1.0", recursive=True) is None


def test_a_revision_or_a_file_that_is_not_there_is_refused_in_the_hubs_words():
    rehearsed, tree = hub.Hub({}), f"/api/models/{neuron_cache.REPOSITORY}/tree"
    assert rehearsed.answer(f"{tree}/branch", {}).headers["X-Error-Code"] == "RevisionNotFound"
    assert rehearsed.answer(f"{tree}/main/no", {}).headers["X-Error-Code"] == "EntryNotFound"
    file = f"/{neuron_cache.REPOSITORY}/resolve/main/no.json"
    assert rehearsed.answer(file, {}).status == 404


def test_a_chat_model_shares_its_base_models_shapes():
    path = "neuronxcc-2.13.66.0+6/0_REGISTRY/0.0.22/inference/llama/meta-llama/{}/1.json"
    paths = {path.format("Meta-Llama-3-70B"), path.format("Meta-Llama-3.1-70B")}
    neuron = {"batch_size": 4, "sequence_length": 4096, "num_cores": 24, "auto_cast_type": "fp16"}

    def answer(asked, query):
        if "/resolve/" in asked:
            return 200, {}, json.dumps({"neuron": neuron}).encode()
        root = [{"type": "directory", "oid": "1", "path": "neuronxcc-2.13.66.0+6"}]
        listed = [{"type": "file", "oid": "1", "size": 1, "path": one} for one in sorted(paths)]
        return 200, {}, json.dumps(listed if "REGISTRY" in asked else root).encode()

    with serving(answer) as url:
        found = look_up(url, "0.0.22", GUIDE)
        assert found.source == neuron_cache.LIVE
        assert "/Meta-Llama-3-70B/" in found.entry.source
        missed = look_up(url, "0.0.22", GUIDE | {"HF_MODEL_ID": "meta-llama/Llama-3.2-1B"})
        assert (missed.entry, missed.near) == (None, ())


def test_without_a_hub_the_table_stands_in_and_says_so():
    verdict = look_up("http://127.0.0.1:9", "0.0.22", GUIDE, limit_s=0.3)
    assert verdict.entry
    assert verdict.source.startswith("this repository's table: the Hub's registry ")


def test_a_hub_that_hangs_holds_nobody_up():
    hangs = threading.Event()
    with serving(lambda path, query: hangs.wait(10) and (200, {}, b"[]")) as url:
        verdict = look_up(url, "0.0.22", GUIDE, limit_s=0.2)
        hangs.set()
    assert verdict.entry
    assert "no answer within 0.2 s" in verdict.source


def test_a_list_of_several_pages_is_read_to_its_end():
    compilers = [f"neuronxcc-{number}" for number in ("2.13.66.0+6", "2.12.1+5")]

    def answer(path, query):
        if "REGISTRY" in path:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        first = "cursor" not in query
        listed = [{"type": "directory", "oid": "1", "path": compilers[not first]}]
        more = {"Link": f'<{url}{path}?cursor=1>; rel="next"'} if first else {}
        asked.append(query)
        return 200, more, json.dumps(listed).encode()

    asked = []
    with serving(answer) as url:
        found = look_up(url, "0.0.22", GUIDE)
    assert (found.source, found.entry) == (neuron_cache.LIVE, None)
    assert len(asked) == 2 and asked[1] == "cursor=1"


def test_what_was_given_up_leaves_the_connections_of_others_alone():
    hangs = threading.Event()
    with serving(lambda path, query: hangs.wait(10) and (200, {}, b"[]")) as url:
        look_up(url, "0.0.22", GUIDE, limit_s=0.2)
        connections = huggingface_hub.get_session()
    hangs.set()
    look_up("http://127.0.0.1:9", "0.0.22", GUIDE)
    left = [one for one in threading.enumerate() if one.name == "together: registry"]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)
    assert huggingface_hub.get_session() is connections and not connections.is_closed


@pytest.mark.parametrize("body", [b"no json", b"{}", b'[{"path": 3}]', b'[{"type": "file"}]'])
def test_a_hub_that_talks_nonsense_is_not_believed(body):
    with serving(lambda path, query: (200, {}, body)) as url:
        verdict = look_up(url, "0.0.22", GUIDE)
    assert verdict.entry
    assert "cannot be read" in verdict.source


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NEURON = st.fixed_dictionaries(
    {"batch_size": JSON, "sequence_length": JSON},
    optional={"num_cores": JSON, "tp_degree": JSON, "auto_cast_type": JSON, "target": JSON},
)


@given(st.one_of(st.text(), st.builds(lambda n: json.dumps({"neuron": n}), NEURON)))
def test_whatever_a_file_says_it_is_an_entry_or_none(text):
    found = neuron_cache.entry("a/b/c/1.json", text, MODEL, CONTRACTS[TGI, "0.0.22"])
    assert found is None or found.batch_size > 0


def test_shapes_for_other_chips_do_not_count():
    neuron = {"batch_size": 4, "sequence_length": 4096, "tp_degree": 24, "torch_dtype": "bfloat16"}
    contract = CONTRACTS[VLLM, "0.4.4"]

    def read(**more):
        text = json.dumps({"neuron": neuron | more})
        return neuron_cache.entry("p", text, MODEL, contract)

    assert read(target="trn1").auto_cast_type == "bf16"
    assert read(target="trn2") is None


# --- near misses


@pytest.mark.parametrize(
    ("version", "env", "expected"),
    [
        (
            "0.0.22",
            GUIDE | {"HF_BATCH_SIZE": "3", "MAX_BATCH_SIZE": "3"},
            ["batch 1 and 4 are cached, not 3: set HF_BATCH_SIZE and MAX_BATCH_SIZE to 1 or 4"],
        ),
        (
            "0.0.28",
            LATER | {"MAX_TOTAL_TOKENS": "2048"},
            [
                "batch 4 is cached with 4096 tokens, not 2048: set MAX_TOTAL_TOKENS to 4096",
            ],
        ),
        (
            "0.0.22",
            GUIDE | {"HF_NUM_CORES": "12"},
            ["batch 4 is cached for 24 cores, not 12: set HF_NUM_CORES to 24"],
        ),
        (
            "0.4.4",
            LLAMA_3_3 | {"SM_ON_BATCH_SIZE": "3"},
            ["batch 1, 4 and 8 are cached, not 3: set SM_ON_BATCH_SIZE to 1, 4 or 8"],
        ),
        (
            "0.2.0",
            GUIDE | {"HF_AUTO_CAST_TYPE": "bf16", "MAX_BATCH_SIZE": "16"},
            ["batch 1 and 4 are cached, not 16: set MAX_BATCH_SIZE to 1 or 4"],
        ),
        ("0.0.22", GUIDE | {"HF_MODEL_ID": "someone/model"}, []),
    ],
    ids=str,
)
def test_a_near_miss_says_exactly_what_differs(version, env, expected):
    found = near(version, env)
    assert found[: len(expected)] == expected
    assert bool(found) == bool(expected)


def test_a_shape_that_another_compiler_has_names_the_containers():
    found = near("0.0.22", GUIDE | {"HF_AUTO_CAST_TYPE": "bf16"})
    assert found[0] == "batch 4 is cached as fp16, not bf16: set HF_AUTO_CAST_TYPE to fp16"
    only = [one for one in CACHE if one.assumed and one.auto_cast_type == "fp16"]
    found = near("0.0.22", GUIDE, entries=only)
    assert found == [
        "batch 4 is cached for compiler 2.15.143.0, not 2.13.66.0: "
        "use container version 0.0.27 or 0.0.28"
    ]


def test_a_shape_of_the_same_compiler_in_another_version_names_that_version():
    only = [replace(one, versions=("0.0.23",)) for one in CACHE if "2.13.66.0" in one.compilers]
    assert near("0.0.22", GUIDE, entries=only) == [
        "batch 4 is cached for container version 0.0.23, not 0.0.22: use container version 0.0.23"
    ]


def test_a_model_that_only_another_container_serves_names_it():
    found = near("0.0.22", GUIDE | {"HF_MODEL_ID": "meta-llama/Llama-3.3-70B-Instruct"})
    assert "huggingface-vllm-neuronx 0.4.1, 0.4.2 or 0.4.4" in found[0]
    assert "as bf16, not fp16, and for compiler Neuron SDK 2.26.0 or" in found[0]


def test_a_shape_too_large_for_the_machine_asks_for_a_larger_one():
    env = {**GUIDE, "HF_NUM_CORES": "2"}
    assert near("0.0.22", env, "ml.inf2.xlarge") == [
        "batch 4 is cached for 24 cores, not 2: set HF_NUM_CORES to 24 and "
        "choose an instance with 24 Neuron cores"
    ]
    vllm = near("0.4.4", LLAMA_3_3, "ml.inf2.24xlarge")
    assert "for 24 cores, not 12: choose an instance with 24 Neuron cores" in vllm[0]


def test_a_shape_that_differs_in_more_says_all_of_it():
    env = {**GUIDE, "HF_BATCH_SIZE": "8", "HF_SEQUENCE_LENGTH": "8192", "MAX_BATCH_SIZE": "8"}
    words = near("0.0.22", env)
    assert words[0].startswith("batch 1, not 8, is cached with 4096 tokens, not 8192: set ")


@given(
    st.sampled_from(list(CONTRACTS.values())),
    st.fixed_dictionaries(
        {
            name: st.sampled_from(["", "1", "2", "4", "12", "24", "4096", "bf16", "fp16"])
            for name in ("HF_BATCH_SIZE", "MAX_BATCH_SIZE", "HF_NUM_CORES", "HF_AUTO_CAST_TYPE")
        }
    ),
    st.sampled_from([BIG, "ml.inf2.xlarge", "ml.g5.xlarge"]),
)
def test_every_miss_of_a_cached_model_has_a_near_miss_with_a_remedy(contract, env, instance_type):
    env = {**env, contract.model_variable: MODEL}
    try:
        asked = contracts.looked_for(contract, env, instance_type=instance_type)
    except ContainerError:
        return
    if contracts.pick(contract, asked, instance_type=instance_type) is None:
        found = neuron_cache.near_misses(contract, asked, instance_type)
        assert 1 <= len(found) <= 3
        assert all(one.words and one.remedy for one in found)
