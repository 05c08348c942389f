import importlib
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import made_things as made
import pytest
import rehearsing
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
from rehearsing import participant

import helpers
from helpers import cleanup, endpoint, guard, resources, settings
from helpers import session as sessions
from helpers.cleanup import __main__ as command
from helpers.containers import INF2_48XLARGE_REGIONS
from helpers.errors import EndpointError, SettingsError
from helpers.session import Session

ALL = [
    "scaling target",
    "endpoint",
    "endpoint configuration",
    "model",
    "schedule",
    "schedule group",
    "log group",
    "weights folder",
]


@pytest.fixture
def session(shared):
    """A participant of the test's own."""
    return participant(shared)


@pytest.fixture
def refused(session):
    """The same session, whose AWS is about to refuse something."""
    yield session
    rehearsing.restore()


@pytest.fixture(scope="module")
def elsewhere(shared):
    """The shared session in other regions, made once."""
    return {one: shared.in_region(one) for one in ("us-east-2", "us-west-2", "eu-central-1")}


@pytest.fixture
def regions(elsewhere, monkeypatch):
    """Sessions of other regions, kept so that something can be refused to them."""

    def in_region(self, region):
        if region == self.region:
            return self
        return participant(elsewhere[region], self.participant)

    monkeypatch.setattr(Session, "in_region", in_region)
    yield elsewhere
    rehearsing.restore()


def small(session, name="llama-3-8b", **how):
    """An endpoint of the session's participant, with plain boto3; its name."""
    name = resources.name_of(session.participant, name)
    made.endpoint(session, name, made.tags_for(session.participant), **how)
    return name


def statuses(session, name):
    return resources.describe(session, resources.ENDPOINT, name)


def results(deleted):
    return dict(zip(deleted["kind"], deleted["result"], strict=True))


# --- what is there --------------------------------------------------------------------------


def test_leftovers_say_what_bills_and_since_when(session):
    made.everything(session, session.participant)
    left = cleanup.leftovers(session)
    assert list(left["kind"]) == ALL
    assert list(left["bills?"]) == ["no", "yes", "no", "no", "no", "no", "storage", "storage"]
    assert left["created"].str.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC").all()
    assert set(left["region"]) == {"us-east-1"}
    assert set(left["target"]) == {"rehearsal"}
    up = left[left["kind"] == "endpoint"].iloc[0]
    assert float(up["so far ($)"]) > 0
    assert up["expires"].endswith("UTC")
    cleanup.delete(session)
    empty = cleanup.leftovers(session)
    assert (list(empty.columns), len(empty)) == (list(left.columns), 0)
    assert repr(empty[["kind", "name"]]) == "(nothing)"
    assert session.table(empty)._repr_html_() == "<p>(nothing)</p>"


def test_an_endpoint_without_a_schedule_never_expires_whatever_its_tag_says(session):
    name = resources.name_of(session.participant, "llama-3-8b")
    made.endpoint(session, name, made.tags_for(session.participant, expires="2026-01-01T00:00:00Z"))
    assert cleanup.leftovers(session)["expires"][0] == "never"
    cleanup.delete(session)


def test_a_schedule_that_cannot_be_read_says_so(refused):
    made.everything(refused, refused.participant, scaled=False)
    rehearsing.refuse(
        refused, "GetSchedule", "AccessDeniedException", "no", service="scheduler", status=403
    )
    assert "unknown" in set(cleanup.leftovers(refused)["expires"])
    rehearsing.restore()
    cleanup.delete(refused)


def test_when_schedules_may_not_be_listed_nobody_knows_when_an_endpoint_expires(refused):
    made.everything(refused, refused.participant, scaled=False)
    refuse_all(refused, "scheduler", "AccessDeniedException")
    assert cleanup.leftovers(refused)["expires"][0] == "unknown"
    rehearsing.restore()
    cleanup.delete(refused)


def test_an_endpoint_that_has_failed_bills_no_longer(session):
    with session.fault("no-capacity"):
        name = small(session)
        assert rehearsing.until(lambda: statuses(session, name)["EndpointStatus"] == "Failed")
    first = cleanup.leftovers(session).iloc[0]
    failed = statuses(session, name)
    hours = (failed["LastModifiedTime"] - failed["CreationTime"]).total_seconds() / 3600
    assert first["bills?"] == "no"
    assert first["so far ($)"] == f"{hours * 0.99:.2f}"
    row = cleanup.participants(session).set_index("participant").loc[session.participant]
    assert (row["status"], row["$/h"], row["instances"], row["expires"]) == ("Failed", 0, 0, "")
    time.sleep(0.2)  # 12 minutes there
    deleted = cleanup.delete(session).iloc[0]
    assert (deleted["hours"], deleted["cost ($)"]) == (f"{hours:.2f}", first["so far ($)"])


def test_what_cannot_be_told_apart_is_shown_and_deleted_only_by_its_name(session):
    name = f"inf2-workshop-{session.participant}-my-own"
    made.model(session, name)
    assert cleanup.leftovers(session)["whose?"][0].startswith("it has no tags")
    kept = cleanup.delete(session)
    assert kept["result"][0].startswith("kept: it has no tags")
    assert f"give its name ({name})" in kept["result"][0]
    assert list(cleanup.delete(session, name=name)["result"]) == ["deleted"]


def test_when_endpoints_cannot_be_listed_it_is_one_sentence(refused):
    rehearsing.refuse(refused, "ListEndpoints", "AccessDeniedException", "no")
    with pytest.raises(EndpointError, match="The endpoints in us-east-1 cannot be listed: not al"):
        cleanup.leftovers(refused)


def test_what_else_cannot_be_listed_is_said_and_the_rest_is_shown(refused, capsys):
    made.everything(refused, refused.participant, scaled=False)
    rehearsing.refuse(refused, "ListModels", "AccessDeniedException", "no")
    refuse_all(refused, "logs", "AccessDeniedException")
    refuse_all(refused, "resourcegroupstaggingapi", "AccessDeniedException")
    left = cleanup.leftovers(refused)
    assert set(ALL) - set(left["kind"]) == {"scaling target", "model", "log group"}
    said = capsys.readouterr().out
    for what in ("models", "log groups", "anything by its tags"):
        assert f"[rehearsal] Not looked at in us-east-1: {what} (not allowed to call" in said
    rehearsing.restore()
    cleanup.delete(refused)


@pytest.mark.parametrize("cause", ["a bucket's name", "the network"])
def test_an_endpoint_is_deleted_when_another_service_fails(refused, capsys, cause):
    mine = refused
    if cause == "the network":
        lost = ConnectTimeoutError(endpoint_url="https://scheduler")
        rehearsing.fail_after(mine, "ListScheduleGroups", lost, service="scheduler")
    else:
        mine = with_bucket(refused, "bad bucket")
    name = small(mine)
    assert "deleted" in results(cleanup.delete(mine))["endpoint"]
    said = capsys.readouterr().out
    assert "Not looked at in us-east-1: " in said and "anything (" not in said
    assert statuses(refused, name) is None


def with_bucket(session, name):
    """The same session, which has been told of a bucket."""
    mine = replace(session, settings=replace(session.settings, bucket=name))
    mine._clients = session._clients
    return mine


def test_weights_are_found_wherever_they_were_copied_to(session):
    mine = with_bucket(session, f"inf2-workshop-own-{session.participant}")
    for one in (session, mine):
        made.weights(one, session.participant)
    assert len(cleanup.leftovers(session)) == 1
    session.remember_bucket(mine.bucket)
    recalled = replace(session, settings=settings.load(target="rehearsal"))
    recalled._clients = session._clients
    assert mine.bucket in recalled.buckets
    assert list(cleanup.delete(recalled)["name"]) == [
        f"s3://{bucket}/inf2-workshop/{session.participant}/"
        for bucket in (session.bucket, mine.bucket)
    ]
    assert cleanup.leftovers(session).empty


def test_a_bucket_that_has_gone_hides_no_other(session):
    session.settings = replace(session.settings, bucket="inf2-workshop-gone")
    mine = with_bucket(session, f"inf2-workshop-more-{session.participant}")
    made.weights(mine, session.participant)
    session.remember_bucket(mine.bucket)
    assert list(cleanup.delete(session)["result"]) == ["deleted"]


def refuse_all(session, service, code, message="no"):
    rehearsing.refuse(session, "*", code, message, service=service)


# --- several regions ------------------------------------------------------------------------


def test_all_regions_are_looked_at_and_cleaned_up(session, regions):
    for region in regions.values():
        made.everything(region, session.participant, scaled=False)
    left = cleanup.leftovers(session, regions=["us-east-1", *regions])
    assert Counter(left["region"]) == dict.fromkeys(regions, 7)
    deleted = cleanup.delete(session, regions=["us-east-1", *regions])
    assert set(deleted["result"]) == {"deleted"}
    assert (deleted["cost ($)"] != "").sum() == 3
    assert cleanup.leftovers(session, regions=list(regions)).empty


def test_regions_that_are_closed_are_named_and_the_others_go_on(session, regions, capsys):
    for region in regions.values():
        made.model(region, f"inf2-workshop-{session.participant}-llama-3-8b")
    not_enabled, denied, fine = regions
    refuse_all(
        regions[not_enabled],
        "sagemaker",
        "UnrecognizedClientException",
        "The security token included in the request is invalid",
    )
    refuse_all(regions[denied], "sagemaker", "AccessDeniedException", "an explicit deny")
    capsys.readouterr()
    deleted = cleanup.delete(session, regions=list(regions))
    said = capsys.readouterr().out
    assert f"Not enabled in this account, so nothing is there: {not_enabled}.\n" in said
    assert said.count(not_enabled) == 1
    assert f"Not looked at in {denied}: endpoints (not allowed to call ListEndpoints" in said
    assert list(deleted["region"]) == [fine]
    rehearsing.restore()
    cleanup.delete(session, regions=list(regions))


def test_a_region_out_of_reach_is_asked_once(session, regions, capsys):
    asked = []

    def break_down(request, **_):
        asked.append(request.url)
        raise EndpointConnectionError(endpoint_url="https://api.sagemaker.us-west-2.amazonaws.com")

    far = regions["us-west-2"]
    far._clients.clear()
    far.client("sagemaker", retries={"total_max_attempts": 1})
    far._clients[("sagemaker", "[]")] = far.client("sagemaker", retries={"total_max_attempts": 1})
    rehearsing._register(far, "before-send.sagemaker.*", break_down)
    rehearsing._register(far, "before-send.scheduler.*", break_down)
    assert cleanup.leftovers(session, regions=["us-east-1", "us-west-2"]).empty
    assert "Not looked at in us-west-2: anything (AWS cannot be reached" in capsys.readouterr().out
    assert len(asked) == 1
    far._clients.clear()


def test_a_region_that_is_none_is_refused(session):
    with pytest.raises(SettingsError, match="'mars' is not an AWS region"):
        cleanup.leftovers(session, regions=["mars"])


def test_the_same_bucket_seen_from_two_regions_is_one_thing(session, regions):
    bucket = made.bucket(session)
    mine = replace(session, settings=replace(session.settings, bucket=bucket))
    mine._clients = session._clients
    made.weights(mine, mine.participant)
    both = {
        name: replace(one, settings=mine.settings, participant=mine.participant)
        for name, one in regions.items()
    }
    pytest.MonkeyPatch().setattr(Session, "in_region", lambda self, name: both.get(name, self))
    left = cleanup.leftovers(mine, regions=["us-east-1", "us-east-2"])
    assert list(left["name"]) == [f"s3://{bucket}/inf2-workshop/{mine.participant}/"]
    assert cleanup.delete(mine, regions=["us-east-1", "us-east-2"])["result"][0] == "deleted"


# --- delete ---------------------------------------------------------------------------------


def test_deleting_leaves_nothing_and_says_what_it_cost(session, capsys):
    name = made.everything(session, session.participant)
    deleted = cleanup.delete(session)
    assert list(deleted["kind"]) == ALL
    assert set(deleted["result"]) == {"deleted"}
    hours = deleted["hours"][1]
    assert float(hours) > 0.1
    assert cleanup.leftovers(session).empty
    capsys.readouterr()
    cost = cleanup.bill(session, deleted)
    assert cost == pytest.approx(float(hours) * 0.99, abs=0.02)
    assert capsys.readouterr().out == f"{name}: {hours} h, ${cost:.2f} [rehearsal]\n"


def test_the_guard_goes_after_what_it_guards(refused):
    made.everything(refused, refused.participant)
    done = []
    for service in ("sagemaker", "application-autoscaling", "scheduler", "logs", "s3"):
        rehearsing.after(refused, "*", lambda model, **_: done.append(model.name), service=service)
    cleanup.delete(refused)
    assert [one for one in dict.fromkeys(done) if one.startswith(("Delete", "Dereg"))] == [
        "DeleteScalingPolicy",
        "DeregisterScalableTarget",
        "DeleteEndpoint",
        "DeleteEndpointConfig",
        "DeleteModel",
        "DeleteSchedule",
        "DeleteScheduleGroup",
        "DeleteLogGroup",
        "DeleteObjects",
    ]


def test_deleting_twice_is_safe(session, capsys):
    name = made.everything(session, session.participant, scaled=False)
    cleanup.delete(session)
    again = cleanup.delete(session)
    assert again.empty
    assert cleanup.bill(session, again) == 0
    assert "nothing was billed" in capsys.readouterr().out
    named = cleanup.delete(session, name=name)
    assert set(named["result"]) == {"was not there"}
    assert list(named["kind"]) == ["endpoint", "endpoint configuration", "model"]


def test_one_of_several_can_be_deleted_by_name(session):
    first = made.everything(session, session.participant, scaled=False)
    second = small(session, "llama-3-70b")
    made.schedule(session, second, group=f"inf2-workshop-{session.participant}")
    deleted = cleanup.delete(session, name=first)
    assert set(deleted["result"]) == {"deleted"}
    left = set(cleanup.leftovers(session)["name"])
    assert first not in left and second in left
    # The group and the folder are everything's: they stay.
    assert f"inf2-workshop-{session.participant}" in left
    assert endpoint.find(session).name == second
    cleanup.delete(session)
    assert cleanup.leftovers(session).empty


def test_logs_and_weights_can_be_kept(session):
    made.everything(session, session.participant, scaled=False)
    cleanup.delete(session, keep_logs=True, keep_weights=True)
    assert list(cleanup.leftovers(session)["kind"]) == ["log group", "weights folder"]
    cleanup.delete(session)


def test_halves_of_a_deployment_are_found_too(session):
    name = small(session)
    endpoint.remove(session, name)
    resources.delete(session, resources.CONFIG, name)
    cleanup.delete(session, keep_logs=True)
    assert "model" not in set(cleanup.leftovers(session)["kind"])
    cleanup.delete(session)


def test_what_goes_while_one_looks_was_not_there(refused):
    small(refused)
    view = cleanup.look(refused)
    cleanup.delete(refused)
    deleted = cleanup.delete_seen(refused, view)
    assert set(deleted["result"]) == {"was not there"}
    assert cleanup.bill(refused, deleted) == 0


def test_an_endpoint_that_is_coming_up_is_waited_for(refused, capsys):
    name = small(refused)
    refusals = iter(range(2))

    def still_creating(request, **_):
        if next(refusals, None) is None:
            return None
        body = b'{"__type": "ValidationException", "message": "Cannot update in-progress endpoint"}'
        return rehearsing.AWSResponse(request.url, 400, {}, rehearsing._Raw(body))

    rehearsing._register(refused, "before-send.sagemaker.DeleteEndpoint", still_creating)
    assert set(cleanup.delete(refused)["result"]) == {"deleted"}
    assert capsys.readouterr().out.count(f"The endpoint {name} is being created or changed") == 1


def test_nothing_is_deleted_without_confirmation(session):
    small(session)
    shown = []
    deleted = cleanup.delete(session, confirm=lambda table: shown.append(table))
    assert set(deleted["result"]) == {"kept: not confirmed."}
    assert set(shown[0]["kind"]) >= {"endpoint", "endpoint configuration", "model"}
    assert set(cleanup.delete(session, confirm=lambda table: True)["result"]) == {"deleted"}


# --- what goes wrong ------------------------------------------------------------------------


def test_one_failure_does_not_stop_the_others(refused):
    made.everything(refused, refused.participant)
    rehearsing.refuse(refused, "DeleteEndpointConfig", "AccessDeniedException", "no")
    became = results(cleanup.delete(refused))
    failed = became.pop("endpoint configuration")
    assert set(became.values()) == {"deleted"}
    assert "not allowed to call DeleteEndpointConfig" in failed
    rehearsing.restore()
    assert list(cleanup.leftovers(refused)["kind"]) == ["endpoint configuration"]
    cleanup.delete(refused)


def test_an_endpoint_that_cannot_be_deleted_keeps_its_guard_and_is_not_billed_as_gone(refused):
    name = made.everything(refused, refused.participant)
    rehearsing.refuse(refused, "DeleteEndpoint", "AccessDeniedException", "no")
    deleted = cleanup.delete(refused)
    became = results(deleted)
    assert became["scaling target"] == "deleted"
    assert became["endpoint"].startswith("failed: ")
    assert became["schedule"] == "kept: it deletes the endpoint, which is still there."
    assert became["schedule group"] == f"kept: the schedule {name} is in it."
    for kind in ("endpoint configuration", "model", "log group", "weights folder"):
        assert became[kind] == f"kept: the endpoint {name} is still there."
    assert (deleted["cost ($)"] == "").all()
    assert len(cleanup.remaining(deleted)) == 7
    rehearsing.restore()
    cleanup.delete(refused)
    assert cleanup.leftovers(refused).empty


def test_a_guard_stays_when_nobody_can_tell_whether_its_endpoint_is_there(refused, regions):
    region = participant(regions["us-east-2"], refused.participant)
    made.everything(region, refused.participant, scaled=False)
    for operation in ("ListEndpoints", "DescribeEndpoint"):
        rehearsing.refuse(region, operation, "AccessDeniedException", "no")
    became = results(cleanup.delete(refused, regions=["us-east-1", "us-east-2"]))
    assert "not allowed to call DescribeEndpoint" in became["schedule"]
    assert became["schedule group"].startswith("kept: the schedule")
    assert became["model"] == "kept: whether its endpoint is there could not be looked at."
    rehearsing.restore()
    cleanup.delete(region)


def test_each_guard_is_asked_about_right_before_it_goes(refused):
    first, second = (resources.name_of(refused.participant, one) for one in ("a", "llama-3-8b"))
    made.group(refused, refused.participant, made.tags_for(refused.participant))
    for name in (first, second):
        made.schedule(refused, name, group=f"inf2-workshop-{refused.participant}")
    once(refused, "DeleteSchedule", lambda: small(refused))
    became = cleanup.delete(refused).set_index("name")["result"]
    assert became[first] == "deleted"
    assert became[second] == "kept: it deletes the endpoint, which is still there."
    assert guard.expiry(refused, second)
    cleanup.delete(refused)


def once(session, operation, work, *, service="scheduler"):
    """Do something between the next such operation and what follows."""
    left = iter(range(1))

    def follow(**_):
        if next(left, None) is not None:
            work()

    rehearsing.after(session, operation, follow, service=service)


def coming(session, *, expires):
    """What deploys the participant's endpoint, with a time to live of 4 hours in its tag."""
    due = session.clock.now().replace(microsecond=0) + timedelta(hours=expires)
    tags = made.tags_for(session.participant, expires=f"{due:%Y-%m-%dT%H:%M:%SZ}")
    name = resources.name_of(session.participant, "llama-3-8b")
    return name, due, lambda: made.endpoint(session, name, tags)


def test_a_guard_is_put_back_when_its_endpoint_came_while_it_went(refused):
    name, due, deploy = coming(refused, expires=500)
    made.group(refused, refused.participant)
    made.schedule(refused, name, group=f"inf2-workshop-{refused.participant}", hours=300)
    once(refused, "DeleteSchedule", deploy)
    became = results(cleanup.delete(refused))
    assert became["schedule"].startswith(f"kept: the endpoint {name} came meanwhile; it deletes")
    assert became["schedule group"] == f"kept: the schedule {name} is in it."
    assert abs(guard.expiry(refused, name) - due) < timedelta(minutes=5)
    cleanup.delete(refused)


def test_a_guard_that_went_by_itself_is_put_back_as_well(refused):
    name, due, deploy = coming(refused, expires=500)
    group = f"inf2-workshop-{refused.participant}"
    made.group(refused, refused.participant)
    made.schedule(refused, name, group=group, hours=300)

    def meanwhile():
        refused.client("scheduler").delete_schedule(Name=name, GroupName=group)
        deploy()

    once(refused, "GetSchedule", meanwhile)
    became = results(cleanup.delete(refused))
    assert became["schedule"].startswith(f"kept: the endpoint {name} came meanwhile")
    assert abs(guard.expiry(refused, name) - due) < timedelta(minutes=5)
    cleanup.delete(refused)


def test_guards_are_put_back_that_went_with_their_group(refused):
    name, due, deploy = coming(refused, expires=500)
    group = f"inf2-workshop-{refused.participant}"
    made.group(refused, refused.participant)

    def meanwhile():
        made.schedule(refused, name, group=group, hours=500)
        deploy()

    once(refused, "ListSchedules", lambda: once(refused, "ListSchedules", meanwhile))
    became = results(cleanup.delete(refused))
    assert became["schedule group"].startswith(f"kept: the endpoint {name} came meanwhile")
    assert abs(guard.expiry(refused, name) - due) < timedelta(minutes=5)
    rehearsing.restore()
    cleanup.delete(refused)


def test_a_guard_that_cannot_be_put_back_is_no_success(refused):
    name, _, deploy = coming(refused, expires=500)
    made.group(refused, refused.participant)
    made.schedule(refused, name, group=f"inf2-workshop-{refused.participant}", hours=300)
    once(refused, "DeleteSchedule", deploy)
    for operation in ("CreateSchedule", "UpdateSchedule"):
        rehearsing.refuse(
            refused, operation, "AccessDeniedException", "no", service="scheduler", status=403
        )
    became = results(cleanup.delete(refused))
    for kind in ("schedule", "schedule group"):
        said = f"failed: the endpoint {name} came meanwhile and bills until it is deleted"
        assert became[kind].startswith(said)
    rehearsing.restore()
    cleanup.delete(refused)


def test_a_configuration_stays_when_its_endpoint_came_meanwhile(refused):
    name = resources.name_of(refused.participant, "llama-3-8b")
    made.model(refused, name, made.tags_for(refused.participant))
    made.config(refused, name, made.tags_for(refused.participant))
    view = cleanup.look(refused)
    refused.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    became = results(cleanup.delete_seen(refused, view))
    assert set(became.values()) == {f"kept: the endpoint {name} came meanwhile."}
    cleanup.delete(refused)


def test_a_guard_stays_when_its_endpoint_came_meanwhile(session):
    name = resources.name_of(session.participant, "llama-3-8b")
    made.group(session, session.participant)
    made.schedule(session, name, group=f"inf2-workshop-{session.participant}")
    view = cleanup.look(session)
    small(session)
    became = results(cleanup.delete_seen(session, view))
    assert became["schedule"].startswith("kept: it deletes the endpoint")
    cleanup.delete(session)


def test_a_group_stays_when_a_schedule_came_meanwhile_or_nobody_can_tell(refused):
    made.group(refused, refused.participant)
    view = cleanup.look(refused)
    coming = resources.name_of(refused.participant, "llama-3-8b")
    made.schedule(refused, coming, group=f"inf2-workshop-{refused.participant}")
    became = results(cleanup.delete_seen(refused, view))
    assert became == {"schedule group": f"kept: the schedule {coming} is in it."}
    rehearsing.refuse(
        refused, "ListSchedules", "AccessDeniedException", "no", service="scheduler", status=403
    )
    became = results(cleanup.delete(refused))
    assert "ListSchedules" in became["schedule group"]
    rehearsing.restore()
    assert set(cleanup.delete(refused)["result"]) == {"deleted"}


def test_a_deletion_that_is_accepted_and_does_not_happen_is_no_success(refused):
    small(refused)
    for operation in ("DeleteModel", "DeleteEndpoint"):
        accept_and_forget(refused, operation)
    became = results(cleanup.delete(refused))
    assert became["endpoint"].startswith("failed: still there 15 min after it was to be deleted")
    assert "may still bill" in became["endpoint"]
    rehearsing.restore()
    accept_and_forget(refused, "DeleteModel")
    became = results(cleanup.delete(refused))
    assert became["endpoint"] == "deleted"
    assert became["model"].startswith("failed: still there 1 min after it was to be deleted: run")
    rehearsing.restore()
    assert "model" in set(cleanup.leftovers(refused)["kind"])
    cleanup.delete(refused)


def accept_and_forget(session, operation):
    def answer(request, **_):
        return rehearsing.AWSResponse(request.url, 200, {}, rehearsing._Raw(b"{}"))

    rehearsing._register(session, f"before-send.sagemaker.{operation}", answer)


def test_what_is_throttled_to_the_end_is_named_and_can_be_run_again(refused):
    made.model(refused, f"inf2-workshop-{refused.participant}-llama-3-8b")
    impatient = refused.client("sagemaker", retries={"total_max_attempts": 1})
    refused._clients = {**refused._clients, ("sagemaker", "[]"): impatient}
    rehearsing.refuse(refused, "DeleteModel", "ThrottlingException", "Rate exceeded")
    failed = cleanup.delete(refused)["result"][0]
    assert failed.startswith("failed: The model") and "Rate exceeded" in failed
    rehearsing.restore()
    assert list(cleanup.delete(refused)["result"]) == ["deleted"]


def test_throttling_now_and_then_is_ridden_out(session):
    made.everything(session, session.participant, scaled=False)
    with session.fault("throttling", every=20):
        assert set(cleanup.delete(session)["result"]) == {"deleted"}


def test_a_network_that_comes_and_goes_does_not_end_the_wait(refused):
    name = small(refused)
    made.in_service(refused, name)
    view = cleanup.look(refused)
    lost = iter(range(3))

    def lose(**_):
        if next(lost, None) is not None:
            raise EndpointConnectionError(endpoint_url="https://sagemaker")

    rehearsing.after(refused, "DescribeEndpoint", lose)
    assert set(cleanup.delete_seen(refused, view)["result"]) == {"deleted"}


def test_an_endpoint_without_configuration_is_deleted_without_a_price(session):
    name = small(session)
    resources.delete(session, resources.CONFIG, name)
    deleted = cleanup.delete(session)
    assert deleted["result"][0] == "deleted, its price is unknown"
    assert cleanup.leftovers(session).empty


@pytest.mark.parametrize(
    ("operation", "service", "left"),
    [
        ("DeleteEndpoint", "sagemaker", 7),
        ("DeleteScheduleGroup", "scheduler", 3),
    ],
)
def test_an_interrupt_says_what_is_left_and_another_run_deletes_it(
    refused, operation, service, left
):
    name = made.everything(refused, refused.participant)
    rehearsing.fail_after(refused, operation, KeyboardInterrupt(), service=service)
    with pytest.raises(EndpointError) as told:
        cleanup.delete(refused)
    rehearsing.restore()
    said = str(told.value)
    assert said.startswith(f"Interrupted: {8 - left} of 8 deleted, left may be ")
    assert said.count(" in us-east-1") == left
    assert (f"endpoint {name} in us-east-1 (bills until it is gone, deletes" in said) == (left > 6)
    assert "python -m helpers.cleanup`) again." in said
    cleanup.delete(refused)
    assert cleanup.leftovers(refused).empty


def test_an_interrupt_while_looking_says_that_nothing_was_deleted(refused, run):
    small(refused)
    rehearsing.fail_after(refused, "ListEndpoints", KeyboardInterrupt())
    with pytest.raises(EndpointError, match="^Interrupted: nothing was deleted.$"):
        cleanup.delete(refused)
    assert run("--yes", "--participant", refused.participant) == (
        1,
        "Interrupted: nothing was deleted.\n",
    )
    rehearsing.restore()
    cleanup.delete(refused)


def test_an_interrupt_after_the_deletion_does_not_say_that_nothing_was(session, run, monkeypatch):
    small(session)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "bill", interrupt)
    status, said = run("--yes", "--participant", session.participant)
    assert status == 1 and "nothing was deleted" not in said
    assert said.endswith("Interrupted after the deletion: run it again to see what is left.\n")
    assert cleanup.leftovers(session).empty


def test_an_interrupt_while_a_command_is_imported_is_a_word(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["-m", "--yes"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    importlib.reload(helpers)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "Interrupted.\n"
    sys.excepthook(ValueError, ValueError("it is said as ever"), None)
    assert "ValueError: it is said as ever" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused_and_takes_nothing(session, run, name):
    made.weights(session, session.participant)
    with pytest.raises(SettingsError, match="The name of the deployment is empty: give one"):
        cleanup.delete(session, name=name)
    assert run("--yes", "--participant", session.participant, "--name", name)[0] == 1
    assert len(cleanup.delete(session)) == 1


# --- many participants ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(shared, elsewhere):
    """16 participants in two regions, as a workshop in one account has them."""
    sessions = [shared, elsewhere["us-east-2"]]
    names = {}
    for number in range(16):
        who, region = f"guest-{number}", sessions[number % 2]
        names[who] = made.everything(region, who, scaled=False, hours=number and 4000)
    return names


def test_the_instructor_sees_one_row_a_participant_in_time(shared, elsewhere, crowd):
    started_s = time.monotonic()
    table = cleanup.participants(shared, regions=INF2_48XLARGE_REGIONS)
    assert time.monotonic() - started_s < 10
    guests = table[table["participant"].str.startswith("guest-")].set_index("participant")
    assert sorted(guests.index) == sorted(crowd)
    assert set(guests["endpoints"]) == set(guests["instances"]) == {1}
    assert set(guests["$/h"]) == {0.99}
    assert set(guests["regions"]) == {"us-east-1", "us-east-2"}
    assert set(guests["other things"]) == {5, 6}
    assert guests.loc["guest-0", "expires"] == "never"
    assert guests.loc["guest-1", "expires"].endswith("UTC")
    assert (guests["so far ($)"] >= 0).all() and (guests["hours"] >= 0).all()
    assert list(table["so far ($)"]) == sorted(table["so far ($)"], reverse=True)


def test_many_participants_do_not_touch_each_others_things(shared, regions, crowd):
    everywhere = ["us-east-1", "us-east-2"]
    before = cleanup.leftovers(shared, regions=everywhere, everyone=True)
    for who in ("guest-1", "guest-2"):
        deleted = cleanup.delete(participant(shared, who), regions=everywhere)
        assert len(deleted) == 7 and set(deleted["result"]) == {"deleted"}
    after = cleanup.leftovers(shared, regions=everywhere, everyone=True)
    gone = set(before["participant"]) - set(after["participant"])
    assert gone == {"guest-1", "guest-2"}
    rest = before[~before["participant"].isin(gone)]
    assert sorted(rest["name"]) == sorted(after["name"])


def test_the_instructor_can_end_it_for_everyone(shared, regions, crowd):
    made.model(regions["us-east-2"], "inf2-workshop-who-knows")
    deleted = cleanup.delete(shared, regions="us-east-2", everyone=True)
    assert len(set(deleted["participant"])) == 8 and "?" in set(deleted["participant"])
    assert set(deleted["result"]) == {"deleted"}
    assert cleanup.leftovers(shared, regions="us-east-2", everyone=True).empty


def test_who_has_nothing_up_is_in_the_instructors_view_as_well(session, regions):
    made.model(session, f"inf2-workshop-{session.participant}-llama-3-8b")
    table = cleanup.participants(session).set_index("participant")
    row = table.loc[session.participant]
    assert (row["endpoints"], row["other things"], row["$/h"], row["expires"]) == (0, 1, 0, "")
    cleanup.delete(session)


def test_the_instructor_is_told_the_name_that_does_not_fit_into_names(session):
    given = "Dora Müller-Lüdenscheidt; 3rd"
    dora = replace(
        session,
        settings=replace(session.settings, participant=given),
        participant=sessions._slug(given),
    )
    dora._clients = session._clients
    tags = resources.tags(dora, "llama-3-8b")
    assert tags["person"] == "Dora Müller-Lüdenscheidt  3rd"  # no tag may have a semicolon
    assert "person" not in resources.tags(session, "llama-3-8b")
    made.model(dora, resources.name_of(dora.participant, "llama-3-8b"), tags)
    table = cleanup.participants(session).set_index("participant")
    assert table.loc[dora.participant, "person"] == tags["person"]
    cleanup.delete(dora)


# --- the command line -----------------------------------------------------------------------


@pytest.fixture
def run(shared, capsys, monkeypatch):
    """The command line, with the test's session: to open one takes a second."""

    def opened(target, *, participant=None):
        return of(shared, participant or shared.participant)

    def run(*arguments):
        capsys.readouterr()
        status = command.main(arguments)
        said = capsys.readouterr()
        return status, said.out + said.err

    of = participant
    monkeypatch.setattr(command, "open_session", opened)
    return run


def on_a_terminal(monkeypatch, answer):
    def reply(question):
        print(question)
        if isinstance(answer, type):
            raise answer
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", reply)


def test_a_dry_run_shows_what_is_there_and_deletes_nothing(session, run):
    name = small(session)
    status, said = run("--dry-run", "--participant", session.participant)
    assert status == 1
    assert f"{name} us-east-1" in said and "so far: $" in said
    assert statuses(session, name)
    cleanup.delete(session)
    status, said = run("--dry-run", "--participant", session.participant)
    assert (status, said) == (
        0,
        f"[rehearsal] Nothing of participant {session.participant} is here (us-east-1).\n",
    )


def test_without_a_terminal_nothing_is_deleted_unless_told_so(session, run):
    name = small(session)
    status, said = run("--participant", session.participant)
    assert status == 1
    assert said.splitlines()[-1].startswith("Nobody can be asked here: give --yes")
    assert statuses(session, name)
    status, said = run("--yes", "--participant", session.participant)
    assert status == 0
    assert "0 left." in said and f"{name}: " in said
    # Where nothing is there is nothing to ask.
    assert run("--participant", session.participant)[0] == 0


@pytest.mark.parametrize("answer", ["", "n", "no", EOFError, KeyboardInterrupt])
def test_only_a_yes_is_one(session, run, monkeypatch, answer):
    made.model(session, f"inf2-workshop-{session.participant}-llama-3-8b")
    on_a_terminal(monkeypatch, answer)
    status, said = run("--participant", session.participant)
    assert status == 1
    assert f"Delete 1 thing of {session.participant}? You are rehearsal. [y/N]" in said
    assert ("Interrupted: nothing was deleted." in said) == (answer is KeyboardInterrupt)
    on_a_terminal(monkeypatch, "y")
    status, said = run("--participant", session.participant)
    assert status == 0 and "1 deleted, 0 left." in said


def test_what_is_another_participants_is_said_to_be(session, run):
    made.model(session, f"inf2-workshop-{session.participant}-llama-3-8b")
    status, said = run("--yes", "--participant", session.participant)
    assert status == 0
    assert f"These are {session.participant}'s, and you are rehearsal." in said
    mine = participant(session, "rehearsal")
    made.model(mine, "inf2-workshop-rehearsal-llama-3-8b")
    status, said = run("--yes")
    assert status == 0 and "you are" not in said


def test_what_is_kept_as_asked_is_counted(session, run):
    made.weights(session, session.participant)
    made.model(session, f"inf2-workshop-{session.participant}-llama-3-8b")
    status, said = run("--yes", "--participant", session.participant, "--keep-weights")
    assert status == 0
    assert said.endswith("1 deleted, 0 left, 1 kept as you asked.\n")
    cleanup.delete(session)


def test_for_everyone_the_question_is_short_and_says_whose(elsewhere, run, monkeypatch):
    far = elsewhere["eu-central-1"]
    for who in ("anna", "bob", "dora"):
        small(participant(far, who))
    monkeypatch.setattr(Session, "in_region", lambda self, name: far)
    on_a_terminal(monkeypatch, "n")
    status, said = run("--everyone", "--region", "eu-central-1")
    asked = (
        r"Delete 3 endpoints \(\$2.97/h\) of anna, bob, dora and \d things that belong to them\?"
    )
    assert status == 1 and re.search(rf"^{asked} \[y/N\] $", said, re.MULTILINE)
    assert said.endswith("Nothing was deleted.\n")
    assert [line.split()[1] for line in said.partition("so far:")[0].splitlines()] == [
        "participant",
        "anna",
        "bob",
        "dora",
    ]
    # A look shows each thing, participant by participant.
    shown = run("--everyone", "--region", "eu-central-1", "--dry-run")[1]
    assert re.findall(r"(\w+) +endpoint +inf2", shown) == ["anna", "bob", "dora"]
    on_a_terminal(monkeypatch, "y")
    assert run("--everyone", "--region", "eu-central-1")[0] == 0


def test_what_is_left_is_said_with_its_reason(session, run):
    made.model(session, f"inf2-workshop-{session.participant}-my-own")
    status, said = run("--yes", "--participant", session.participant)
    assert status == 1
    assert "0 deleted, 1 left." in said and "kept: it has no tags" in said
    name = f"inf2-workshop-{session.participant}-my-own"
    assert run("--yes", "--participant", session.participant, "--name", name)[0] == 0


def test_the_command_line_looks_where_it_is_told(session, regions, run):
    far = participant(regions["eu-central-1"], session.participant)
    made.model(far, f"inf2-workshop-{session.participant}-llama-3-8b")
    mine = ("--participant", session.participant)
    assert run("--dry-run", *mine)[0] == 0
    two = ("--region", "us-east-2", "--region", "eu-central-1")
    status, said = run("--dry-run", *two, *mine)
    assert status == 1 and "eu-central-1" in said
    assert run("--yes", *two, *mine)[0] == 0


def test_all_regions_are_those_that_have_sagemaker(session, run, monkeypatch):
    looked = []
    monkeypatch.setattr(resources, "look", lambda at, _: looked.append(at.region) or ([], []))
    status, said = run("--all-regions", "--dry-run", "--participant", session.participant)
    assert status == 0 and said.endswith(f" is here ({len(looked)} regions).\n")
    assert {session.region, "ca-central-1", *INF2_48XLARGE_REGIONS} <= set(looked)
    assert len(looked) == len(set(looked)) > 30


def test_the_instructors_view_from_the_command_line(session, run):
    small(session)
    status, said = run("--participants")
    assert status == 1 and session.participant in said
    cleanup.delete(session)


def test_a_mistake_is_a_sentence(shared, capsys):
    assert command.main(("--dry-run", "--region", "mars")) == 1
    assert capsys.readouterr().err.startswith("'mars' is not an AWS region")
