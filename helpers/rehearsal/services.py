"""S3, STS, IAM, CloudWatch Logs and the rest: moto, behind the same port.

moto is not thread-safe and slow to import, so one thread of its own imports it, seeds it and runs
it: what was written before is there for whoever asks afterwards.
"""

import asyncio
import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from helpers.rehearsal.server import Answer, Request

log = logging.getLogger(__name__)

ROLE = "workshop-execution-role"
SESSION = "rehearsal"
# Right in form (20 capitals and digits, ASIA for temporary), so that every SDK takes them, and
# plainly no secret.
ACCESS_KEY = "ASIAREHEARSAL0000000"
SECRET_KEY = "rehearsal-secret-that-opens-nothing"
SESSION_TOKEN = "rehearsal-token-that-opens-nothing"

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
_EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sagemaker:*", "Resource": "*"}],
}
# moto's own doors: its reset would empty the account, its metadata service hand out credentials.
_CLOSED = ("/moto-api", "/latest/", "/favicon.ico")
# By the name they sign with. moto plays many more, some with made-up successes.
OFFERED = (
    "application-autoscaling",
    "events",
    "iam",
    "logs",
    "monitoring",
    "s3",
    "scheduler",
    "sts",
    "tagging",
)


class Services:
    """The AWS services that moto plays, and the way containers write their log.

    Args:
        account: Twelve digits.
    """

    def __init__(self, *, account: str):
        self._account = account
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="moto")
        self._app: Any = None
        self._ready = self._thread.submit(self._open)

    def wait(self) -> None:
        """Wait until moto is there.

        Raises:
            Exception: Whatever kept it from loading.
        """
        self._ready.result()

    async def answer(self, request: Request) -> Answer:
        """Let moto answer a request."""
        service = request.service
        if unquote(request.path).startswith(_CLOSED) or service not in (None, *OFFERED):
            what = f"{service or 'an unsigned'} {request.method} {request.path[:100]}"
            offered = ", ".join(OFFERED)
            message = f"The rehearsal AWS does not offer {what}; besides SageMaker: {offered}."
            return _error(request, 404, "UnknownOperationException", message)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._call, request)

    def write(
        self, group: str, stream: str, lines: list[tuple[float, str]], *, region: str
    ) -> None:
        """Append lines (epoch second, text) to a CloudWatch log stream."""
        self._thread.submit(self._write, group, stream, lines, region)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- in moto's thread

    def _open(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._seed()

    def _seed(self) -> None:
        from moto.iam.models import iam_backends
        from moto.sts.models import AssumedRole, sts_backends

        iam = iam_backends[self._account]["aws"]
        role = iam.create_role(ROLE, json.dumps(_TRUST), "/", None, "rehearsal", [], "3600")
        policy = iam.create_policy("rehearsal", "/", json.dumps(_EVERYTHING), "WorkshopAccess", [])
        iam.attach_role_policy(policy.arn, role.name)
        key = SimpleNamespace(access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)
        assumed = AssumedRole(
            account_id=self._account,
            region_name="us-east-1",
            access_key=key,
            role_session_name=SESSION,
            role_arn=role.arn,
            policy=None,
            duration=3600,
            external_id=None,
        )
        sts_backends[self._account]["aws"].assumed_roles.append(assumed)

    def _write(self, group: str, stream: str, lines: list[tuple[float, str]], region: str) -> None:
        from moto.logs.models import logs_backends

        backend = logs_backends[self._account][region]
        backend.ensure_log_group(group)
        backend.ensure_log_stream(group, stream)
        # Past the backend's own check: it refuses stamps ahead of real time, as AWS time is.
        backend.groups[group].put_log_events(
            stream, [{"timestamp": int(at_s * 1000), "message": text} for at_s, text in lines]
        )

    def _call(self, request: Request) -> Answer:
        answered: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status, headers, exc_info=None):
            answered.append((status, headers))
            return io.BytesIO().write

        try:
            parts = self._app(_environ(request), start_response)
            body = b"".join(parts)
        except Exception as error:
            log.exception("moto could not answer %s %s.", request.method, request.path[:200])
            kind = type(error).__name__
            message = f"The rehearsal AWS cannot do this: {kind}."
            return _error(request, 501, "NotImplemented", message)
        status, headers = answered[-1]
        return Answer(int(status.split()[0]), dict(headers), body)


def _environ(request: Request) -> dict[str, Any]:
    """The request as WSGI wants it."""
    from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY, environ_key_for_header

    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(request.path, "latin-1"),
        "RAW_URI": f"{request.path}?{request.query}" if request.query else request.path,
        "QUERY_STRING": request.query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        if name != "transfer-encoding":
            environ[environ_key_for_header(name)] = value
    environ["CONTENT_LENGTH"] = str(len(request.body))
    # WSGI cannot tell x_y from x-y, S3 metadata can: moto asks here.
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = {
        environ_key_for_header(name): name for name in request.headers if "_" in name
    }
    return environ


def _error(request: Request, status: int, code: str, message: str) -> Answer:
    """An error in the protocol of the request: XML for form requests and S3, else JSON."""
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    if form or request.service == "s3":
        error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        body = f"<ErrorResponse>{error}</ErrorResponse>" if form else error
        return Answer(status, {"Content-Type": "text/xml"}, body.encode())
    headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": code}
    return Answer(status, headers, json.dumps({"__type": code, "message": message}).encode())
