"""Hugging Face's Neuron containers: which versions there are, and where their images lie."""

import pandas as pd

from helpers import sdk
from helpers.contracts import CONTRACTS, REPOSITORIES, TGI, VLLM
from helpers.errors import ContainerError

# 0.0.16 to 0.0.21 can be looked up; what they read was not collected.
_BEFORE_0_0_22 = {"server": "TGI 1.0.2 to 1.4.x", "compiler": "2.11 to 2.13"}


def image_uri(framework: str, version: str, *, region: str) -> str:
    """Image of a container version in a region; needs no network and no credentials.

    Args:
        framework: `huggingface-llm-neuronx` (TGI) or `huggingface-vllm-neuronx` (vLLM).
        version: The SDK's version, e.g. `0.0.22`.
        region: AWS region.

    Raises:
        ContainerError: When there is no such framework or version, or not in that region.
    """
    check_offered(framework, version, region=region)
    # Without inference_tool, or with an instance type, the SDK silently gives a tag that does
    # not exist (`…-inf2-py310…`); for vLLM an instance type raises.
    image_uris = sdk.sagemaker_core("image_uris")
    with sdk.quiet():
        return image_uris.retrieve(
            framework,
            region=region,
            version=version,
            image_scope="inference",
            inference_tool="neuronx" if framework == TGI else None,
        )


def check_offered(framework: str, version: str, *, region: str) -> None:
    """Refuse a container version that has no image in a region; imports no SDK.

    Raises:
        ContainerError: When there is no such framework or version, or not in that region.
    """
    registries = _registries(framework, version)
    if region not in registries:
        raise ContainerError(
            f"{framework} {version} is not offered in {region}: "
            f"choose one of {', '.join(sorted(registries))}."
        )


def versions(framework: str) -> pd.DataFrame:
    """Versions the installed SDK knows: image tag, server, and compiler, oldest first.

    Raises:
        ContainerError: When there is no such framework.
    """
    rows = []
    for version in _known_versions(framework):
        registries = _registries(framework, version)
        region = "us-east-1" if "us-east-1" in registries else sorted(registries)[0]
        uri = image_uri(framework, version, region=region)
        contract = CONTRACTS.get((framework, version))
        facts = vars(contract) if contract else _BEFORE_0_0_22
        if not contract and framework != TGI:
            facts = {"server": "not collected", "compiler": "not collected"}
        rows.append(
            {
                "version": version,
                "tag": uri.partition(":")[2],
                "server": facts["server"],
                "compiler": facts["compiler"],
            }
        )
    return pd.DataFrame(rows).set_index("version")


# Where EC2 offers inf2.48xlarge (EC2's instance types by region, 2026-08). SageMaker's own list may
# be shorter [unverified].
INF2_48XLARGE_REGIONS = (
    "us-east-1",
    "us-east-2",
    "us-west-2",
    "sa-east-1",
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "ap-northeast-1",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
)


def regions(framework: str, version: str) -> pd.DataFrame:
    """Regions that offer the image and EC2's inf2.48xlarge, with the registry's account, sorted.

    Raises:
        ContainerError: When there is no such framework or version.
    """
    registries = _registries(framework, version)
    both = sorted(region for region in registries if region in INF2_48XLARGE_REGIONS)
    accounts = [registries[region] for region in both]
    return pd.DataFrame({"region": both, "registry account": accounts}).set_index("region")


def successors() -> pd.DataFrame:
    """What came after container 0.0.22, and what has to change to use it."""
    rows = (
        (
            f"{TGI} 0.0.22",
            "the original guide (2024-05)",
            "HF_BATCH_SIZE and HF_SEQUENCE_LENGTH set the static shape",
        ),
        (
            f"{TGI} 0.0.23 to 0.0.25",
            "stop sequences are honored",
            "MAX_BATCH_SIZE and MAX_TOTAL_TOKENS set the shape, the HF_* two are ignored",
        ),
        (
            f"{TGI} 0.0.27, 0.0.28",
            "real token usage, [DONE], no MESSAGES_API_ENABLED",
            "exact cache match as before; there is no 0.0.26",
        ),
        (
            f"{TGI} 0.2.0",
            "TGI 3.3.4",
            "a larger cached shape matches too: ask for batch 4 and it may load 8",
        ),
        (
            f"{TGI} 0.3.0",
            "the last one, what you get when you name no version",
            "MODEL_ID instead of HF_MODEL_ID, MAX_INPUT_TOKENS instead of MAX_INPUT_LENGTH",
        ),
        (
            f"{VLLM} 0.4.4",
            "the successor: TGI is in maintenance since December 2025",
            "SM_ON_* variables, an inference AMI with a newer driver, 11 regions",
        ),
    )
    return pd.DataFrame(rows, columns=["container", "what is new", "what changes for you"])


def _sdk_config(framework: str) -> dict:
    if framework not in REPOSITORIES:
        raise ContainerError(
            f"Unknown framework {framework!r}: choose `{TGI}` (TGI) or `{VLLM}` (vLLM)."
        )
    config = sdk.image_uri_config(framework)
    return config.get("inference", config)["versions"]


def _known_versions(framework: str) -> list[str]:
    known = _sdk_config(framework)
    return sorted(known, key=lambda version: [int(part) for part in version.split(".")])


def _registries(framework: str, version: str) -> dict[str, str]:
    known = _sdk_config(framework)
    if version not in known:
        raise ContainerError(
            f"There is no {framework} {version}: choose one of "
            f"{', '.join(_known_versions(framework))}."
        )
    return known[version]["registries"]
