"""AWS's JSON protocol: every request and every answer is held against botocore's service model.

One `Service` is one AWS service. What its operations need not check any more: unknown members,
missing ones, types, ranges, patterns and enumerations.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from botocore.model import OperationNotFoundError, ServiceModel, Shape

from helpers.rehearsal import strictjson
from helpers.rehearsal.aws import shapes
from helpers.rehearsal.server import Answer

log = logging.getLogger(__name__)

ACCOUNT = "123456789012"
REGION = "us-east-1"
CONTENT_TYPE = "application/x-amz-json-1.1"

Operation = Callable[[dict[str, Any], str], dict[str, Any] | None]


class AwsError(Exception):
    """An error in AWS's code and words."""

    def __init__(self, code: str, message: str, *, status: int = 400):
        super().__init__(message)
        self.code = code
        self.status = status

    def answer(self) -> Answer:
        """The error as JSON protocols carry it."""
        body = {"__type": self.code, "message": str(self), "Message": str(self)}
        headers = {"Content-Type": CONTENT_TYPE, "x-amzn-ErrorType": self.code}
        return Answer(self.status, headers, json.dumps(body).encode())


def invalid(message: str) -> AwsError:
    """The error of a request that is well-formed and cannot be carried out."""
    return AwsError("ValidationException", message)


def timestamp(epoch_s: float) -> float:
    """An AWS time as JSON protocols carry it."""
    return round(epoch_s, 3)


class Service:
    """The operations of one AWS service that the rehearsal carries out.

    Args:
        model: botocore's service model.
        operations: What carries out each, from the request's members and its region.
        advance: Lets happen what is due, before anything is answered.
    """

    def __init__(
        self,
        model: ServiceModel,
        operations: Mapping[str, Operation],
        *,
        advance: Callable[[], None] = lambda: None,
    ):
        self._model = model
        self._advance = advance
        self.operations = dict(operations)

    @property
    def target_prefix(self) -> str:
        """What `X-Amz-Target` begins with, e.g. `SageMaker`."""
        return self._model.metadata["targetPrefix"]

    @property
    def signing_name(self) -> str:
        """What requests are signed for, e.g. `sagemaker`."""
        return self._model.signing_name

    @property
    def name(self) -> str:
        """What botocore calls the service, e.g. `service-quotas`."""
        return self._model.service_name

    def answer(self, operation: str, body: bytes, *, region: str = REGION) -> Answer:
        """Carry out one operation.

        Args:
            operation: Name without the target prefix.
            body: The request's JSON.
            region: From the request's signature.
        """
        try:
            handle, model = self._operation(operation)
            given = parse(body)
            validate(model.input_shape, given)
            self._advance()
            result = handle(given, region)
        except AwsError as error:
            return error.answer()
        return _answer(operation, model.output_shape, result)

    def _operation(self, name: str):
        service = self._model.metadata.get("serviceId", self.name)
        try:
            model = self._model.operation_model(name)
        except OperationNotFoundError:
            raise AwsError("UnknownOperationException", f"{service} has no {name[:100]}.") from None
        if name not in self.operations:
            offered = ", ".join(self.operations)
            message = f"The rehearsal AWS does not offer {service}'s {name}; it offers {offered}."
            raise AwsError("UnknownOperationException", message)
        return self.operations[name], model


def parse(body: bytes) -> dict[str, Any]:
    """The members of a request, without those that are null.

    Raises:
        AwsError: When the body is not a JSON object.
    """
    try:
        given = strictjson.parse(body or b"{}")
    except ValueError:
        raise AwsError("SerializationException", "The request body is not JSON.") from None
    if not isinstance(given, dict):
        raise AwsError("SerializationException", "Start of structure or map expected.")
    return shapes.without_nulls(given)


def validate(shape: Shape | None, given: dict[str, Any]) -> None:
    """Hold a request against the service model.

    Raises:
        AwsError: With everything that is wrong with it.
    """
    try:
        found = shapes.problems(shape, given)
    except shapes.WrongType as error:
        raise AwsError("SerializationException", str(error)) from None
    if found:
        raise invalid(shapes.validation_message(found))


def _answer(operation: str, shape, result: dict[str, Any] | None) -> Answer:
    headers = {"Content-Type": CONTENT_TYPE}
    if shape is None:
        return Answer(200, headers)
    try:
        found = shapes.problems(shape, result or {})
    except shapes.WrongType as error:
        found = [str(error)]
    if found:
        log.error("%s would answer against the service model: %s", operation, found)
        message = f"The rehearsal AWS has a defect in {operation}: {found[0]}"
        return AwsError("InternalFailure", message, status=500).answer()
    return Answer(200, headers, json.dumps(result or {}).encode())
