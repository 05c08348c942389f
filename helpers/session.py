"""One session: which AWS it is (the real one or the rehearsal), who asks, and for whom."""

import contextlib
import hashlib
import ipaddress
import json
import os
import platform
import re
import socket
import unicodedata
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pandas as pd
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from helpers import hub, settings, trust
from helpers.clock import Clock
from helpers.errors import RehearsalError, SessionError, SettingsError, WorkshopError
from helpers.settings import Settings

if TYPE_CHECKING:
    from helpers.rehearsal import launch

DEFAULT_REGION = "us-east-1"
STUDIO_METADATA = Path("/opt/ml/metadata/resource-metadata.json")
PARTICIPANT_LENGTH = 16
PACKAGES = ("boto3", "sagemaker-core", "huggingface_hub", "pandas", "matplotlib", "gradio")
DUMMY_HF_TOKEN = "hf_rehearsal"
# Roles that `iam/template.yaml` makes.
EXECUTION_ROLE = "inf2-workshop-execution"
SCHEDULER_ROLE = "inf2-workshop-scheduler"

_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_ASSUMED_ROLE = re.compile(r"arn:aws[a-z-]*:sts::\d{12}:assumed-role/([^/]+)/(.+)")
# Whatever of these is set, a client may leave loopback or use real credentials.
_REMOVED_PREFIXES = ("AWS_", "SAGEMAKER_")
# The address is replaced, not removed; the kind of app only says where Studio shows a port.
_NOT_REMOVED = ("AWS_ENDPOINT_URL", "SAGEMAKER_APP_TYPE_LOWERCASE")
_REMOVED = (
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


# --- The session ----------------------------------------------------------------------------


class Voice:
    """Says and shows things, each with a word that says what they are worth.

    Args:
        label: The word: `rehearsal`, `aws`, or what else was measured.
    """

    def __init__(self, label: str):
        self.label = label

    def say(self, text: str) -> None:
        """Print, with the label before every line."""
        for line in str(text).splitlines() or [""]:
            print(f"[{self.label}] {line}".rstrip(), flush=True)

    def say_measured(self, text: str) -> None:
        """Print figures that differ from run to run: the label stands behind every line."""
        for line in str(text).splitlines() or [""]:
            print(f"{line} [{self.label}]", flush=True)

    def table(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A copy of a table with the label in its corner."""
        frame = frame.copy()
        frame.columns.name = self.label
        return frame


@dataclass
class Session(Voice):
    """What every helper that talks to AWS is given.

    Attributes:
        settings: Where it runs and writes.
        region: AWS region.
        account: AWS account.
        identity: ARN of who asks.
        participant: Whose things these are; at most 16 letters, digits and hyphens.
        clock: AWS time.
        boto: boto3's session; clients come from `client`.
    """

    settings: Settings
    region: str
    account: str
    identity: str
    participant: str
    clock: Clock
    boto: boto3.Session = field(repr=False)
    _clients: dict[tuple, BaseClient] = field(default_factory=dict, init=False, repr=False)

    @property
    def target(self) -> str:
        """`rehearsal` or `aws`."""
        return self.settings.target

    @property
    def label(self) -> str:
        """The word that stands beside whatever this session says or shows."""
        return self.target

    @property
    def bucket(self) -> str:
        """Where weights are kept: WORKSHOP_BUCKET, else the bucket of `iam/template.yaml`."""
        return self.settings.bucket or f"inf2-workshop-{self.account}-{self.region}"

    @property
    def buckets(self) -> tuple[str, ...]:
        """Where weights may lie in this region: `bucket`, and wherever they were copied to."""
        copied_to = (name for name, region in self.settings.buckets if region == self.region)
        return tuple(dict.fromkeys((self.bucket, *copied_to)))

    def remember_bucket(self, bucket: str) -> None:
        """Let clean-up look into a bucket of this region too, also from other notebooks."""
        if bucket not in [name for name, _ in self.settings.buckets]:
            known = (*self.settings.buckets, (bucket, self.region))
            self.settings = replace(self.settings, buckets=known)
            settings.remember_bucket(self.settings.state_dir, self.target, bucket, self.region)

    @property
    def person(self) -> str:
        """The participant's name as it was given, where names of things have a shorter one."""
        given = self.settings.participant or _participant_of(self.identity)
        return given if _slug(given) == self.participant != given else ""

    def in_region(self, region: str) -> "Session":
        """The same session elsewhere: target, identity, participant and clock stay.

        Raises:
            SettingsError: When that is no region.
        """
        _check_region(region)
        if region == self.region:
            return self
        boto = _Boto(region_name=region, endpoint_url=self.boto.endpoint_url, like=self.boto)
        return replace(self, region=region, boto=boto)

    def move_to(self, region: str) -> None:
        """Go on in another region, with all that use this session; remembered for other notebooks.

        Raises:
            SettingsError: When that is no region.
        """
        there = self.in_region(region)
        if there is not self:
            self.settings = replace(self.settings, region=region)
            self.region, self.boto, self._clients = region, there.boto, there._clients
            settings.remember_region(self.settings.state_dir, self.target, region)

    def client(self, service: str, **config: Any) -> BaseClient:
        """A boto3 client, made once for each service and configuration.

        Args:
            service: boto3's name of the service.
            **config: Arguments of `botocore.config.Config`, e.g. `read_timeout`, `retries`.
        """
        key = (service, repr(sorted(config.items())))
        if key not in self._clients:
            defaults = {
                "retries": {"mode": "standard", "total_max_attempts": 5},
                "connect_timeout": 10,
                "read_timeout": 60,
            }
            self._clients[key] = self.boto.client(service, config=Config(**{**defaults, **config}))
        return self._clients[key]

    def describe(self) -> None:
        """Say where this session works, as whom and for whom."""
        if self.target == "rehearsal":
            self.say("Target: rehearsal. Everything is simulated, nothing here is measured.")
            self.say(f"Time: one second here is {self.clock.speed:g} seconds there.")
        else:
            self.say("Target: AWS. What you deploy is billed until you delete it.")
            if self.settings.target_remembered:
                self.say(
                    "Target aws was chosen in 01_environment_setup: set TARGET there to change it."
                )
        self.say(f"Region: {self.region}")
        self.say(f"Account: {self.account}")
        self.say(f"Identity: {self.identity}")
        self.say(f"Participant: {self.participant}")

    @contextlib.contextmanager
    def fault(self, name: str, **options: float) -> Iterator[None]:
        """Let something go wrong on purpose within a block; on AWS nothing does.

        Args:
            name: A fault of the rehearsal, e.g. `broken-stream`; an unknown one is answered with
                the list of those there are.
            **options: Its numbers, e.g. `tokens=10`.

        Raises:
            RehearsalError: When there is no such fault or option.
        """
        if self.target != "rehearsal":
            self.say(f"On AWS nothing goes wrong on purpose: no {name} here.")
            yield
            return
        from helpers.rehearsal import launch

        url = self.boto.endpoint_url
        try:
            launch.put_fault(url, name, options)
            yield
        finally:
            with contextlib.suppress(RehearsalError):  # it has ended, and its faults with it
                launch.end_fault(url, name)

    def versions(self) -> pd.DataFrame:
        """Versions of Python and of the packages that matter."""
        rows = {"Python": platform.python_version()}
        for package in PACKAGES:
            try:
                rows[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                rows[package] = "not installed"
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["version"])
        return frame.rename_axis(index="package")

    def role(self, role_arn: str | None = None) -> str:
        """ARN of the execution role: the one given, else the workshop's, else one's own.

        The workshop's is called `inf2-workshop-execution`; one's own is the role that this session
        runs as.

        Raises:
            SessionError: When there is none, or SageMaker may not assume it.
        """
        given = role_arn or self.settings.role_arn
        if given:
            return _checked_arn(given)
        workshops = self._role_named(EXECUTION_ROLE)
        if workshops and _trusts(workshops, "sagemaker"):
            return workshops["Arn"]
        assumed = _ASSUMED_ROLE.fullmatch(self.identity)
        if not assumed:
            raise SessionError(
                f"{self.identity} is not a role: set ROLE_ARN (or WORKSHOP_ROLE_ARN) to the ARN of "
                "a role that SageMaker may assume."
            )
        return self._role_of_identity(assumed[1])

    def scheduler_role(self) -> str:
        """ARN of the role with which EventBridge Scheduler deletes an endpoint whose time is up.

        The one given, else the workshop's (`inf2-workshop-scheduler`), else the execution role
        when the scheduler may assume it.

        Raises:
            SessionError: When there is none.
        """
        given = self.settings.scheduler_role_arn
        if given:
            return _checked_arn(given)
        workshops = self._role_named(SCHEDULER_ROLE)
        if workshops and _trusts(workshops, "scheduler"):
            return workshops["Arn"]
        with contextlib.suppress(SessionError):
            execution = self._role_named(self.role().rpartition("/")[2])
            if execution and _trusts(execution, "scheduler"):
                return execution["Arn"]
        raise SessionError(
            f"There is no role {SCHEDULER_ROLE} in this account that EventBridge Scheduler may "
            "assume: deploy iam/template.yaml, or set WORKSHOP_SCHEDULER_ROLE_ARN to the ARN of "
            "such a role."
        )

    def _role_named(self, name: str) -> dict[str, Any] | None:
        """A role as IAM describes it; None when it is not there or may not be looked at.

        Raises:
            SessionError: When the rehearsal has ended.
        """
        try:
            return self.client("iam").get_role(RoleName=name)["Role"]
        except (ClientError, BotoCoreError) as error:
            if _rehearsal_has_ended(error):
                raise SessionError(reason(error)) from None
            return None

    def _role_of_identity(self, name: str) -> str:
        try:
            role = self.client("iam").get_role(RoleName=name)["Role"]
        except (ClientError, BotoCoreError) as error:
            if _rehearsal_has_ended(error):
                raise SessionError(reason(error)) from None
            from_studio = _studio_metadata().get("ExecutionRoleArn")
            if from_studio:
                return from_studio
            raise SessionError(
                f"The role {name} cannot be read ({reason(error)}): set ROLE_ARN (or "
                "WORKSHOP_ROLE_ARN) to the ARN of a role that SageMaker may assume."
            ) from None
        if not _trusts(role, "sagemaker"):
            raise SessionError(
                f"SageMaker may not assume your role {name}: set ROLE_ARN (or WORKSHOP_ROLE_ARN) "
                "to the ARN of one that it may assume."
            )
        return role["Arn"]


def _checked_arn(given: str) -> str:
    if not _ROLE_ARN.fullmatch(given):
        raise SessionError(
            f"{given!r} is not the ARN of a role: it looks like "
            "arn:aws:iam::123456789012:role/name."
        )
    return given


def _trusts(role: Mapping[str, Any], service: str) -> bool:
    """Whether a role's trust policy lets a service assume it, as far as that is known here."""
    known = {"aws:SourceAccount": [role["Arn"].split(":")[4]]}
    document = role["AssumeRolePolicyDocument"]
    return trust.trusts(document, f"{service}.amazonaws.com", known) is not False


class _Boto(boto3.Session):
    """Its clients go where it was opened for, whatever the environment says later.

    Args:
        region_name: AWS region.
        endpoint_url: The rehearsal's address, None for AWS.
        like: Another one, with whose credentials it signs.
    """

    def __init__(self, *, region_name: str, endpoint_url: str | None, like: "_Boto | None" = None):
        super().__init__(region_name=region_name)
        self.endpoint_url = endpoint_url
        if like is not None:
            # The same object: credentials that renew themselves go on doing so.
            self._session._credentials = like.get_credentials()
            loader = like._session.get_component("data_loader")  # has read the services' models
            self._session.register_component("data_loader", loader)

    def client(self, service_name: str, *args: Any, **kwargs: Any) -> BaseClient:
        own = Config()
        if self.endpoint_url:
            kwargs["endpoint_url"] = self.endpoint_url
            own = Config(proxies={})  # botocore: none, whatever the environment says
        elif _changed:  # this one is for AWS, and the environment by now for a rehearsal
            own = Config(ignore_configured_endpoint_urls=True)
        kwargs["config"] = (kwargs.get("config") or Config()).merge(own)
        client = super().client(service_name, *args, **kwargs)
        if not self.endpoint_url:
            _refuse_rehearsal(service_name, client.meta.endpoint_url)
        return client


# --- Opening one ----------------------------------------------------------------------------


def open_session(
    target: str | None = None,
    *,
    region: str | None = None,
    participant: str | None = None,
    role_arn: str | None = None,
    identity: str | None = None,
    remember: bool = False,
    environ: MutableMapping[str, str] = os.environ,
) -> Session:
    """Open a session with the rehearsal (the default) or with AWS.

    In rehearsal the process environment is changed so that nothing real can be reached; opening a
    session with AWS in the same process changes it back.

    Args:
        target: `rehearsal` or `aws`; `WORKSHOP_TARGET` when left out.
        region: AWS region; the environment's, else the configured one.
        participant: Whose endpoint it is; derived from the identity when left out.
        role_arn: Execution role for endpoints.
        identity: As whom to act in rehearsal: `participant` (the default), `instructor`, `laptop`
            (a user instead of a role) or `admin`; `WORKSHOP_IDENTITY` when left out.
        remember: Keep these choices for the sessions of other notebooks; a target that was kept
            before is forgotten when none is given.
        environ: The process environment.

    Raises:
        SettingsError: When a setting makes no sense.
        SessionError: Without region or credentials, or when the target must not be used.
        RehearsalError: When the local AWS does not start.
    """
    hub.cover_logs()
    loaded = settings.load(
        _as_the_user_set_it(environ),
        target=target,
        region=region,
        participant=participant,
        role_arn=role_arn,
        identity=identity,
        recall_target=not remember,
    )
    if remember:
        settings.forget_target(loaded.state_dir)  # whatever fails from here on
    if loaded.target == "rehearsal":
        server = _rehearse(loaded, environ)
        clock, url = Clock(server.speed, server.origin), server.url
    else:
        leave_rehearsal(environ)
        clock, url = Clock(), None
    boto = _Boto(region_name=_region(loaded), endpoint_url=url)
    if loaded.target == "aws":
        _check_live(boto)
    account, identity = _identity(boto)
    if remember:
        settings.remember(
            loaded.state_dir,
            loaded.target,
            choose=target is not None,
            region=region,
            participant=participant,
            role_arn=role_arn,
        )
    # A remedy that is cut off is none, and a wrapped row loses the word at its end.
    pd.set_option("display.width", 1000, "display.max_columns", None, "display.max_colwidth", None)
    return Session(
        settings=loaded,
        region=boto.region_name,
        account=account,
        identity=identity,
        participant=_slug(loaded.participant or _participant_of(identity)),
        clock=clock,
        boto=boto,
    )


# Before the first rehearsal changed them: name -> (the user's value, ours). None: not set.
_changed: dict[str, tuple[str | None, str | None]] = {}


def _rehearse(loaded: Settings, environ: MutableMapping[str, str]) -> "launch.ServerInfo":
    from helpers.rehearsal import launch

    region = loaded.region or DEFAULT_REGION
    closed: dict[str, str | None] = dict.fromkeys(_REMOVED)
    closed |= {
        name: None
        for name in environ
        if name.startswith(_REMOVED_PREFIXES) and name not in _NOT_REMOVED
    }
    closed |= launch.credentials(loaded.identity)
    closed |= {
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "HF_TOKEN": _rehearsed_token(environ),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    _change(environ, closed)  # before the server starts: it inherits nothing real
    server = launch.probe(loaded.endpoint_url) if loaded.endpoint_url else launch.ensure(loaded)
    if server is None:
        raise SessionError(
            f"No rehearsal answers at AWS_ENDPOINT_URL {loaded.endpoint_url}: unset it and one "
            "starts by itself, or set WORKSHOP_TARGET=aws."
        )
    _change(environ, {"AWS_ENDPOINT_URL": server.url, "HF_ENDPOINT": server.url})
    return server


def _rehearsed_token(environ: Mapping[str, str]) -> str:
    """The rehearsal's own token, or one made up for it that says so by its beginning."""
    given = environ.get("HF_TOKEN", "").strip()
    return given if given.startswith(DUMMY_HF_TOKEN) else DUMMY_HF_TOKEN


def _change(environ: MutableMapping[str, str], wanted: Mapping[str, str | None]) -> None:
    for name, value in wanted.items():
        before = _changed[name][0] if name in _changed else environ.get(name)
        _changed[name] = (before, value)
        _put(environ, name, value)


def _check_live(boto: boto3.Session) -> None:
    from helpers.rehearsal import launch

    try:
        for service in ("sts", "sagemaker", "sagemaker-runtime"):
            boto.client(service)
        credentials = boto.get_credentials()
        key = credentials.access_key if credentials else None
    except ValueError as error:  # botocore: what was configured is no address
        raise SessionError(
            f"Target aws, but {str(error).rstrip('.')}: unset AWS_ENDPOINT_URL, or set "
            "WORKSHOP_TARGET=rehearsal."
        ) from None
    except BotoCoreError as error:
        raise _unknown_identity(error) from None
    if launch.is_key(key):
        raise SessionError(
            "Target aws, but the AWS credentials are the rehearsal's: unset AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN and sign in, or set "
            "WORKSHOP_TARGET=rehearsal."
        )


def _refuse_rehearsal(service: str, url: str) -> None:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme == "https" and (host.endswith(_AWS_DOMAINS) or not _is_here(host)):
        return
    raise SessionError(
        f"Target aws, but {service} would be called at {url}: unset AWS_ENDPOINT_URL, "
        f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')} and endpoint_url in the AWS "
        "configuration, or set WORKSHOP_TARGET=rehearsal."
    )


def leave_rehearsal(environ: MutableMapping[str, str] = os.environ) -> None:
    """Put back what rehearsals in this process have changed in its environment."""
    for name, (before, ours) in _changed.items():
        if environ.get(name) == ours:  # else the user has set it since
            _put(environ, name, before)
    _changed.clear()


def rehearsal_at(url: str) -> "launch.ServerInfo | None":
    """The rehearsal server that a URL leads to, None when it leads elsewhere."""
    from helpers.rehearsal import launch

    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not _is_here(parts.hostname):
        return None
    return launch.probe(f"http://{parts.netloc}")


def _as_the_user_set_it(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a rehearsal in this process has put there."""
    original = dict(environ)
    for name, (before, ours) in _changed.items():
        if environ.get(name) == ours:
            _put(original, name, before)
    return original


def _put(environ: MutableMapping[str, str], name: str, value: str | None) -> None:
    if value is None:
        environ.pop(name, None)
    else:
        environ[name] = value


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _is_here(host: str) -> bool:
    """True for a host that is this machine, however it is spelt."""
    written = _address(host)
    if written or _is_localhost(host):
        return written is None or _is_own(written)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False  # whoever calls it will hear that there is none
    addresses = (_address(str(entry[4][0])) for entry in found)
    return any(address is not None and _is_own(address) for address in addresses)


def _is_localhost(host: str) -> bool:
    name = host.lower().rstrip(".")
    return name in ("localhost", "localhost.localdomain") or name.endswith(".localhost")


def _address(host: str) -> _Address | None:
    """The address that a host is written as, also as in 127.1 or 2130706433; None for a name."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_own(address: _Address) -> bool:
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))  # only its own addresses can be bound
    except OSError:
        return False
    return True


def _region(loaded: Settings) -> str:
    region = loaded.region or boto3.Session().region_name
    if not region and loaded.target == "rehearsal":
        region = DEFAULT_REGION
    if not region:
        raise SessionError(f"No AWS region: set WORKSHOP_REGION, e.g. to {DEFAULT_REGION}.")
    _check_region(region)
    return region


def _check_region(region: str) -> None:
    if not _REGION.fullmatch(region):
        raise SettingsError(f"{region!r} is not an AWS region: it looks like {DEFAULT_REGION}.")


def _identity(boto: boto3.Session) -> tuple[str, str]:
    config = Config(retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=5)
    try:
        caller = boto.client("sts", config=config).get_caller_identity()
    except (ClientError, BotoCoreError) as error:
        raise _unknown_identity(error) from None
    return caller["Account"], caller["Arn"]


def _unknown_identity(error: Exception) -> SessionError:
    if _rehearsal_has_ended(error):
        return SessionError(reason(error))
    return SessionError(
        f"AWS does not know who you are: {reason(error)} Nothing is billed with "
        "WORKSHOP_TARGET=rehearsal."
    )


# --- Whose things these are -----------------------------------------------------------------


def _participant_of(identity: str) -> str:
    # In Studio everybody's session is called SageMaker: the profile tells people apart.
    studio = _studio_metadata()
    names = ("UserProfileName", "SpaceName", "ResourceName")
    return next(
        (studio[name] for name in names if studio.get(name)), re.split("[/:]", identity)[-1]
    )


def _studio_metadata() -> dict[str, str]:
    try:
        read = json.loads(STUDIO_METADATA.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _slug(name: str) -> str:
    """A name of at most 16 letters, digits and hyphens; different names stay different."""
    name = unicodedata.normalize("NFC", name.strip().lower())
    if not any(character.isalnum() for character in name):
        raise SettingsError(
            f"Participant {name!r} has no letter or digit: set WORKSHOP_PARTICIPANT."
        )
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")
    digest = hashlib.sha256(name.encode()).hexdigest()[:4]
    if not re.search("[a-z]", slug):
        return f"p-{digest}"
    if slug == name and len(slug) <= PARTICIPANT_LENGTH:
        return slug
    return f"{slug[: PARTICIPANT_LENGTH - 5].strip('-')}-{digest}"


# --- AWS's errors in a sentence -------------------------------------------------------------

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_UNKNOWN = ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch")
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


def reason(error: Exception, *secrets: str | None) -> str:
    """What an error of AWS means and what to do, in a sentence without secrets.

    Args:
        error: What boto3 or sagemaker-core raised.
        *secrets: Texts that must not come through, whatever the error echoes.
    """
    if isinstance(error, WorkshopError):
        return str(error)
    if isinstance(error, ClientError):
        return hub.redact(_client_error(error), *secrets)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return "no AWS credentials were found; run `aws configure` or `aws sso login`."
    if isinstance(error, ParamValidationError):
        head, *problems = str(error).rstrip(".").splitlines()
        return hub.redact(f"{head} {'; '.join(problems)}.", *secrets)
    if _rehearsal_has_ended(error):
        return (
            "The rehearsal AWS has ended: run the cell that opens the session again, then "
            "03_deploy_endpoint."
        )
    if isinstance(error, ConnectionError | HTTPClientError):
        return f"AWS cannot be reached ({type(error).__name__}); check the network and the region."
    if hasattr(error, "errors"):  # pydantic's ValidationError; its text echoes the input
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        return hub.redact(f"sagemaker-core refused {'; '.join(problems)}.", *secrets)
    return hub.redact(f"{type(error).__name__}: {error}".splitlines()[0], *secrets)


def _rehearsal_has_ended(error: Exception) -> bool:
    """True when a connection failed that only a rehearsal makes: to loopback."""
    if isinstance(error, ReadTimeoutError):  # connected: there is one, and it is slow
        return False
    if not isinstance(error, ConnectionError | HTTPClientError):
        return False
    host = urlsplit(str(error.kwargs.get("endpoint_url") or "")).hostname or ""
    address = _address(host)
    return _is_localhost(host) or (address is not None and address.is_loopback)


def _client_error(error: ClientError) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "").rstrip(".")
    if code in _EXPIRED:
        return "the AWS credentials have expired; sign in again."
    if code in _UNKNOWN:
        return "AWS does not accept the credentials; run `aws configure` or sign in again."
    if code in _DENIED:
        return f"not allowed to call {error.operation_name} ({message}); ask for that permission."
    return f"{message} ({code})."


def in_utc(moment: datetime) -> str:
    """A moment as it stands in tables, e.g. `2026-11-22 15:52 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
