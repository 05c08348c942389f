import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import rehearsing
from hypothesis import given
from hypothesis import strategies as st

from helpers import cleanup, endpoint, guard, recipes, resources, sdk
from helpers.endpoint import deployed
from helpers.errors import EndpointError, EndpointMissing, GuardError
from helpers.session import open_session

SMALL = recipes.get("llama-3-8b")
LONG_H = 2000


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    sdk.sagemaker_core("resources")  # hours of AWS time, and no time to live may end meanwhile
    with rehearsing.server(tmp_path_factory.mktemp("guard")):
        yield open_session()


@pytest.fixture
def session(shared):
    """A participant of the test's own, who leaves nothing behind."""
    mine = rehearsing.participant(shared)
    yield mine
    rehearsing.restore()
    cleanup.delete(mine)


def deploy(session, *, ttl_h=LONG_H):
    return endpoint.deploy(
        session, SMALL, role=session.role(), hf_token="hf_of_nobody", ttl_h=ttl_h
    )


def scheduled(session, name):
    return session.client("scheduler").get_schedule(GroupName=guard.group_of(session), Name=name)


def schedules(session):
    return resources.of_participant(session, resources.SCHEDULE)


def refuse(session, operation):
    rehearsing.refuse(session, operation, "AccessDeniedException", "no", service="scheduler")


def journal(session):
    with urllib.request.urlopen(f"{session.boto.endpoint_url}/_rehearsal/journal") as answer:
        return [one for one in json.load(answer) if f"-{session.participant}-" in one["name"]]


def operations(session):
    return [one["operation"] for one in journal(session)]


def hours_to(session, due):
    return (due - session.clock.now()).total_seconds() / 3600


# --- a closed laptop


def test_after_its_time_to_live_the_endpoint_is_gone_though_no_client_runs(session):
    made = deploy(session, ttl_h=1)
    due = guard.expiry(session, made.name)
    time.sleep(3600 / rehearsing.SPEED + 0.3)  # nobody asks AWS anything
    last = journal(session)[-1]
    assert last["operation"] == "DeleteEndpoint"
    assert last["time"] == due.timestamp()
    assert deployed.status_of(session, made.name) is None
    assert rehearsing.until(lambda: schedules(session) == [])  # it has deleted itself too


def test_what_is_due_while_the_endpoint_is_creating_is_tried_until_it_can_be_deleted(session):
    made = deploy(session)
    due = guard.protect(session, made.name, hours=0.02, recipe_name=SMALL.name)
    assert rehearsing.until(lambda: "DeleteEndpoint" in operations(session))
    deleted = next(one["time"] for one in journal(session) if one["operation"] == "DeleteEndpoint")
    assert due.timestamp() < made.created.timestamp() + 470 < deleted < due.timestamp() + 1200


# --- the schedule


def test_the_schedule_deletes_its_endpoint_once_and_outlives_a_start_up(session):
    made = deploy(session, ttl_h=3)
    told = scheduled(session, made.name)
    assert told["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint"
    assert json.loads(told["Target"]["Input"]) == {"EndpointName": made.name}
    assert told["Target"]["RetryPolicy"] == guard.RETRY_POLICY
    assert told["ActionAfterCompletion"] == "DELETE"
    assert f"participant {session.participant}, recipe llama-3-8b" in told["Description"]
    due = guard.expiry(session, made.name)
    assert due - made.created == pytest.approx(timedelta(hours=3), abs=timedelta(minutes=20))


def test_the_group_carries_the_tags_that_schedules_cannot(session):
    deploy(session)
    client = session.client("scheduler")
    group = client.get_schedule_group(Name=f"inf2-workshop-{session.participant}")
    tags = client.list_tags_for_resource(ResourceArn=group["Arn"])["Tags"]
    assert {one["Key"]: one["Value"] for one in tags} == {
        "workshop": "inferentia2",
        "participant": session.participant,
    }


def test_it_is_there_before_what_bills(session):
    seen = []

    def look(**_):
        seen.append(guard.expiry(session, resources.name_of(session.participant, SMALL.name)))

    rehearsing.after(session, "CreateModel", look)
    deploy(session)
    assert seen != [None]


@pytest.mark.parametrize("operation", ["UpdateSchedule", "CreateScheduleGroup", "CreateSchedule"])
def test_without_the_schedule_nothing_that_bills_is_made(session, operation):
    refuse(session, operation)
    with pytest.raises(GuardError, match=f"not allowed to call {operation}.*ttl_h=None"):
        deploy(session)
    assert operations(session) == []


def test_a_schedule_that_vanishes_during_the_deployment_is_made_again(session):
    name = resources.name_of(session.participant, SMALL.name)
    rehearsing.after(session, "CreateModel", lambda **_: guard.remove(session, name))
    deploy(session)
    assert hours_to(session, guard.expiry(session, name)) > LONG_H - 10


def test_a_group_that_is_being_deleted_is_waited_for(session):
    left = iter(range(2))

    def conflict(parsed, http_response=None, **_):
        if next(left, None) is not None:
            error = {"Code": "ConflictException", "Message": "being deleted"}
            from botocore.exceptions import ClientError

            raise ClientError({"Error": error}, "CreateSchedule")

    rehearsing.after(session, "CreateScheduleGroup", conflict, service="scheduler")
    rehearsing.after(session, "CreateSchedule", conflict, service="scheduler")
    assert deploy(session).status
    assert next(left, None) is None


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf"), 1e9])
def test_hours_that_are_no_time_to_live_are_refused(session, hours):
    with pytest.raises(GuardError, match="more than 0 and at most"):
        guard.protect(session, "x", hours=hours, recipe_name="")


@given(st.floats(min_value=0.01, max_value=guard.LONGEST_H))
def test_what_is_scheduled_is_what_is_read_back(hours):
    due = datetime(2026, 11, 28, tzinfo=UTC) + timedelta(seconds=int(hours * 3600))
    expression = f"at({due.strftime('%Y-%m-%dT%H:%M:%S')})"
    assert resources.moment({"ScheduleExpression": expression, "State": "ENABLED"}) == due
    assert resources.moment({"ScheduleExpression": expression, "State": "DISABLED"}) is None


def test_a_schedule_of_another_kind_is_no_time_to_live():
    assert resources.moment({"ScheduleExpression": "rate(1 hour)", "State": "ENABLED"}) is None


def test_the_readers_hours_are_longer_where_the_clock_runs_ahead(session):
    assert guard.aws_hours(session, 4) == 4 * rehearsing.SPEED
    assert guard.aws_hours(session, None) is None


# --- attaching


def test_a_time_to_live_that_ends_before_the_model_is_loaded_is_refused(session):
    with pytest.raises(EndpointError, match="ends before the endpoint answers, after about 8 min"):
        deploy(session, ttl_h=0.1)
    assert operations(session) == []


def test_attaching_says_the_expiry_and_keeps_it_be_it_earlier_or_later(session, capsys):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    for ttl_h in (LONG_H / 2, LONG_H * 2, None):
        capsys.readouterr()
        deploy(session, ttl_h=ttl_h)
        assert guard.expiry(session, made.name) == due
        assert "deletes itself at" in capsys.readouterr().out


def test_attaching_to_an_endpoint_without_a_schedule_makes_one(session):
    made = deploy(session, ttl_h=None)
    assert guard.expiry(session, made.name) is None
    deploy(session)
    due = guard.expiry(session, made.name)
    assert hours_to(session, due) == pytest.approx(LONG_H, abs=1)
    assert tag(session, made) == due.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_attaching_to_another_configuration_is_refused_but_not_left_without_a_schedule(session):
    made = deploy(session, ttl_h=None)
    other = recipes.get(SMALL.name, MAX_BATCH_SIZE=1)
    with pytest.raises(EndpointError, match="another configuration"):
        endpoint.deploy(session, other, role=session.role(), hf_token="hf_x", ttl_h=LONG_H)
    assert guard.expiry(session, made.name)


def test_an_expiry_that_has_passed_is_replaced(session):
    made = deploy(session)
    rehearsing.pretend(
        session,
        "GetSchedule",
        times=1,
        service="scheduler",
        ScheduleExpression="at(2026-01-01T00:00:00)",
    )
    deploy(session, ttl_h=LONG_H / 2)
    assert hours_to(session, guard.expiry(session, made.name)) < LONG_H / 2


def test_a_failed_endpoint_is_replaced_under_one_schedule(session):
    with session.fault("no-capacity"), pytest.raises(EndpointError):
        endpoint.wait(session, deploy(session, ttl_h=LONG_H / 2))
    made = deploy(session)
    assert [one.name for one in schedules(session)] == [made.name]
    assert hours_to(session, guard.expiry(session, made.name)) > LONG_H - 10


def test_without_a_guard_a_schedule_of_an_earlier_endpoint_goes(session, capsys):
    made = deploy(session)
    deployed.remove(session, made.name)
    deploy(session, ttl_h=None)
    assert schedules(session) == []
    assert "has no time to live: it bills until you delete it" in capsys.readouterr().out


def test_who_wants_no_guard_needs_no_right_to_one(session):
    for operation in ("GetSchedule", "DeleteSchedule", "ListSchedules"):
        refuse(session, operation)
    assert deploy(session, ttl_h=None).status


# --- extend and cancel


def tag(session, made):
    found = resources.of_participant(session, resources.ENDPOINT)
    return resources.tags_of(session, next(one.arn for one in found))["expires"]


def test_an_extension_survives_another_deployment_and_stands_in_the_tags(session, capsys):
    made = deploy(session, ttl_h=LONG_H / 2)
    due = guard.extend(session, hours=LONG_H)
    assert guard.expiry(session, made.name) == due
    assert hours_to(session, due) == pytest.approx(LONG_H, abs=1)
    assert f"{made.name} deletes itself at" in capsys.readouterr().out
    deploy(session, ttl_h=LONG_H / 2)
    assert guard.expiry(session, made.name) == due
    assert tag(session, made) == due.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_extension_never_shortens(session):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    assert guard.extend(session, made.name, hours=1) == due == guard.expiry(session, made.name)


def test_a_cancelled_endpoint_bills_until_it_is_deleted_or_extended(session, capsys):
    made = deploy(session)
    guard.cancel(session)
    assert "it bills $0.99 an hour until you run 08_clean_up" in capsys.readouterr().out
    assert guard.expiry(session, made.name) is None
    assert tag(session, made) == "never"
    guard.cancel(session, made.name)
    assert "had no time to live" in capsys.readouterr().out
    assert guard.limit(session, hours=1) == guard.expiry(session, made.name)
    assert tag(session, made) != "never"


@pytest.mark.parametrize("how", ["deployed without one", "cancelled"])
def test_an_extension_leaves_an_endpoint_without_a_time_to_live_alone(session, how, capsys):
    made = deploy(session, ttl_h=None if how == "deployed without one" else LONG_H)
    guard.cancel(session)
    capsys.readouterr()
    assert guard.extend(session, hours=LONG_H) is None
    said = capsys.readouterr().out
    assert "has no time to live, and an extension gives it none: guard.limit, or" in said
    assert said.count("\n") == 1
    assert guard.expiry(session, made.name) is None
    assert tag(session, made) == "never"


def test_an_extension_that_changes_nothing_says_so(session, capsys):
    made = deploy(session)
    capsys.readouterr()
    guard.extend(session, made.name, hours=1)
    assert ", unchanged: that is later than you ask for" in capsys.readouterr().out
    guard.extend(session, made.name, hours=2 * LONG_H)
    assert "unchanged" not in capsys.readouterr().out


def test_a_limit_may_be_earlier_than_what_was_scheduled(session):
    made = deploy(session)
    due = guard.limit(session, hours=LONG_H / 2)
    assert guard.expiry(session, made.name) == due
    assert hours_to(session, due) == pytest.approx(LONG_H / 2, abs=1)


@pytest.mark.parametrize("hours", ["3", None, True, [1], 10**400])
@pytest.mark.parametrize("change", [guard.extend, guard.limit])
def test_what_is_no_number_of_hours_is_one_sentence(session, change, hours):
    with pytest.raises(GuardError, match="A time to live is a number of hours"):
        change(session, hours=hours)


# --- a guard that somebody takes away


def test_a_schedule_that_vanishes_while_it_is_waited_for_is_put_back(session, capsys):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    session.client("scheduler").delete_schedule_group(Name=guard.group_of(session))
    endpoint.wait(session, made)
    assert guard.expiry(session, made.name) == due
    assert f"The time to live of {made.name} was gone and is there again" in capsys.readouterr().out


def test_a_cancelled_one_is_not_put_back_while_it_is_waited_for(session):
    made = deploy(session)
    guard.cancel(session)
    endpoint.wait(session, made)
    assert guard.expiry(session, made.name) is None


def test_who_may_not_look_at_the_schedule_waits_all_the_same(session, capsys):
    made = deploy(session)
    refuse(session, "GetSchedule")
    assert endpoint.wait(session, made).status == "InService"
    assert "still deletes itself is not known" in capsys.readouterr().out


@pytest.mark.parametrize(
    "remove",
    [
        lambda session, _: guard.remove_group(session),
        lambda session, name: guard.remove(session, f"{name}-x"),
    ],
)
def test_a_deployment_while_the_group_is_removed_keeps_its_time_to_live(session, remove):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    # The group was still empty when it was looked at.
    rehearsing.pretend(session, "ListSchedules", times=1, service="scheduler", Schedules=[])
    remove(session, made.name)
    assert guard.expiry(session, made.name) == due


def test_a_schedule_is_put_back_when_its_endpoint_is_there_after_its_removal(session):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    guard.remove(session, made.name)
    assert guard.expiry(session, made.name) == due


def test_what_is_put_back_is_never_due_in_the_past(session):
    made = deploy(session)
    late = replace(endpoint.look(session, made.name), expires="2026-01-01T00:00:00Z")
    guard.remove_group(session)
    session.client("scheduler").delete_schedule(GroupName=guard.group_of(session), Name=made.name)
    assert guard.mend(session, late) > session.clock.now() - timedelta(minutes=10)


def test_without_an_endpoint_there_is_nothing_to_extend_or_cancel(session):
    with pytest.raises(EndpointMissing):
        guard.extend(session, hours=1)
    with pytest.raises(EndpointMissing):
        guard.cancel(session)


def test_tags_that_may_not_be_written_are_no_reason_to_fail(session):
    made = deploy(session, ttl_h=LONG_H / 2)
    rehearsing.refuse(session, "AddTags", "AccessDeniedException", "no")
    rehearsing.refuse(session, "TagResource", "AccessDeniedException", "no", service="logs")
    assert guard.extend(session, hours=LONG_H) == guard.expiry(session, made.name)


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("GetSchedule", lambda session, name: guard.expiry(session, name)),
        ("ListSchedules", lambda session, name: guard.remove(session, "none")),
        ("DeleteSchedule", lambda session, name: guard.remove(session, name)),
        ("DeleteScheduleGroup", lambda session, name: guard.remove(session, name)),
        ("UpdateSchedule", lambda session, name: guard.extend(session, hours=2 * LONG_H)),
    ],
)
def test_what_the_scheduler_refuses_is_one_sentence(session, operation, call):
    made = deploy(session)
    refuse(session, operation)
    with pytest.raises(GuardError, match=f"not allowed to call {operation}"):
        call(session, made.name)


# --- another participant's


@pytest.fixture
def anna(session, shared):
    """Another participant, who has nothing."""
    return rehearsing.participant(shared, f"{session.participant}-anna")


@pytest.mark.parametrize("change", [guard.limit, guard.extend])
def test_who_changes_anothers_time_to_live_changes_the_owners_schedule(
    session, anna, change, capsys
):
    made = deploy(session, ttl_h=LONG_H / 2)
    due = change(anna, made.name, hours=LONG_H)
    assert f"{made.name} is {session.participant}'s, and you are" in capsys.readouterr().out
    assert guard.expiry(session, made.name) == due
    assert hours_to(session, due) == pytest.approx(LONG_H, abs=1)
    assert schedules(anna) == []
    assert tag(session, made) == due.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_who_cancels_anothers_time_to_live_deletes_the_owners_schedule(session, anna, capsys):
    made = deploy(session)
    guard.cancel(anna, made.name)
    assert f"until {session.participant} runs 08_clean_up" in capsys.readouterr().out
    assert guard.expiry(session, made.name) is None
    assert schedules(session) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda session, name: guard.extend(session, name, hours=2 * LONG_H),
        lambda session, name: guard.limit(session, name, hours=1),
        lambda session, name: guard.cancel(session, name),
    ],
)
def test_who_may_not_change_anothers_endpoint_is_told_whose_it_is(session, anna, change):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    rehearsing.refuse(session, "AddTags", "AccessDeniedException", "no")
    whose = f"is {session.participant}'s, and how long it lives is for {session.participant} or an"
    with pytest.raises(GuardError, match=whose):
        change(anna, made.name)
    assert guard.expiry(session, made.name) == due


def protect_as(anna, made, hours):
    """A schedule for an endpoint in another's group, as earlier versions made it."""
    return guard.protect(anna, made.name, hours=hours, recipe_name="")


def test_the_first_of_several_schedules_is_when_an_endpoint_deletes_itself(session, anna):
    made = deploy(session)
    due = protect_as(anna, made, LONG_H / 2)
    assert guard.expiry(session, made.name) == due
    guard.limit(session, hours=LONG_H)
    assert hours_to(session, guard.expiry(session, made.name)) == pytest.approx(LONG_H, abs=1)
    protect_as(anna, made, LONG_H / 2)
    guard.cancel(session)
    assert guard.expiry(session, made.name) is None
    cleanup.delete(anna)


def test_a_clean_up_takes_a_schedule_for_anothers_endpoint_and_leaves_the_endpoints_own(
    session, anna
):
    made = deploy(session)
    due = guard.expiry(session, made.name)
    protect_as(anna, made, 2 * LONG_H)
    deleted = cleanup.delete(anna)
    assert sorted(deleted["kind"]) == ["schedule", "schedule group"]
    assert set(deleted["result"]) == {"deleted"}
    assert guard.expiry(session, made.name) == due
    assert [one.name for one in schedules(session)] == [made.name]


def test_an_endpoint_that_is_named_is_shown_with_whose_it_is(session, anna, capsys, monkeypatch):
    monkeypatch.setenv("WORKSHOP_PARTICIPANT", anna.participant)
    made = deploy(session)
    capsys.readouterr()
    assert guard.main(["--endpoint", made.name]) == 0
    line = capsys.readouterr().out
    assert f"{made.name} of participant {session.participant} is " in line
    assert "; it deletes itself at 20" in line


# --- what is running


def test_nothing_running_is_said(session, capsys):
    guard.say_running(session)
    assert capsys.readouterr().out == (
        f"[rehearsal] Nothing of participant {session.participant} is running in us-east-1.\n"
    )


def said(session, capsys):
    capsys.readouterr()
    guard.say_running(session)
    return capsys.readouterr().out


def test_what_runs_is_said_with_its_cost_and_its_end(session, capsys):
    made = endpoint.wait(session, deploy(session))
    line = said(session, capsys)
    assert line.startswith(f"{made.name} is InService since 20")
    assert " UTC, 0." in line
    assert " h, $0." in line
    assert "so far; it deletes itself at 20" in line
    assert line.endswith(" h of yours) [rehearsal]\n")
    guard.cancel(session)
    assert "it has no time to live: it bills until you delete it" in said(session, capsys)


@pytest.mark.parametrize(
    ("status", "words"), [("Failed", "has failed: 08_clean_up"), ("Deleting", "is being deleted")]
)
def test_what_has_failed_or_goes_is_said_too(session, capsys, status, words):
    deploy(session)
    rehearsing.pretend(session, "DescribeEndpoint", EndpointStatus=status)
    assert words in said(session, capsys)
    rehearsing.restore()


def test_an_endpoint_that_should_be_gone_is_said(session, capsys):
    deploy(session)
    past = {"ScheduleExpression": "at(2026-01-01T00:00:00)"}
    rehearsing.pretend(session, "GetSchedule", service="scheduler", **past)
    assert "should have deleted itself at 2026-01-01 00:00 UTC" in said(session, capsys)


def test_what_cannot_be_told_is_said_and_raises_nothing(session, capsys):
    rehearsing.refuse(session, "ListEndpoints", "AccessDeniedException", "no")
    assert "What is running cannot be told: The endpoints" in said(session, capsys)


# --- clean-up


def test_the_group_goes_with_its_last_schedule(session):
    first, second = (f"inf2-workshop-{session.participant}-{end}" for end in "ab")
    for name in (first, second):
        guard.protect(session, name, hours=1, recipe_name="")
    assert guard.remove(session, first) is True
    assert guard.expiry(session, second)
    assert guard.remove(session, second) is True
    assert guard.remove(session, second) is False
    assert guard.remove_group(session) is False
    assert resources.of_participant(session, resources.SCHEDULE_GROUP) == []


def test_participants_have_schedules_of_their_own(session, shared):
    other = replace(shared, participant=f"{session.participant}-b")
    mine, theirs = "inf2-workshop-mine", "inf2-workshop-theirs"
    guard.protect(session, mine, hours=1, recipe_name="")
    guard.protect(other, theirs, hours=1, recipe_name="")
    guard.remove(session, theirs)
    assert guard.expiry(other, theirs)
    guard.remove(other, theirs)
    guard.remove(session, mine)


# --- command line


def test_the_command_line_shows_extends_and_cancels(session, capsys, monkeypatch):
    monkeypatch.setenv("WORKSHOP_PARTICIPANT", session.participant)
    made = deploy(session)
    capsys.readouterr()
    assert guard.main([]) == 0
    assert f"{made.name} is " in capsys.readouterr().out
    assert guard.main(["--extend", "2"]) == 0  # of the reader's
    assert "deletes itself at" in capsys.readouterr().out
    due = guard.expiry(session, made.name)
    assert hours_to(session, due) == pytest.approx(2 * rehearsing.SPEED, abs=2)
    assert guard.main(["--extend", "1"]) == 0
    assert ", unchanged: that is later than you ask for" in capsys.readouterr().out
    assert guard.expiry(session, made.name) == due
    assert guard.main(["--limit", "1"]) == 0
    due = guard.expiry(session, made.name)
    assert hours_to(session, due) == pytest.approx(rehearsing.SPEED, abs=2)
    assert guard.main(["--cancel", "--endpoint", made.name]) == 0
    assert guard.expiry(session, made.name) is None
    capsys.readouterr()
    assert guard.main(["--extend", "2"]) == 0
    assert "has no time to live, and an extension gives it none" in capsys.readouterr().out
    assert guard.expiry(session, made.name) is None


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("verb", ["--extend", "--limit"])
def test_the_command_line_names_its_own_word_for_no_time_to_live(session, capsys, verb, hours):
    assert guard.main([verb, hours]) == 1
    said = capsys.readouterr().err
    assert "more than 0" in said
    assert "--cancel for none" in said
    assert "None" not in said


def test_an_empty_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        guard.main(["--endpoint", "", "--cancel"])
    assert "leave --endpoint out" in capsys.readouterr().err


def test_an_interrupt_of_the_command_line_is_one_sentence(session, capsys, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(guard, "open_session", interrupt)
    assert guard.main(["--extend", "2"]) == 130
    said = capsys.readouterr()
    assert (
        said.err == "Interrupted: run it again to see what is running and when it deletes itself.\n"
    )
    assert said.out == ""


def test_an_interrupt_while_it_is_imported_is_one_sentence_too():
    start = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'helpers.endpoint': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "runpy.run_module('helpers.guard', run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", start], cwd=rehearsing.ROOT, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert ended.stderr.startswith("Interrupted: ")
    assert "Traceback" not in ended.stderr
