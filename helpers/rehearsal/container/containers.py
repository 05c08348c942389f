"""What runs behind an endpoint, once for all its requests."""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from helpers import contracts, twin
from helpers.clock import Clock
from helpers.rehearsal.aws.endpoints import Deployment
from helpers.rehearsal.container import wire
from helpers.rehearsal.container.replicas import Replica
from helpers.rehearsal.container.validation import Refused

if TYPE_CHECKING:
    from helpers.rehearsal.container.calls import Call


@dataclass(eq=False)
class Container:
    """One production variant's container, on as many machines as the endpoint has.

    Attributes:
        contract: What its version reads and refuses.
        shape: What it serves.
        dialect: How it answers.
        timing: How fast one machine is.
        running: Requests under way.
        load: How many of them each replica has.
    """

    contract: contracts.Contract
    shape: contracts.Shape
    dialect: wire.Dialect
    timing: twin.Timing
    running: set["Call"] = field(default_factory=set)
    load: Counter[int] = field(default_factory=Counter)
    _replicas: dict[int, Replica] = field(default_factory=dict)

    @classmethod
    def of(cls, deployment: Deployment) -> "Container":
        """What the deployment's image and environment make of it."""
        contract = contracts.contract_for_image(deployment.image)
        env, loaded = deployment.env, deployment.model_id
        if loaded:  # from S3, under its folder's name; the cache knows it by its architecture
            env = {**env, contract.model_variable: loaded}
        shape = contracts.shape(contract, env)
        timing = twin.timing(
            shape.model_id or "",
            instance_type=deployment.instance_type,
            batch_size=shape.batch_size,
            sequence_length=shape.sequence_length,
        )
        if loaded:
            served = deployment.env.get("SM_ON_SERVED_MODEL_NAME")
            served = served or deployment.env.get(contract.model_variable)
            shape = replace(shape, model_id=served)
        return cls(contract, shape, wire.dialect(contract.dialect), timing)

    @property
    def version(self) -> str:
        """Of the server inside, e.g. `2.0.2`."""
        return self.contract.server.split()[-1]

    def check_load(self, number: int) -> None:
        """Refuse what a replica has no room for.

        Raises:
            Refused: In TGI's words; vLLM queues without a limit.
        """
        limit = self.shape.max_concurrent_requests
        if self.dialect.reply_error == "tgi" and self.load[number] >= limit:
            raise Refused(429, "Model is overloaded", "overloaded")

    def replica(self, number: int, clock: Clock) -> Replica:
        """The machine of that number.

        One that has nothing left to do is let go of: a new one would be just like it, and an
        endpoint that has become smaller keeps none too many.
        """
        if number not in self._replicas:
            idle = partial(self._replicas.pop, number)
            self._replicas[number] = Replica(self.timing, clock, idle=idle)
        return self._replicas[number]
