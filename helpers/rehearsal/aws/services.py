"""S3, STS, IAM, CloudWatch Logs and the rest: moto, behind the same port.

moto is not thread-safe and slow to import, so one thread of its own imports it, seeds it and runs
it: what was written before is there for whoever asks afterwards.
"""

import asyncio
import base64
import contextlib
import datetime as datetimes
import hashlib
import io
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from helpers import hub
from helpers.rehearsal.aws import identities, mends, policies, principals, simulation
from helpers.rehearsal.aws.awsjson import REGION, AwsError
from helpers.rehearsal.aws.writeahead import WriteAhead
from helpers.rehearsal.hub import UNGRANTED_TOKEN
from helpers.rehearsal.server import Answer, Request
from helpers.rehearsal.state import KEPT_TOKEN

log = logging.getLogger(__name__)

ROLE = identities.ROLE
# Of the administrator, whom nothing is denied.
ACCESS_KEY = identities.IDENTITIES["admin"].key
SECRET_KEY = identities.SECRET_KEY
SESSION_TOKEN = identities.SESSION_TOKEN

# moto's own doors: its reset would empty the account, its metadata service hand out credentials.
_CLOSED = ("/moto-api", "/latest/", "/favicon.ico", "/v20180820/")
# By the name they sign with. moto plays many more, some with made-up successes.
OFFERED = (
    "events",
    "iam",
    "logs",
    "monitoring",
    "s3",
    "scheduler",
    "sts",
    "tagging",
)
_SEEDED_S = 1_700_000_000.0  # the account is older than any rehearsal
# How the names of operations begin that change nothing.
_READING = ("Get", "List", "Describe", "Head", "Lookup", "Search", "Filter", "Simulate", "Test")
# Names of headers and parameters that are secret, or tell one.
_SECRET = re.compile("authorization|signature|token|cookie|customer-key|mfa", re.IGNORECASE)
_SCHEDULE = re.compile("/schedules/([0-9a-zA-Z-_.]+)")
_CREDENTIAL = re.compile(r"Credential=([^,\s]+)")
_TOKEN = re.compile(f"(?!{UNGRANTED_TOKEN}){hub.TOKEN}".encode())


class Services:
    """The AWS services that moto plays, and the way containers write logs and metrics.

    With a journal, what they hold survives a restart: every request that changes something is kept
    with its moment and the seed of moto's chance, and carried out again, so that stamps, ids and
    keys are the same afterwards. Tokens of the Hub's are not kept: a placeholder as long is. Nor
    are the metrics of endpoints, which would fill the journal by themselves.

    Args:
        account: Twelve digits.
        journal: Where changes are kept; None keeps nothing.
        clock: What moto takes for the time, in epoch seconds.
    """

    def __init__(
        self,
        account: str,
        journal: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ):
        self._account = account
        self._clock = clock
        self._journal = WriteAhead(journal)
        self._directory = principals.Directory()
        self._secrets: dict[str, tuple[str, str | None]] = identities.SECRETS
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="moto")
        self._app: Any = None
        self._ready = self._thread.submit(self._open)

    def wait(self) -> None:
        """Wait until moto is there and knows again what it knew.

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
        if service == "monitoring" and b"ExtendedStatistics" in request.body:
            # moto leaves them out without a word.
            message = "The rehearsal AWS has percentiles in GetMetricData only, e.g. Stat=p99."
            return _error(request, 400, "InvalidParameterCombination", message)
        if service == "iam" and _operation(request) == simulation.OPERATION:
            try:
                now = policies.now(self._clock())
                return simulation.answer(request, self._directory, now=now)
            except AwsError as error:
                return refusal(request, error)
        return await asyncio.wrap_future(self.submit(request))

    def submit(self, request: Request) -> Future[Answer]:
        """Let moto answer a request, in its turn; for whoever need not wait."""
        return self._thread.submit(self._answer, request)

    def ask(self, question: Callable[..., Any], *args: Any) -> Future[Any]:
        """Ask something in moto's thread, where alone its state may be looked at."""
        return self._thread.submit(question, *args)

    def write(
        self, group: str, stream: str, lines: list[tuple[float, str]], *, region: str
    ) -> None:
        """Append lines (epoch second, text) to a CloudWatch log stream, without tokens."""
        lines = [(at_s, hub.redact(text)) for at_s, text in lines]
        self._thread.submit(self._do, "write", [group, stream, lines, region])

    def put_metrics(self, region: str, namespace: str, data: list[dict[str, Any]]) -> None:
        """Put data into CloudWatch; they are gone after a restart.

        Args:
            region: Where.
            namespace: E.g. `AWS/SageMaker`.
            data: As PutMetricData's `MetricData`, with `Timestamp` in epoch seconds of AWS time.
        """
        self._thread.submit(self._do, "put_metrics", [region, namespace, data], keep=False)

    @property
    def directory(self) -> principals.Directory:
        """Who there is in the account, and what their policies say."""
        return self._directory

    def secret(self, access_key: str) -> tuple[str, str | None] | None:
        """Secret and session token of an access key; None when nobody was given it."""
        return self._secrets.get(access_key)

    def close(self) -> None:
        """Let the thread end, when it has done what it was given."""
        self._thread.submit(self._journal.close)
        self._thread.shutdown(wait=False)

    # --- in moto's thread

    def _open(self) -> None:
        from moto.moto_api._internal import moto_api_backend
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        moto_api_backend.reset()  # moto's state is the process's: nothing of an earlier one's
        _take_over_time_and_chance()
        mends.mend_cloudwatch()
        mends.mend_iam()
        mends.mend_scheduler()
        self._app = DomainDispatcherApplication(create_backend_app)
        with _moment(_SEEDED_S, 0):
            identities.seed(self._account, REGION)
        for change in self._journal.replay():
            try:
                self._carry_out(**change)
            except Exception:
                log.exception("A change in the journal could not be carried out again.")
        self._learn()

    def _do(self, what: str, given: list[Any], *, keep: bool = True) -> None:
        """Carry out a change and keep it."""
        change = {"at": self._clock(), "seed": secrets.randbits(63), "what": what, "given": given}
        try:
            self._carry_out(**change)
        except Exception:  # nobody waits for it who could be told
            log.exception("moto could not %s.", what)
        else:
            if keep:
                self._journal.append(change)

    def _carry_out(self, at: float, seed: int, what: str, given: list[Any]) -> None:
        with _moment(at, seed):
            getattr(self, f"_{what}")(*given)

    def _answer(self, request: Request) -> Answer:
        at, seed = self._clock(), secrets.randbits(63)
        with _moment(at, seed):
            answer = self._call(request)
            if not changes(request) or answer.status >= 300:
                return answer
            self._after(request)
        given = [_kept(request)]
        self._journal.append({"at": at, "seed": seed, "what": "again", "given": given})
        return answer

    def _again(self, kept: dict[str, Any]) -> None:
        request = _restored(kept)
        answer = self._call(request)
        if answer.status >= 300:
            log.error("%s %s failed after a restart.", request.method, request.path[:200])
        self._after(request)

    def _after(self, request: Request) -> None:
        """What moto leaves out."""
        if request.service in ("iam", "sts"):
            self._learn()
        elif request.service == "scheduler" and written_schedule(request):
            self._complete_schedule(request)

    def _learn(self) -> None:
        """Who there is now, and which keys they have."""
        self._directory = principals.read(self._account)
        self._learn_secrets()

    def _learn_secrets(self) -> None:
        from moto.iam.models import iam_backends
        from moto.sts.models import sts_backends

        known: dict[str, tuple[str, str | None]] = {}
        for account in iam_backends.values():
            for key in account["aws"].access_keys.values():
                if key.status == "Active":
                    known[key.access_key_id] = (key.secret_access_key, None)
        for account in sts_backends.values():
            for role in account["aws"].assumed_roles:
                known[role.access_key_id] = (role.secret_access_key, role.session_token)
        self._secrets = known | identities.SECRETS

    def _complete_schedule(self, request: Request) -> None:
        """What is left out has its default, also in UpdateSchedule: it replaces all there was."""
        from moto.scheduler.models import scheduler_backends

        given = json.loads(request.body)
        backend = scheduler_backends[self._account][request.region]
        group = given.get("GroupName")
        schedule = backend.get_schedule(group, request.path.rpartition("/")[2])
        schedule.state = given.get("State", "ENABLED")
        schedule.action_after_completion = given.get("ActionAfterCompletion", "NONE")

    def _write(self, group: str, stream: str, lines: list[tuple[float, str]], region: str) -> None:
        from moto.logs.models import logs_backends

        backend = logs_backends[self._account][region]
        backend.ensure_log_group(group)
        backend.ensure_log_stream(group, stream)
        # Past the backend's own check: it refuses stamps ahead of real time, as AWS time is.
        backend.groups[group].put_log_events(
            stream, [{"timestamp": int(at_s * 1000), "message": text} for at_s, text in lines]
        )

    def _put_metrics(self, region: str, namespace: str, data: list[dict[str, Any]]) -> None:
        from moto.cloudwatch.models import cloudwatch_backends

        data = [{**one, "Timestamp": _naive(one["Timestamp"])} for one in data]
        backend = cloudwatch_backends[self._account][region]
        backend.put_metric_data(namespace, data)
        mends.forget_old_data(backend)

    def _call(self, request: Request) -> Answer:
        answered: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status, headers, exc_info=None):
            answered.append((status, headers))
            return io.BytesIO().write

        try:
            parts = self._app(_environ(request), start_response)
            body = b"".join(parts)
        except Exception as error:
            kind = type(error).__name__
            log.warning("moto could not answer %s %s: %s", request.method, request.path[:200], kind)
            log.debug("Where it failed:", exc_info=True)
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


def refusal(request: Request, error: AwsError) -> Answer:
    """An error in the protocol of the request."""
    return _error(request, error.status, error.code, str(error))


def _error(request: Request, status: int, code: str, message: str) -> Answer:
    """An error in the protocol of the request: XML for form requests and S3, else JSON."""
    kind = request.headers.get("content-type", "")
    posted = request.path == "/" and "x-amz-target" not in request.headers
    form = posted and kind.startswith("application/x-www-form-urlencoded")
    if form or request.service == "s3" or "Signature=" in request.query:
        error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        body = f"<ErrorResponse>{error}</ErrorResponse>" if form else error
        return Answer(status, {"Content-Type": "text/xml"}, body.encode())
    headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": code}
    return Answer(status, headers, json.dumps({"__type": code, "message": message}).encode())


def written_schedule(request: Request) -> str | None:
    """The name of the schedule that a request creates or updates, None when it does neither."""
    match = _SCHEDULE.fullmatch(request.path)
    return match[1] if match and request.method in ("POST", "PUT") else None


# --- what is kept of a request


def changes(request: Request) -> bool:
    """Whether a request may change something."""
    operation = _operation(request)
    if operation is None:
        return request.method not in ("GET", "HEAD", "OPTIONS")
    return not operation.startswith(_READING)


def _operation(request: Request) -> str | None:
    """The operation's name, where the protocol has it beside the path."""
    if target := request.headers.get("x-amz-target"):
        return target.rpartition(".")[2]
    if request.service in ("iam", "monitoring", "sts"):  # the Query protocol
        given = parse_qs(request.query) | parse_qs(request.body.decode("latin-1"))
        return given.get("Action", [None])[0]
    return None


def _kept(request: Request) -> dict[str, Any]:
    """A request as JSON, without secrets: whose key signed it stays, the signature does not."""
    scope = _CREDENTIAL.search(request.headers.get("authorization", ""))
    parameters = request.query.split("&")
    query = "&".join(one for one in parameters if not _SECRET.search(one.partition("=")[0]))
    headers = {
        name: _without_tokens(value)
        for name, value in request.headers.items()
        if not _SECRET.search(name)
    }
    body = without_tokens(request.body)
    if body != request.body:  # its checksums are wrong now; moto wants one for some operations
        headers = {name: headers[name] for name in headers if "checksum" not in name}
        headers["content-md5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
    return {
        "method": request.method,
        "path": _without_tokens(request.path),
        "query": _without_tokens(query),
        "headers": headers,
        "scope": scope[1] if scope else None,
        "body": base64.b64encode(body).decode(),
    }


def without_tokens(data: bytes) -> bytes:
    """The same with a placeholder for each token of the Hub's, as long, so that lengths hold."""
    return _TOKEN.sub(lambda match: _placeholder(len(match[0])), data)


def _without_tokens(text: str) -> str:
    return without_tokens(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _placeholder(length: int) -> bytes:
    return KEPT_TOKEN[:length].ljust(length, "_").encode()


def _restored(kept: dict[str, Any]) -> Request:
    headers = dict(kept["headers"])
    if kept["scope"]:
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={kept['scope']}, Signature=0"
    body = base64.b64decode(kept["body"])
    return Request(kept["method"], kept["path"], kept["query"], headers, body)


# --- moto's time and chance

_now_s: float | None = None


@contextlib.contextmanager
def _moment(at: float, seed: int) -> Iterator[None]:
    """Let moto do something at a time and with a seed: it can be done again in the same way."""
    global _now_s
    from moto.moto_api._internal import mock_random

    mock_random.seed(seed)
    _now_s = at
    try:
        yield
    finally:
        _now_s = None


def _utcnow() -> datetime:
    return _naive(time.time() if _now_s is None else _now_s)


def _naive(epoch_s: float) -> datetime:
    """A time as moto has it: UTC, and not saying so."""
    return datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None)


class _Datetime(datetime):
    @classmethod
    def now(cls, tz=None):
        return _utcnow().replace(tzinfo=UTC).astimezone(tz)


def _take_over_time_and_chance() -> None:
    """Make moto ask here what time it is, and its seeded generator for all that is random."""
    import moto.core.utils
    import moto.s3.models
    import moto.sts.utils
    from moto.moto_api._internal import mock_random

    for module in list(sys.modules.values()):  # those to come take it from moto.core.utils
        if getattr(module, "__name__", "").startswith("moto.") and hasattr(module, "utcnow"):
            module.utcnow = _utcnow
    chance = SimpleNamespace(urandom=mock_random.randbytes)
    moto.sts.utils.os = moto.s3.models.os = chance
    moto.s3.models.datetime = SimpleNamespace(**{**vars(datetimes), "datetime": _Datetime})
