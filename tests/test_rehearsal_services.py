"""What moto plays in rehearsal, and what is laid over it: a memory, schedules that happen."""

import asyncio
import base64
import json
import os
import stat
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session as BotoSession
from hypothesis import given
from hypothesis import strategies as st

from helpers.rehearsal import signature
from helpers.rehearsal.aws import awsjson, operations, services, writeahead
from helpers.rehearsal.aws.awsjson import AwsError
from helpers.rehearsal.aws.crontab import Cron
from helpers.rehearsal.aws.schedules import Schedules, first_due, next_due
from helpers.rehearsal.hub import UNGRANTED_TOKEN
from helpers.rehearsal.server import Request, Server
from helpers.rehearsal.signature import Signed
from helpers.rehearsal.state import KEPT_TOKEN
from helpers.rehearsal.timeline import Timeline

ACCOUNT = awsjson.ACCOUNT
TOKEN = f"hf_{'AbCdEfGhIjKlMnOpQ' * 2}"
ORIGIN = 1_790_000_000.0  # 2026-09-21T14:13:20Z
DELETE = "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint"


class SetClock:
    """AWS time that stands still until a test moves it."""

    def __init__(self):
        self.now_s = ORIGIN

    def time(self):
        return self.now_s


class SageMaker:
    """Notes what it is asked; refuses as long as it is told to."""

    def __init__(self):
        self.asked = []
        self.refuses = 0
        model = BotoSession().get_service_model("sagemaker")
        operations = {"DeleteEndpoint": self._note, "DescribeEndpoint": self._note}
        self.service = awsjson.Service(model, operations)

    def _note(self, given, region):
        if self.refuses:
            self.refuses -= 1
            raise awsjson.invalid('Cannot update in-progress endpoint "e".')
        self.asked.append((region, given["EndpointName"]))


class Town:
    """moto behind a port, with signatures and schedules; `restart` keeps only what is on disk."""

    def __init__(self, journal):
        self.journal = journal
        self.clock = SetClock()
        self.sagemaker = SageMaker()
        self.timeline = Timeline(self.clock)
        self._start()

    def _start(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)))
        self._thread.start()
        assert ready.wait(30)
        self.url = f"http://127.0.0.1:{self._port}"

    async def _main(self, ready):
        self.services = services.Services(ACCOUNT, self.journal, clock=self.clock.time)
        self.services.wait()
        self.schedules = Schedules(
            self.timeline,
            self.services,
            model=BotoSession().get_service_model("scheduler"),
            targets={"sagemaker": self.sagemaker.service},
            account=ACCOUNT,
        )
        self.schedules.resume()
        server = Server(self._handle)
        self._port = await server.start()
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._stopping.wait()
        await server.stop()
        self.services.close()

    async def _handle(self, request, response):
        try:
            signature.verify(request, secrets=self.services.secret, now=time.time())
        except awsjson.AwsError as error:
            response.respond(*services.refusal(request, error))
            return
        part = self.schedules if request.service == "scheduler" else self.services
        response.respond(*await part.answer(request))

    def client(self, name, region="us-east-1", **credentials):
        own = {
            "aws_access_key_id": services.ACCESS_KEY,
            "aws_secret_access_key": services.SECRET_KEY,
            "aws_session_token": services.SESSION_TOKEN,
        }
        return boto3.client(
            name,
            region_name=region,
            endpoint_url=self.url,
            config=Config(retries={"total_max_attempts": 1}),
            **(credentials or own),
        )

    def let(self, seconds):
        """Let AWS time pass; what is due happens in the server's thread."""
        self.clock.now_s += seconds
        asyncio.run_coroutine_threadsafe(self._advance(), self._loop).result(10)

    async def _advance(self):
        self.timeline.advance()

    def close(self):
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self.services._thread.shutdown(wait=True)

    def restart(self):
        self.close()
        kept = json.loads(json.dumps(self.timeline.dump()))
        self.timeline = Timeline(self.clock)
        self.timeline.restore(kept)
        self._start()


@pytest.fixture
def town(tmp_path):
    town = Town(tmp_path / "moto.jsonl")
    yield town
    town.close()


def without_metadata(answer):
    answer.pop("ResponseMetadata")
    return answer


# --- what survives a restart


def buckets(town):
    """Return those that a test has made; the workshop's has been there before."""
    found = town.client("s3").list_buckets()["Buckets"]
    return [one for one in found if not one["Name"].startswith("inf2-workshop-")]


def test_what_s3_holds_survives_a_restart_to_the_byte_and_the_second(town):
    s3 = town.client("s3")
    s3.create_bucket(Bucket="bucket")
    data = bytes(range(256)) * 400
    s3.put_object(Bucket="bucket", Key="a b/ü+%2F", Body=data, Metadata={"my_key": "v"})
    s3.put_object(Bucket="bucket", Key="gone", Body=b"x")
    s3.delete_object(Bucket="bucket", Key="gone")
    upload = s3.create_multipart_upload(Bucket="bucket", Key="large")["UploadId"]
    of = {"Bucket": "bucket", "Key": "large", "UploadId": upload}
    tag = s3.upload_part(**of, PartNumber=1, Body=b"part")["ETag"]
    town.clock.now_s += 3600
    before = [buckets(town), s3.list_objects_v2(Bucket="bucket")["Contents"]]
    town.restart()
    s3 = town.client("s3")
    assert [buckets(town), s3.list_objects_v2(Bucket="bucket")["Contents"]] == before
    assert before[0][0]["CreationDate"] == datetime.fromtimestamp(ORIGIN, UTC)
    answer = s3.get_object(Bucket="bucket", Key="a b/ü+%2F")
    assert (answer["Body"].read(), answer["Metadata"]) == (data, {"my_key": "v"})
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    s3.complete_multipart_upload(**of, MultipartUpload=parts)
    assert s3.get_object(Bucket="bucket", Key="large")["Body"].read() == b"part"


def test_keys_that_were_given_out_still_open_after_a_restart(town):
    iam = town.client("iam")
    user = iam.create_user(UserName="u")["User"]
    key = iam.create_access_key(UserName="u")["AccessKey"]
    role = iam.get_role(RoleName=services.ROLE)["Role"]
    assumed = town.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="one")
    temporary = assumed["Credentials"]
    town.restart()
    iam = town.client(
        "iam",
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    assert iam.get_user(UserName="u")["User"] == user
    assert iam.get_role(RoleName=services.ROLE)["Role"]["RoleId"] == role["RoleId"]
    told = town.client(
        "sts",
        aws_access_key_id=temporary["AccessKeyId"],
        aws_secret_access_key=temporary["SecretAccessKey"],
        aws_session_token=temporary["SessionToken"],
    ).get_caller_identity()
    assert told["Arn"] == assumed["AssumedRoleUser"]["Arn"]
    iam.update_access_key(UserName="u", AccessKeyId=key["AccessKeyId"], Status="Inactive")
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        iam.get_user(UserName="u")


def test_logs_survive_a_restart_and_metrics_do_not(town):
    at_s = ORIGIN + 86400  # AWS time runs ahead
    lines = [(at_s, "one"), (at_s + 1.5, "two")]
    town.services.write("/aws/sagemaker/Endpoints/e", "AllTraffic/i-1", lines, region="eu-west-1")
    size = town.journal.stat().st_size if statistics(town, "eu-west-1", at_s) == [] else None
    put_metrics(town, "eu-west-1", [(at_s, 1.0), (at_s + 60, 3.0)])
    assert statistics(town, "eu-west-1", at_s) == [(at_s, 1.0), (at_s + 60, 3.0)]
    assert town.journal.stat().st_size == size
    for _ in range(2):
        logs = town.client("logs", "eu-west-1")
        events = logs.get_log_events(
            logGroupName="/aws/sagemaker/Endpoints/e", logStreamName="AllTraffic/i-1"
        )["events"]
        assert [(one["timestamp"] / 1000, one["message"]) for one in events] == lines
        town.restart()
        assert statistics(town, "eu-west-1", at_s) == []


def test_a_journal_holds_no_signature_no_token_and_is_for_its_owner_only(town):
    s3 = town.client("s3")
    s3.create_bucket(Bucket="bucket")
    params = {"Bucket": "bucket", "Key": "k", "ContentType": "text/plain"}
    url = s3.generate_presigned_url("put_object", Params=params)
    headers = {"Cookie": "secret=1", "Content-Type": "text/plain"}
    with urllib.request.urlopen(
        urllib.request.Request(url, b"presigned", headers, method="PUT")
    ) as answer:
        assert answer.status == 200
    town.restart()
    assert town.client("s3").get_object(Bucket="bucket", Key="k")["Body"].read() == b"presigned"
    text = town.journal.read_text()
    for secret in (services.SECRET_KEY, services.SESSION_TOKEN, "Signature", "secret=1", "AWS4-"):
        assert secret not in text
    assert stat.S_IMODE(town.journal.stat().st_mode) == 0o600


def test_a_journal_holds_no_token_of_the_hubs_and_can_be_carried_out(town, role, caplog):
    s3 = town.client("s3")
    s3.create_bucket(Bucket="bucket")
    of = {"Bucket": "bucket", "Key": f"runs/my_{TOKEN}/env"}
    body = f'{{"log": "a\\n{TOKEN}", "HF_TOKEN": "{TOKEN}", "own": "{UNGRANTED_TOKEN}"}}'
    s3.put_object(**of, Body=body.encode(), Metadata={"of": TOKEN}, Tagging=f"of={TOKEN}")
    source = {"Bucket": "bucket", "Key": of["Key"]}
    s3.copy_object(Bucket="bucket", Key="copy", CopySource=source)
    s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": of["Key"]}]})
    chunked = {"host": "127.0.0.1", "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    data = f"{len(body):x}\r\n{body}\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".encode()
    chunked |= {"x-amz-sdk-checksum-algorithm": "CRC32", "content-encoding": "aws-chunked"}
    scope = f"{services.ACCESS_KEY}/20260921/us-east-1/s3/aws4_request"
    chunked |= {"authorization": f"AWS4-HMAC-SHA256 Credential={scope}, Signature=0"}
    request = Request("PUT", "/bucket/chunked", "", chunked, data)
    assert asyncio.run(town.services.answer(request)).status == 200
    town.client("iam").create_user(UserName="u", Tags=[{"Key": "k", "Value": f"a {TOKEN}"}])
    town.services.write("g", "s", [(ORIGIN, f"error: invalid value '{TOKEN}'")], region="us-east-1")
    town.client("logs").put_log_events(
        logGroupName="g",
        logStreamName="s",
        logEvents=[{"timestamp": int(time.time() * 1000), "message": f"a\n{TOKEN}"}],
    )
    create(town, role, at(60), Description=f"of {TOKEN}")
    town.clock.now_s += 3600  # the schedule is due while the server is down
    town.restart()
    kept = services.without_tokens(TOKEN.encode()).decode()
    assert len(kept) == len(TOKEN) and kept.startswith(KEPT_TOKEN)
    s3 = town.client("s3")
    for key in ("copy", "chunked"):
        answer = s3.get_object(Bucket="bucket", Key=key)
        assert answer["Body"].read().decode() == body.replace(TOKEN, kept)
    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 2
    journal = town.journal.read_text()
    bodies = [
        base64.b64decode(given_["body"]).decode("latin-1")
        for line in journal.splitlines()
        for given_ in json.loads(line)["given"]
        if isinstance(given_, dict)
    ]
    assert TOKEN not in journal + "".join(bodies)
    town.let(0)
    assert len(town.sagemaker.asked) == 1
    assert "failed after a restart" not in caplog.text


def test_what_only_asks_is_not_kept(town):
    town.client("s3").create_bucket(Bucket="bucket")
    size = town.journal.stat().st_size
    town.client("s3").list_buckets()
    town.client("s3").head_bucket(Bucket="bucket")
    town.client("sts").get_caller_identity()
    town.client("logs").describe_log_groups()
    town.client("cloudwatch").list_metrics()
    town.client("scheduler").list_schedules()
    with pytest.raises(ClientError, match="NoSuchBucket"):
        town.client("s3").put_object(Bucket="none", Key="k", Body=b"")
    assert town.journal.stat().st_size == size


@pytest.mark.parametrize("torn", [b'{"at": 1, "se', b"\xff\xfe", b""])
def test_a_torn_last_line_does_not_hinder_the_start(town, torn):
    town.client("s3").create_bucket(Bucket="bucket-1")
    town.close()
    with town.journal.open("ab") as file:
        file.write(torn)
    town._start()
    town.client("s3").create_bucket(Bucket="bucket-2")
    town.restart()
    names = [one["Name"] for one in buckets(town)]
    assert names == ["bucket-1", "bucket-2"]


def test_a_line_that_cannot_be_carried_out_is_left_out_and_said(town, caplog):
    town.client("s3").create_bucket(Bucket="bucket-1")
    town.close()
    with town.journal.open("ab") as file:
        file.write(b"not json\n")
        kept = {"method": "PUT", "path": "/none/k", "query": "", "headers": {}, "body": ""}
        for what, given_ in (("write", []), ("again", [{**kept, "scope": None}])):
            change = {"at": 1.0, "seed": 1, "what": what, "given": given_}
            file.write(json.dumps(change).encode() + b"\n")
    town._start()
    town.client("s3").create_bucket(Bucket="bucket-2")
    town.restart()
    assert len(buckets(town)) == 2
    assert "Line 2 of" in caplog.text
    assert "could not be carried out again" in caplog.text
    assert "PUT /none/k failed after a restart" in caplog.text


def test_a_journal_that_is_full_is_said_once_and_keeps_what_it_has(tmp_path, caplog):
    path = tmp_path / "j"
    journal = writeahead.WriteAhead(path, limit_bytes=40)
    assert list(journal.replay()) == []
    for number in range(5):
        journal.append({"number": number})
    journal.close()
    kept = list(writeahead.WriteAhead(path).replay())
    assert kept == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert caplog.text.count("will not survive a restart") == 1


def test_a_full_disk_tears_no_line(tmp_path, caplog, monkeypatch):
    journal = writeahead.WriteAhead(tmp_path / "j")
    assert list(journal.replay()) == []
    journal.append({"number": 1})
    write = os.write

    def full(file, line):
        if len(line) < 4:
            raise OSError("No space left on device")
        return write(file, line[:4])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        journal.append({"number": 2})
        journal.append({"number": 3})
        assert (tmp_path / "j").read_text() == '{"number":1}\n'
    journal.append({"number": 4})
    journal.close()
    kept = list(writeahead.WriteAhead(tmp_path / "j").replay())
    assert kept == [{"number": number} for number in (1, 2, 3, 4)]
    assert caplog.text.count("No space left on device") == 1
    assert "keeps changes again; 0 were lost" in caplog.text


def test_a_full_disk_does_not_fill_the_memory(tmp_path, caplog, monkeypatch):
    journal = writeahead.WriteAhead(tmp_path / "j", unwritten_bytes=30)
    list(journal.replay())

    def full(file, line):
        raise OSError("No space left on device")

    for outage in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            for number in range(5):
                journal.append({"number": number})
        journal.append({"after": outage})
    journal.close()
    kept = list(writeahead.WriteAhead(tmp_path / "j").replay())
    first, second = {"number": 0}, {"number": 1}
    assert kept == [first, second, {"after": 0}, first, second, {"after": 1}]
    assert caplog.text.count("No space left on device") == 2
    assert caplog.text.count("changes from now on are lost") == 2
    assert caplog.text.count("again; 3 were lost") == 2


def test_a_journal_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "j").mkdir()
    with pytest.raises(OSError):
        list(writeahead.WriteAhead(tmp_path / "j").replay())


def test_what_moto_cannot_take_is_said_in_the_log(town, caplog):
    town.services.put_metrics("us-east-1", "N", [{"MetricName": "m"}])
    town.client("sts").get_caller_identity()
    assert "moto could not put_metrics" in caplog.text


def test_a_second_server_leaves_the_journal_of_the_first_alone(tmp_path, caplog):
    first, second = (writeahead.WriteAhead(tmp_path / "j") for _ in range(2))
    list(first.replay())
    assert list(second.replay()) == []
    second.append({"of": "second"})
    first.append({"of": "first"})
    first.close()
    third = writeahead.WriteAhead(tmp_path / "j")
    assert list(third.replay()) == [{"of": "first"}]
    third.close()
    assert "Another server keeps its changes" in caplog.text


@given(st.lists(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False))), st.data())
def test_a_journal_cut_anywhere_gives_back_what_is_whole(tmp_path_factory, changes, data):
    path = tmp_path_factory.mktemp("j") / "j"
    journal = writeahead.WriteAhead(path)
    list(journal.replay())
    for change in changes:
        journal.append(change)
    journal.close()
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    journal = writeahead.WriteAhead(path)
    assert list(journal.replay()) == changes[: whole[:cut].count(b"\n")]
    journal.append({"new": 1})
    journal.close()
    again = writeahead.WriteAhead(path)
    assert list(again.replay())[-1] == {"new": 1}
    again.close()


# --- metrics


def put_metrics(town, region, points, **more):
    data = [
        {
            "MetricName": "Invocations",
            "Dimensions": [{"Name": "EndpointName", "Value": "e"}],
            "Timestamp": at_s,
            "Value": value,
            "Unit": "None",
            **more,
        }
        for at_s, value in points
    ]
    town.services.put_metrics(region, "AWS/SageMaker", data)


def statistics(town, region, start_s, statistic="Sum"):
    told = town.client("cloudwatch", region).get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="Invocations",
        Dimensions=[{"Name": "EndpointName", "Value": "e"}],
        StartTime=datetime.fromtimestamp(start_s, UTC),
        EndTime=datetime.fromtimestamp(start_s + 3600, UTC),
        Period=60,
        Statistics=[statistic],
    )["Datapoints"]
    points = [(one["Timestamp"].timestamp(), one[statistic]) for one in told]
    return sorted(points)


def test_a_plain_cloudwatch_client_reads_what_was_put(town):
    at_s = ORIGIN + 1e6 - (ORIGIN + 1e6) % 60
    put_metrics(town, "us-east-1", [(at_s, 1.0), (at_s + 30, 2.0), (at_s + 60, 5.0)])
    assert statistics(town, "us-east-1", at_s) == [(at_s, 3.0), (at_s + 60, 5.0)]
    assert statistics(town, "us-east-1", at_s, "Maximum") == [(at_s, 2.0), (at_s + 60, 5.0)]
    assert statistics(town, "eu-west-1", at_s) == []
    client = town.client("cloudwatch")
    metrics = client.list_metrics(Namespace="AWS/SageMaker")["Metrics"]
    dimensions = [{"Name": "EndpointName", "Value": "e"}]
    assert metrics == [
        {"Namespace": "AWS/SageMaker", "MetricName": "Invocations", "Dimensions": dimensions}
    ]
    told = client.get_metric_data(
        MetricDataQueries=[
            {
                "Id": "m",
                "MetricStat": {"Metric": metrics[0], "Period": 60, "Stat": "Average"},
            }
        ],
        StartTime=datetime.fromtimestamp(at_s, UTC),
        EndTime=datetime.fromtimestamp(at_s + 600, UTC),
    )["MetricDataResults"]
    assert told[0]["Values"] == [5.0, 1.5]  # the newest first, as AWS does


def test_statistics_can_be_put_as_a_set(town):
    numbers = {"SampleCount": 4, "Sum": 10, "Minimum": 1, "Maximum": 6}
    put_metrics(town, "us-east-1", [(ORIGIN, 0.0)], StatisticValues=numbers)
    start_s = ORIGIN - ORIGIN % 60
    assert statistics(town, "us-east-1", start_s)[0][1] == 10
    assert statistics(town, "us-east-1", start_s, "SampleCount")[0][1] == 4


def test_alarms_and_tags_are_kept_over_a_restart(town):
    town.client("cloudwatch").put_metric_alarm(
        AlarmName="a",
        Namespace="AWS/SageMaker",
        MetricName="Invocations",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    town.client("logs").create_log_group(logGroupName="g", tags={"a": "b"})
    before = town.client("cloudwatch").describe_alarms()["MetricAlarms"]
    town.restart()
    assert town.client("cloudwatch").describe_alarms()["MetricAlarms"] == before
    resources = town.client("resourcegroupstaggingapi").get_resources()
    assert [one["Tags"] for one in resources["ResourceTagMappingList"]] == [
        [{"Key": "a", "Value": "b"}]
    ]


def test_a_client_that_speaks_cbor_is_told_what_is_spoken():
    signed = Signed("AKIA", "20261122", "us-east-1", "monitoring", (), "0", "", None)
    headers = {"smithy-protocol": "rpc-v2-cbor", "content-type": "application/cbor"}
    path = "/service/GraniteServiceVersion20100801/operation/ListMetrics"
    with pytest.raises(AwsError, match="speaks JSON and Query") as error:
        operations.read(Request("POST", path, "", headers, b"\xa0"), signed)
    assert error.value.status == 415


# --- schedules


def at(seconds, zone=UTC):
    return f"at({datetime.fromtimestamp(ORIGIN + seconds, zone):%Y-%m-%dT%H:%M:%S})"


@pytest.fixture
def role(town):
    return create_role(town)


def create_role(town, name="scheduling", service="scheduler.amazonaws.com", **statement):
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": service},
                "Action": "sts:AssumeRole",
                **statement,
            }
        ],
    }
    iam = town.client("iam")
    return iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]


def create(town, role, expression, *, target=DELETE, region="us-east-1", policy=None, **more):
    target = {"Arn": target, "RoleArn": role, "Input": '{"EndpointName": "e"}'}
    if policy:
        target["RetryPolicy"] = policy
    given = {"Target": target, "FlexibleTimeWindow": {"Mode": "OFF"}, "Name": "s", **more}
    return town.client("scheduler", region).create_schedule(ScheduleExpression=expression, **given)


def names(town, region="us-east-1"):
    return [one["Name"] for one in town.client("scheduler", region).list_schedules()["Schedules"]]


def test_a_scheduled_deletion_happens_at_its_time_in_its_region_and_once(town, role):
    create(town, role, at(3600), region="eu-west-1")
    town.let(3599)
    assert town.sagemaker.asked == []
    town.let(1)
    assert town.sagemaker.asked == [("eu-west-1", "e")]
    town.let(1e6)
    assert len(town.sagemaker.asked) == 1
    assert names(town, "eu-west-1") == ["s"]


def test_a_list_of_schedules_goes_on_though_its_next_one_is_deleted_meanwhile(town, role):
    for name in "abcde":
        create(town, role, at(3600), Name=name)
    client, listed = town.client("scheduler"), []
    pages = client.get_paginator("list_schedules").paginate(PaginationConfig={"PageSize": 2})
    for number, page in enumerate(pages):
        listed += [one["Name"] for one in page["Schedules"]]
        if number == 0:
            (gone, *_) = sorted(set("abcde") - set(listed), reverse=listed[0] > listed[1])
            client.delete_schedule(Name=gone)
    assert sorted([*listed, gone]) == list("abcde")
    with pytest.raises(client.exceptions.ClientError, match="NextToken"):
        client.list_schedules(NextToken="odd")


def test_a_schedule_deletes_itself_when_it_is_told_to(town, role):
    create(town, role, at(60), ActionAfterCompletion="DELETE")
    assert names(town) == ["s"]
    town.let(60)
    assert (names(town), town.sagemaker.asked) == ([], [("us-east-1", "e")])
    create(town, role, at(120))
    town.let(120)
    assert len(town.sagemaker.asked) == 2


def test_a_time_zone_is_respected(town, role):
    zone = ZoneInfo("Asia/Tokyo")
    create(town, role, at(3600, zone), ScheduleExpressionTimezone="Asia/Tokyo")
    town.let(3600)
    assert len(town.sagemaker.asked) == 1


def test_a_schedule_that_is_changed_deleted_or_disabled_does_as_it_says_now(town, role):
    client = town.client("scheduler")
    create(town, role, at(60))
    given = without_metadata(client.get_schedule(Name="s"))
    assert (given["State"], given["ActionAfterCompletion"]) == ("ENABLED", "NONE")
    own = ("Arn", "CreationDate", "LastModificationDate")
    given = {name: value for name, value in given.items() if name not in own}
    given |= {"ScheduleExpression": at(600), "ActionAfterCompletion": "DELETE"}
    client.update_schedule(**given)
    create(town, role, at(60), Name="deleted")
    client.delete_schedule(Name="deleted")
    create(town, role, at(60), Name="disabled", State="DISABLED")
    client.create_schedule_group(Name="group")
    create(town, role, at(60), Name="grouped", GroupName="group")
    client.delete_schedule_group(Name="group")
    town.let(60)
    assert town.sagemaker.asked == []
    town.let(540)
    assert (town.sagemaker.asked, names(town)) == ([("us-east-1", "e")], ["disabled"])
    given = {**given, "Name": "disabled", "ScheduleExpression": at(700), "State": "ENABLED"}
    client.update_schedule(**given)
    town.let(100)
    assert len(town.sagemaker.asked) == 2


def test_what_fails_is_tried_again_with_growing_pauses(town, role, caplog):
    create(town, role, at(60), ActionAfterCompletion="DELETE")
    town.sagemaker.refuses = 5
    town.let(60 + 1 + 2 + 4 + 8 + 15)
    assert (town.sagemaker.asked, names(town)) == ([], ["s"])
    town.let(1)
    assert (town.sagemaker.asked, names(town)) == ([("us-east-1", "e")], [])


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ({"MaximumRetryAttempts": 0}, 999),
        ({"MaximumRetryAttempts": 3}, 996),
        ({"MaximumEventAgeInSeconds": 60}, 994),  # at 0, 1, 3, 7, 15 and 31 s
        (None, 814),  # 185 times in 24 hours
    ],
)
def test_a_schedule_gives_up_as_its_policy_says(town, role, caplog, policy, left):
    create(town, role, at(60), policy=policy, ActionAfterCompletion="DELETE")
    town.sagemaker.refuses = 1000
    town.let(60 + 86400)
    assert town.sagemaker.refuses == left
    assert names(town) == []
    assert "The schedule s gave up: ValidationException: Cannot update in-progress" in caplog.text


def test_a_recurring_schedule_happens_from_its_start_to_its_end(town, role):
    more = {
        "StartDate": datetime.fromtimestamp(ORIGIN + 100, UTC),
        "EndDate": datetime.fromtimestamp(ORIGIN + 100 + 900, UTC),
        "ActionAfterCompletion": "DELETE",
    }
    create(town, role, "rate(5 minutes)", **more)
    town.let(99)
    assert town.sagemaker.asked == []
    town.let(1 + 300)
    assert len(town.sagemaker.asked) == 2
    assert names(town) == ["s"]
    town.let(86400)
    assert (len(town.sagemaker.asked), names(town)) == (4, [])


def test_a_cron_schedule_happens_every_evening(town, role):
    create(town, role, "cron(0 18 * * ? *)", ScheduleExpressionTimezone="America/New_York")
    town.let(7 * 86400)
    assert len(town.sagemaker.asked) == 7


def test_a_schedule_survives_a_restart_and_happens_once(town, role):
    create(town, role, at(600))
    create(town, role, at(60), Name="done")
    town.let(60)
    town.restart()
    town.let(0)
    assert (len(town.sagemaker.asked), sorted(names(town))) == (1, ["done", "s"])
    town.timeline.restore([])  # the events were lost on the way
    town.restart()
    town.let(540)
    assert len(town.sagemaker.asked) == 2
    town.restart()
    town.let(540)
    assert len(town.sagemaker.asked) == 2


def test_an_event_of_another_schedule_is_none_of_this_one(town, role):
    create(town, role, at(600))
    [(due_s, kind, data)] = town.timeline.dump()
    town.timeline.restore([(due_s, kind, {**data, "key": ["us-east-1", "default", "other"]})])
    town.restart()
    town.let(600)
    assert len(town.sagemaker.asked) == 1


def test_a_flexible_window_with_its_length_is_taken(town, role):
    create(
        town,
        role,
        at(60),
        FlexibleTimeWindow={"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15},
    )
    town.let(60)
    assert len(town.sagemaker.asked) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expression": "at(2020-01-01T00:00:00)"}, "Invalid Schedule Expression at(2020-01-01T"),
        ({"expression": "at(2027-01-01)"}, "Invalid Schedule Expression at(2027-01-01)."),
        ({"expression": "at(2027-02-30T00:00:00)"}, "Invalid Schedule Expression at(2027-02-30"),
        ({"expression": "at(2027-01-01T00:00:00Z)"}, "Invalid Schedule Expression at("),
        ({"expression": "rate(0 minutes)"}, "Invalid Schedule Expression rate(0 minutes)."),
        ({"expression": "rate(5 seconds)"}, "Invalid Schedule Expression rate(5 seconds)."),
        ({"expression": "cron(0 18 * * * *)"}, "Invalid Schedule Expression cron(0 18 * * * *)."),
        ({"expression": "cron(0 18 X * ? *)"}, "Invalid Schedule Expression cron(0 18 X * ? *)."),
        ({"expression": "cron(0 18 L * ? *)"}, "does not offer L, W and # in cron expressions."),
        ({"expression": "cron(0 18 15W * ? *)"}, "The rehearsal AWS does not offer L, W and #"),
        ({"expression": "cron(0 18 ? * MON#1 *)"}, "The rehearsal AWS does not offer L, W and #"),
        ({"expression": "cron(0 18 ? * fril *)"}, "The rehearsal AWS does not offer L, W and #"),
        ({"expression": "cron(0 18 ? * 6L *)"}, "The rehearsal AWS does not offer L, W and #"),
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes is required"),
        ({"expression": "tomorrow"}, "Invalid Schedule Expression tomorrow."),
        ({"ScheduleExpressionTimezone": "Mars/Phobos"}, "Timezone Mars/Phobos"),
        ({"target": "arn:aws:lambda:us-east-1:1:function:f"}, "has no target arn:aws:lambda"),
        (
            {"target": DELETE.replace("delete", "describe")},
            "it offers arn:aws:scheduler:::aws-sdk:",
        ),
        ({"target": DELETE.replace("delete", "Delete")}, "has no target"),
        ({"policy": {"MaximumRetryAttempts": 186}}, "maximumRetryAttempts"),
        ({"GroupName": "none"}, "Schedule group none does not exist."),
        ({"role": "arn:aws:iam::123456789012:role/none"}, "EventBridge Scheduler to assume"),
        ({"role": f"arn:aws:iam::{ACCOUNT}:role/{services.ROLE}"}, "Scheduler to assume the role."),
    ],
)
def test_what_aws_or_the_rehearsal_cannot_do_is_refused(town, role, change, message):
    given = {"role": role, "expression": at(60), **change}
    with pytest.raises(ClientError) as error:
        create(town, given.pop("role"), given.pop("expression"), **given)
    assert message in error.value.response["Error"]["Message"]
    assert names(town) == []


def test_a_dead_letter_queue_and_input_that_is_not_json_are_refused(town, role):
    client = town.client("scheduler")
    for more in (
        {"DeadLetterConfig": {"Arn": "arn:aws:sqs:us-east-1:123456789012:q"}},
        {"Input": "{"},
        {"Input": "[]"},
    ):
        with pytest.raises(ClientError, match="ValidationException"):
            client.create_schedule(
                Name="s",
                ScheduleExpression=at(60),
                FlexibleTimeWindow={"Mode": "OFF"},
                Target={"Arn": DELETE, "RoleArn": role, **more},
            )


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"Target": 1}', b"{}", b'{"StartDate": NaN}'])
def test_a_request_that_no_client_would_make_is_refused(town, body):
    request = Request("POST", "/schedules/s", "", {}, body)
    answer = asyncio.run(town.schedules.answer(request))
    assert answer.status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"StartDate": 1e300},
        {"EndDate": -1},
        {"ScheduleExpression": "at(0001-01-01T00:00:00)"},
        {"ScheduleExpression": "at(9999-12-31T23:59:59)", "StartDate": 10**400},
    ],
)
def test_times_out_of_all_range_are_refused(town, change):
    given_ = {
        "ScheduleExpression": "cron(0 0 * * ? *)",
        "ScheduleExpressionTimezone": "Asia/Tokyo",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": DELETE, "RoleArn": "arn:aws:iam::123456789012:role/r"},
        **change,
    }
    request = Request("POST", "/schedules/s", "", {}, json.dumps(given_).encode())
    answer = asyncio.run(town.schedules.answer(request))
    assert answer.status == 400
    assert b"assume the role" not in answer.body


@pytest.mark.parametrize(
    ("statement", "trusted"),
    [
        ({}, True),
        ({"Action": ["sts:TagSession", "sts:AssumeRole"]}, True),
        ({"Principal": {"Service": ["a.amazonaws.com", "scheduler.amazonaws.com"]}}, True),
        ({"Action": "sts:TagSession"}, False),
        ({"Effect": "Deny"}, False),
        ({"Principal": {"Service": "sagemaker.amazonaws.com"}}, False),
        ({"Principal": {"AWS": "arn:aws:iam::123456789012:root"}}, False),
    ],
)
def test_a_role_must_trust_the_scheduler(town, statement, trusted):
    role = create_role(town, **statement)
    if trusted:
        create(town, role, at(60))
    else:
        with pytest.raises(ClientError, match="must allow AWS EventBridge Scheduler"):
            create(town, role, at(60))


# --- cron


def after(fields, text, zone="UTC"):
    zone = ZoneInfo(zone)
    start = datetime.fromisoformat(text).replace(tzinfo=zone)
    found = Cron(fields).after(start.timestamp(), zone)
    return found and datetime.fromtimestamp(found, zone).strftime("%a %Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("fields", "start", "expected"),
    [
        ("0 18 ? * MON-FRI *", "2026-11-20T18:00", "Mon 2026-11-23T18:00"),
        ("15/20 * * * ? *", "2026-11-20T18:16", "Fri 2026-11-20T18:35"),
        ("0 0 29 feb ? *", "2026-11-20T18:00", "Tue 2028-02-29T00:00"),
        ("0 9 ? 1,6 sun 2027-2028", "2026-11-20T18:00", "Sun 2027-01-03T09:00"),
        ("*/30 8-9 1 * ? *", "2026-11-20T18:00", "Tue 2026-12-01T08:00"),
        ("0 0 1 1 ? 2020", "2026-11-20T18:00", None),
    ],
)
def test_cron_finds_the_next_moment(fields, start, expected):
    assert after(fields, start) == expected


def test_cron_leaves_out_an_hour_that_is_not_there_and_takes_a_double_one_once():
    new_york = "America/New_York"
    assert after("30 2 * * ? *", "2026-03-07T12:00", new_york) == "Mon 2026-03-09T02:30"
    assert after("30 1 * * ? *", "2026-10-31T12:00", new_york) == "Sun 2026-11-01T01:30"
    assert after("30 1 * * ? *", "2026-11-01T01:30", new_york) == "Mon 2026-11-02T01:30"


@pytest.mark.parametrize(
    "fields", ["", "* * * * *", "60 0 * * ? *", "0 0 ? * ? *", "0 0 ? * MON#1 *", "5-1 0 * * ? *"]
)
def test_cron_refuses_what_it_does_not_understand(fields):
    with pytest.raises(ValueError):
        Cron(fields)


@given(st.integers(0, 59), st.integers(0, 23), st.floats(0, 4e9))
def test_a_daily_cron_is_never_more_than_a_day_away(minute, hour, now_s):
    at_s = Cron(f"{minute} {hour} * * ? *").after(now_s, ZoneInfo("UTC"))
    assert now_s < at_s <= now_s + 86400
    moment = datetime.fromtimestamp(at_s, UTC)
    assert (moment.minute, moment.hour, moment.second) == (minute, hour, 0)


@given(st.integers(1, 400), st.sampled_from(["minute", "hours", "day"]), st.floats(0, 4e9))
def test_a_rate_happens_at_once_and_then_at_its_pace(value, unit, now_s):
    schedule = {"ScheduleExpression": f"rate({value} {unit})"}
    seconds = timedelta(**{f"{unit.rstrip('s')}s": value}).total_seconds()
    assert first_due(schedule, now_s) == now_s
    assert next_due(schedule, now_s) == now_s + seconds
