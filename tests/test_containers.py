import subprocess
import sys

import pytest

from helpers import containers
from helpers.contracts import CONTRACTS, TGI, VLLM, contract_for_image
from helpers.errors import ContainerError

ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


def test_the_guides_image_is_found_offline():
    uri = containers.image_uri(TGI, "0.0.22", region="us-east-1")
    assert uri == (
        f"{ECR}/huggingface-pytorch-tgi-inference:2.1.2-optimum0.0.22-neuronx-py310-ubuntu22.04"
    )


def test_the_newest_vllm_image_is_found():
    uri = containers.image_uri(VLLM, "0.4.4", region="eu-west-1")
    assert uri == (
        "763104351884.dkr.ecr.eu-west-1.amazonaws.com/huggingface-vllm-inference-neuronx:"
        "0.11.0-optimum0.4.4-neuronx-py310-sdk2.26.1-ubuntu22.04"
    )


@pytest.mark.parametrize(("framework", "version"), CONTRACTS)
def test_every_contract_belongs_to_the_image_the_sdk_gives(framework, version):
    uri = containers.image_uri(framework, version, region="us-east-1")
    assert contract_for_image(uri) is CONTRACTS[framework, version]


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1", "eu-north-1"])
def test_images_of_other_partitions_are_understood(region):
    uri = containers.image_uri(TGI, "0.0.28", region=region)
    assert contract_for_image(uri).version == "0.0.28"


@pytest.mark.parametrize(
    ("framework", "version", "region", "hint"),
    [
        ("huggingface-llm", "0.0.22", "us-east-1", VLLM),
        (TGI, "0.0.26", "us-east-1", "0.0.27"),
        (TGI, "0.0", "us-east-1", "0.0.22"),
        (TGI, "0.0.22", "mars-1", "us-east-1"),
        (VLLM, "0.4.4", "eu-north-1", "eu-west-1"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(framework, version, region, hint):
    with pytest.raises(ContainerError, match=hint):
        containers.image_uri(framework, version, region=region)


def test_versions_are_listed_in_order_with_server_and_compiler():
    table = containers.versions(TGI)
    assert list(table.index)[-3:] == ["0.0.28", "0.2.0", "0.3.0"]
    assert "0.0.26" not in table.index
    assert table.loc["0.0.22", "server"] == "TGI 2.0.2"
    assert table.loc["0.0.22", "compiler"] == "2.13.66.0"
    assert table.loc["0.0.16", "server"] == "TGI 1.0.2 to 1.4.x"
    assert table["tag"].str.endswith("-neuronx-py310-ubuntu22.04").all()
    assert "0.4.4" in containers.versions(VLLM).index


def test_a_version_the_sdk_learns_later_is_listed_without_invented_facts(monkeypatch):
    monkeypatch.delitem(CONTRACTS, (VLLM, "0.4.4"))
    assert containers.versions(VLLM).loc["0.4.4", "server"] == "not collected"


def test_the_regions_are_those_that_offer_image_and_machine():
    tgi, vllm = containers.regions(TGI, "0.0.22"), containers.regions(VLLM, "0.4.4")
    assert list(tgi.index) == sorted(containers.INF2_48XLARGE_REGIONS)
    assert len(vllm) == 11
    assert set(vllm.index) < set(tgi.index)
    assert set(tgi["registry account"]) == {"763104351884"}


def test_the_successors_end_with_vllm():
    assert VLLM in containers.successors()["container"].iloc[-1]


def test_importing_the_module_does_not_import_the_sdk():
    code = "import sys, helpers.containers; sys.exit('sagemaker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
