"""What the machines are and what they cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.errors import WorkshopError

if TYPE_CHECKING:  # else imported where a table is made: the rehearsal's server makes none
    import pandas as pd

SPECIFICATION_SOURCE = "aws-neuron/aws-neuron-sdk, about-neuron/arch/neuron-hardware"
PRICE_DATE = "us-east-1, April 2025"
PRICE_SOURCE = f"{PRICE_DATE}, aws-samples/foundation-model-benchmarking-tool, configs/pricing*.yml"


@dataclass(frozen=True)
class Instance:
    """One instance type with Neuron cores.

    Attributes:
        name: SageMaker's name, e.g. `ml.inf2.48xlarge`; EC2's is the same without `ml.`.
        chips: Inferentia2 or Trainium chips.
        cores: Neuron cores, two a chip.
        hbm_gib: Memory on the chips.
        bandwidth_gb_s: Bandwidth of that memory, GB/s.
        bf16_tflops: Dense bf16 compute.
        ec2_price_per_hour: On demand, $.
        price_per_hour: As a SageMaker real-time endpoint, $.
        quota_code: Service Quotas' code of "… for endpoint usage", service code `sagemaker`.
        source: Where the specification and the prices come from, with the prices' date.
    """

    name: str
    chips: int
    cores: int
    hbm_gib: int
    bandwidth_gb_s: int
    bf16_tflops: int
    ec2_price_per_hour: float
    price_per_hour: float
    quota_code: str = ""
    source: str = f"{SPECIFICATION_SOURCE}; {PRICE_SOURCE}"


# Bandwidth: Neuron's documentation writes 820 GiB/s a chip today; its version 2.9.1 (2023,
# neuron-hardware/inferentia2.rst) wrote the same figure as GB/s, and AWS announced 9.8 TB/s for the
# twelve of an inf2.48xlarge [quoted by others]. 9,840 GiB/s would be 10.6, so GB/s it is.
INSTANCES: dict[str, Instance] = {
    instance.name: instance
    for instance in (
        Instance("ml.inf2.xlarge", 1, 2, 32, 820, 190, 0.758, 0.99, "L-C8AB7CDA"),
        Instance("ml.inf2.8xlarge", 1, 2, 32, 820, 190, 1.968, 2.36, "L-F761337C"),
        Instance("ml.inf2.24xlarge", 6, 12, 192, 4_920, 1_140, 6.49, 7.79, "L-9C39178F"),
        Instance("ml.inf2.48xlarge", 12, 24, 384, 9_840, 2_280, 12.98, 15.58, "L-286C98BC"),
        Instance("ml.trn1.32xlarge", 16, 32, 512, 13_120, 3_040, 21.50, 28.50),
    )
}


def instances() -> "pd.DataFrame":
    """The instance table, one row a type, units in the headers."""
    import pandas as pd

    rows = [
        {
            "instance": instance.name.removeprefix("ml."),
            "chips": instance.chips,
            "Neuron cores": instance.cores,
            "HBM (GiB)": instance.hbm_gib,
            "bandwidth (GB/s)": instance.bandwidth_gb_s,
            "bf16 (TFLOPS)": instance.bf16_tflops,
            "EC2 ($/h)": instance.ec2_price_per_hour,
            "SageMaker endpoint ($/h)": instance.price_per_hour,
        }
        for instance in INSTANCES.values()
    ]
    return pd.DataFrame(rows).set_index("instance")


def instance(instance_type: str) -> Instance:
    """An instance type's specification and prices; `inf2.xlarge` works as well.

    Raises:
        WorkshopError: When the table has no such type.
    """
    if not isinstance(instance_type, str):
        raise WorkshopError(
            f"An instance type is a name such as 'ml.inf2.48xlarge', not {instance_type!r}."
        )
    name = "ml." + instance_type.removeprefix("ml.")
    if name not in INSTANCES:
        raise WorkshopError(
            f"No specification of {name!r}: use one of {', '.join(INSTANCES)}, or add it to "
            "helpers/costs.py with source and date."
        )
    return INSTANCES[name]


def price_per_hour(instance_type: str) -> float:
    """$ an hour for one instance as a SageMaker endpoint; `inf2.xlarge` works as well.

    Raises:
        WorkshopError: When the table has no such type.
    """
    return instance(instance_type).price_per_hour


def cost(seconds: float, *, instance_type: str, instances: int = 1) -> float:
    """$ that an endpoint costs in so many seconds of AWS time.

    Raises:
        WorkshopError: When the table has no such type.
    """
    return max(0.0, seconds) / 3600 * price_per_hour(instance_type) * instances


def per_million_tokens(tokens_per_s: float, *, price_per_hour: float) -> float:
    """$ for a million output tokens at a steady rate; infinite when nothing comes out."""
    if tokens_per_s <= 0:
        return float("inf")
    return price_per_hour / 3600 / tokens_per_s * 1_000_000
