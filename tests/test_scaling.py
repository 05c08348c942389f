"""Replicas and target tracking, asked of the rehearsal by real clients."""

import json
from dataclasses import replace
from threading import Event, Thread

import made_runs
import made_things as made
import pytest
import rehearsing
from botocore.exceptions import EndpointConnectionError

from helpers import endpoint, quotas, recipes, resources, results, scaling
from helpers.errors import EndpointError, EndpointMissing, ResultsError
from helpers.rehearsal import launch

RECIPE = recipes.get("llama-3-8b")
TYPE, PRICE = "ml.inf2.xlarge", 0.99
LIMIT = 20  # instances of each type, in the rehearsal's account


@pytest.fixture
def session(shared):
    """A participant of the test's own, who leaves nothing."""
    session = rehearsing.participant(shared)
    yield session
    rehearsing.restore()
    for name in ("no-capacity", "no-quota"):
        launch.end_fault(session.boto.endpoint_url, name)
    name = resources.name_of(session.participant, RECIPE.name)
    scaling.untrack(session, name)
    endpoint.remove(session, name, poll_s=60)


@pytest.fixture
def served(session):
    """The small model's endpoint, in service, made with plain boto3: the SDK is slow to import."""
    name = resources.name_of(session.participant, RECIPE.name)
    made.endpoint(session, name, made.tags_for(session.participant, expires="2027-01-01T00:00:00Z"))
    made.in_service(session, name)
    return endpoint.look(session, name)


def until(session, holds, *, limit_s=7200):
    """Let AWS time pass until something holds."""
    end_s = session.clock.monotonic() + limit_s
    while not holds():
        assert session.clock.monotonic() < end_s
        session.clock.sleep(30)


def counts(session, served):
    described = resources.describe(session, resources.ENDPOINT, served.name)
    (variant,) = described["ProductionVariants"]
    return variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]


def refused(call, *args, **kwargs):
    with pytest.raises(EndpointError) as caught:
        call(*args, **kwargs)
    said = str(caught.value)
    assert "\n" not in said
    return said


# --- by hand


def test_a_second_replica_comes_costs_as_much_again_and_goes(session, served, capsys):
    two = scaling.replicas(session, served, 2, mark_s=240)
    assert (two.status, two.instance_count, two.price_per_hour) == ("InService", 2, 2 * PRICE)
    assert counts(session, served) == (2, 2)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        f"[rehearsal] Endpoint {served.name}: 2 replicas instead of 1: $1.98 an hour instead of "
        "$0.99 (us-east-1, April 2025)."
    )
    assert said[1] == "[rehearsal] Updating to 2 replicas, 4 min, $0.07 more so far"
    assert said[-1].startswith("[rehearsal] 2 replicas in service since 2")
    one = scaling.replicas(session, two, 1)
    assert (one.instance_count, one.price_per_hour) == (1, PRICE)
    assert "1 replica instead of 2: $0.99 an hour instead of $1.98" in capsys.readouterr().out


def test_as_many_as_there_are_changes_nothing(session, served, capsys):
    before = served.modified
    assert scaling.replicas(session, served, 1).modified == before
    assert f"{served.name} has 1 replica already" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2", None])
def test_a_number_that_is_none_is_refused_before_anybody_is_asked(number):
    for call in (scaling.replicas, scaling.wait):
        said = refused(call, None, None, number)
        assert said.startswith("An endpoint has one replica or more, not ")


def test_an_endpoint_that_is_being_changed_is_refused_and_says_to_what(session, served):
    begin(session, served, 2)
    assert "is Updating to 2 replicas, and AWS changes" in refused(
        scaling.replicas, session, served, 3
    )
    assert "is Updating to 2 replicas" in refused(
        scaling.track, session, served, maximum=2, concurrent_per_replica=4
    )


def test_an_endpoint_that_is_gone_is_missing(session, served):
    endpoint.remove(session, served.name, poll_s=60)
    for call in (
        lambda: scaling.replicas(session, served, 2),
        lambda: scaling.wait(session, served, 2),
        lambda: scaling.track(session, served, maximum=2, concurrent_per_replica=4),
        lambda: scaling.describe(session, served),
    ):
        with pytest.raises(EndpointMissing, match="run 03_deploy_endpoint"):
            call()


def test_more_than_the_quota_says_the_quota_and_how_much_is_in_use(session, served):
    used = quotas.used(session, TYPE)
    said = refused(scaling.replicas, session, served, LIMIT + 1)
    assert (
        f"would be {LIMIT} {TYPE} more, but the quota for endpoint usage in us-east-1 is {LIMIT} "
        f"and {used} of it in use" in said
    )
    assert "L-C8AB7CDA" in said
    assert "the quota for endpoint usage" in refused(
        scaling.track, session, served, maximum=LIMIT + 1, concurrent_per_replica=4
    )
    assert scaling.tracking(session, served) is None


def test_a_quota_that_may_not_be_read_leaves_the_refusal_to_aws(session, served):
    rehearsing.refuse(
        session, "GetServiceQuota", "AccessDeniedException", "no", service="service-quotas"
    )
    assert "it cannot be read" in str(quotas.of(session, TYPE))
    said = refused(scaling.replicas, session, served, LIMIT + 1)
    assert f"does not get {LIMIT + 1} replicas: The account-level service limit" in said
    assert list(scaling.sizes(session, served, maximum=2)["within the quota"]) == ["yes", "unknown"]


def test_a_region_without_machines_leaves_what_there_was_and_says_so(session, served):
    with session.fault("no-capacity"):
        said = refused(scaling.replicas, session, served, 2)
    assert said.startswith(f"Endpoint {served.name} goes on with 1 replica instead of 2: Unable to")
    assert f"/aws/sagemaker/Endpoints/{served.name}" in said
    assert counts(session, served) == (1, 1)


def test_an_interrupt_says_what_bills_and_running_again_goes_on(
    session, served, capsys, monkeypatch
):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(session.clock), "sleep", lambda *_: interrupt(0))
        said = refused(scaling.replicas, session, served, 2)
    assert said.startswith(
        f"Interrupted. Endpoint {served.name} is on its way from 1 to 2 replicas, and bills for "
        "the larger number"
    )
    assert scaling.replicas(session, served, 2).instance_count == 2
    assert "is on its way to 2 replicas: waiting" in capsys.readouterr().out


def test_a_wait_survives_a_network_that_comes_and_goes(session, served):
    begin(session, served, 2)
    left = iter(range(5))

    def lose(**_):
        if next(left, None) is not None:
            raise EndpointConnectionError(endpoint_url="https://aws")

    rehearsing.after(session, "DescribeEndpoint", lose)
    assert scaling.wait(session, served, 2).instance_count == 2


def test_a_network_that_stays_away_is_one_sentence_also_after_an_interrupt(
    session, served, monkeypatch
):
    rehearsing.fail_after(
        session, "DescribeEndpoint", EndpointConnectionError(endpoint_url="https://aws")
    )
    assert "AWS cannot be reached" in refused(scaling.wait, session, served, 2)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(session.clock), "sleep", interrupt)
    said = refused(scaling.wait, session, served, 2)
    assert said.startswith(f"Interrupted. What has become of endpoint {served.name} is not known")
    monkeypatch.undo()


def test_waiting_ends_and_says_what_is_there(session, served):
    said = refused(scaling.wait, session, served, 2, timeout_s=60)
    assert said.startswith("Still 1 replica after 1 min, not 2.")
    assert "is InService with 1 replica" in said
    assert "untrack" not in said  # there is no policy


def test_a_wait_in_vain_under_a_policy_says_how_to_end_it(session, served):
    track(session, served, maximum=3)
    said = refused(scaling.wait, session, served, 3, timeout_s=60)
    assert said.endswith(
        "Its scaling policy goes on and may have up to 3 replicas: scaling.untrack takes it away."
    )
    rehearsing.refuse(
        session,
        "DescribeScalableTargets",
        "AccessDeniedException",
        "no",
        service="application-autoscaling",
    )
    said = refused(scaling.wait, session, served, 3, timeout_s=60)
    assert said.endswith("If it has a scaling policy, scaling.untrack takes it away.")


@pytest.mark.parametrize(
    ("users", "maximum", "count"), [(8, 2, 2), (8, 3, 2), (9, 3, 3), (40, 3, 3), (1, 3, 1)]
)
def test_a_load_asks_for_no_more_replicas_than_it_fills(users, maximum, count):
    told = scaling.Tracking(1, maximum, 4, 300, 300, "arn")
    assert told.replicas_for(users) == count


def test_without_a_policy_no_load_asks_for_replicas():
    told = scaling.Tracking(1, 2, None, None, None, "arn")
    assert "scaling.track makes one" in refused(told.replicas_for, 8)


def test_an_endpoint_that_is_being_deleted_gets_no_replicas(session, served):
    rehearsing.pretend(session, "DescribeEndpoint", EndpointStatus="Deleting")
    assert "is Deleting: it gets no other number of replicas" in refused(
        scaling.wait, session, served, 2
    )


def begin(session, served, number):
    session.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=served.name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": number}],
    )


# --- what each number brings


def test_sizes_show_slots_price_and_quota(session, served, capsys):
    table = scaling.sizes(session, served, maximum=LIMIT + 1)
    assert list(table.loc[[1, 2], "requests side by side"]) == [4, 8]
    assert list(table.loc[[1, 2], "$/h"]) == ["0.99", "1.98"]
    assert list(table.loc[[1, 2], "$ a day"]) == ["24", "48"]
    assert list(table.loc[[1, 2, LIMIT + 1], "within the quota"]) == ["yes", "yes", "NO"]
    assert f"endpoint usage in us-east-1: {LIMIT}, " in capsys.readouterr().out
    assert "1 or more, not 0" in refused(scaling.sizes, session, served, maximum=0)


def test_what_nobody_knows_is_called_unknown(session, served):
    strange = replace(served, instance_type="ml.g5.xlarge", image="somebody/else:1")
    row = scaling.sizes(session, strange, maximum=2).loc[2]
    assert list(row) == ["unknown"] * 4
    assert scaling.describe(session, strange)["value"]["price now ($/h)"] == "unknown"


# --- by a policy


def track(session, served, **changes):
    given = {"maximum": 3, "concurrent_per_replica": 4, **changes}
    return scaling.track(session, served, **given)


def client(session):
    return session.client("application-autoscaling")


def tags(session, told):
    return client(session).list_tags_for_resource(ResourceARN=told.arn)["Tags"]


def test_a_policy_is_described_and_its_target_carries_the_tags(session, served, capsys):
    told = track(session, served, scale_in_cooldown_s=600)
    assert (told.minimum, told.maximum, told.concurrent_per_replica) == (1, 3, 4)
    assert (told.scale_in_cooldown_s, told.scale_out_cooldown_s) == (600, 300)
    assert (
        f"Policy {served.name}: 1 to 3 replicas, each with about 4 requests at a time; $2.97 an "
        "hour at most (us-east-1, April 2025)." in capsys.readouterr().out
    )
    assert tags(session, told) == resources.tags(session, RECIPE.name) | {
        "expires": "2027-01-01T00:00:00Z"
    }
    (policy,) = client(session).describe_scaling_policies(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/{served.name}/variant/AllTraffic",
    )["ScalingPolicies"]
    assert policy["PolicyName"] == served.name
    config = policy["TargetTrackingScalingPolicyConfiguration"]
    assert config["PredefinedMetricSpecification"]["PredefinedMetricType"] == scaling.METRIC
    shown = scaling.describe(session, served)["value"]
    assert shown["price at the maximum ($/h)"] == "2.97"
    assert shown["requests at a time and replica"] == "4"
    assert shown["cooldown after scale-in (s)"] == 600


def test_tracking_again_changes_what_is_there(session, served):
    first = track(session, served)
    client(made.admin(session)).untag_resource(ResourceARN=first.arn, TagKeys=["participant"])
    again = track(session, served, maximum=2, concurrent_per_replica=2.5)
    assert again.arn == first.arn
    assert (again.maximum, again.concurrent_per_replica) == (2, 2.5)
    assert tags(session, again)["participant"] == session.participant


def test_an_endpoint_of_no_recipe_has_a_target_without_that_tag(session, served):
    assert "recipe" not in tags(session, track(session, replace(served, recipe_name="")))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"minimum": 0}, "SageMaker keeps at least one replica"),
        ({"minimum": 1.0}, "minimum is a whole number"),
        ({"minimum": 3, "maximum": 2}, "maximum (2) is less than minimum (3)"),
        ({"maximum": True}, "maximum is a whole number"),
        ({"maximum": "3"}, "maximum is a whole number"),
        ({"concurrent_per_replica": 0}, "concurrent_per_replica is more than 0"),
        ({"concurrent_per_replica": float("nan")}, "concurrent_per_replica is more than 0"),
        ({"concurrent_per_replica": float("inf")}, "concurrent_per_replica is more than 0"),
        ({"concurrent_per_replica": 10**400}, "less than 2^360, not a number as large as that"),
        ({"concurrent_per_replica": 10**5000}, "less than 2^360, not a number as large as that"),
        ({"concurrent_per_replica": "4"}, "concurrent_per_replica is a number"),
        ({"scale_in_cooldown_s": -1}, "scale_in_cooldown_s is a whole number"),
        ({"scale_out_cooldown_s": 0.5}, "scale_out_cooldown_s is a whole number"),
    ],
)
def test_numbers_that_make_no_policy_are_refused_before_anybody_is_asked(given, words):
    assert words in refused(track, None, None, **given)


def test_a_policy_that_aws_refuses_leaves_no_target(session, served):
    rehearsing.refuse(
        session,
        "PutScalingPolicy",
        "AccessDeniedException",
        "no",
        service="application-autoscaling",
    )
    assert "gets no scaling policy: not allowed to call PutScalingPolicy" in refused(
        track, session, served
    )
    assert scaling.tracking(session, served) is None


def test_a_policy_that_comes_before_its_target_is_known_is_tried_again(session, served):
    rehearsing.refuse(
        session,
        "PutScalingPolicy",
        "ObjectNotFoundException",
        "?",
        service="application-autoscaling",
    )
    slept = session.clock.monotonic()
    assert "gets no scaling policy: ? (ObjectNotFoundException)" in refused(track, session, served)
    assert session.clock.monotonic() - slept >= 15
    rehearsing.restore()
    assert scaling.untrack(session, served) is False


def test_a_target_that_aws_refuses_is_one_sentence(session, served):
    rehearsing.refuse(
        session,
        "RegisterScalableTarget",
        "ValidationException",
        "no",
        service="application-autoscaling",
    )
    assert "cannot be scaled automatically: no (ValidationException)" in refused(
        track, session, served
    )


def test_when_aws_cannot_be_asked_it_is_one_sentence(session, served):
    rehearsing.refuse(
        session,
        "DescribeScalableTargets",
        "AccessDeniedException",
        "no",
        service="application-autoscaling",
    )
    assert "Application Auto Scaling cannot be asked: not allowed" in refused(
        scaling.tracking, session, served
    )
    rehearsing.fail_after(
        session,
        "DeregisterScalableTarget",
        EndpointConnectionError(endpoint_url="https://x"),
        service="application-autoscaling",
    )
    track_before = client(session).register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/{served.name}/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=1,
        MaxCapacity=1,
    )
    assert track_before["ScalableTargetARN"]
    assert "stays under its scaling policy" in refused(scaling.untrack, session, served)


def test_untracking_removes_target_and_policy_and_is_safe_twice(session, served, capsys):
    track(session, served)
    assert scaling.untrack(session, served) is True
    assert "the number of replicas stays as it is" in capsys.readouterr().out
    assert scaling.untrack(session, served.name) is False
    assert scaling.tracking(session, served) is None
    assert (
        client(session).describe_scaling_policies(
            ServiceNamespace="sagemaker", ResourceId=f"endpoint/{served.name}/variant/AllTraffic"
        )["ScalingPolicies"]
        == []
    )
    assert scaling.describe(session, served)["value"]["policy"].startswith("none")


def test_an_endpoint_that_is_deleted_takes_its_target_along(session, served):
    track(session, served)
    endpoint.remove(session, served.name, poll_s=60)
    assert scaling.tracking(session, served.name) is None


def test_a_target_that_somebody_else_registered_is_shown_without_a_policy(session, served):
    client(session).register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/{served.name}/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=1,
        MaxCapacity=2,
    )
    assert scaling.tracking(session, served).concurrent_per_replica is None
    shown = scaling.describe(session, served)["value"]
    assert (shown["policy"], shown["maximum"]) == ("none", 2)
    assert "requests at a time and replica" not in shown.index


def test_a_number_outside_the_bounds_is_changed_at_once_and_that_is_said(session, served, capsys):
    track(session, served, minimum=2)
    assert "It has 1 replica: AWS brings it into that range now" in capsys.readouterr().out
    assert scaling.wait(session, served, 2).instance_count == 2
    (row,) = scaling.activities(session, served).to_dict("records")
    assert (row["what"], row["result"]) == ("Setting desired instance count to 2.", "Successful")
    assert row["why"] == "minimum capacity was set to 2"


def test_load_adds_a_replica_and_quiet_takes_it_away(session, served):
    # The maximum is more than two users fill: who waits for it waits in vain.
    told = track(session, served, maximum=3, concurrent_per_replica=1)
    assert scaling.activities(session, served).empty
    enough = Event()
    users = [Thread(target=ask_on, args=(session, served.name, enough)) for _ in range(2)]
    for user in users:
        user.start()
    until(session, lambda: counts(session, served)[1] == 2)
    (begun,) = scaling.activities(session, served).to_dict("records")
    assert begun["result"] in ("InProgress", "Successful")  # so late looks a busy machine
    assert (begun["result"] == "InProgress") == (begun["ended"] == "") == (begun["minutes"] == "")
    assert begun["why"] == "requests at a time above the target"
    assert begun["target"] == "rehearsal"
    assert scaling.wait(session, served, told.replicas_for(2)).instance_count == 2
    enough.set()
    for user in users:
        user.join()
    assert scaling.wait(session, served, 1).instance_count == 1
    newest, oldest = scaling.activities(session, served).to_dict("records")
    assert newest["why"] == "requests at a time well below the target"
    assert newest["what"] == "Setting desired instance count to 1."
    assert float(oldest["minutes"]) > 5 > float(newest["minutes"])


def ask_on(session, name, enough):
    """One request after another, of two minutes of AWS time each."""
    while not enough.is_set():
        ask(session, name)


def ask(session, name):
    body = json.dumps(
        {
            "model": RECIPE.model_id,
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": 2000,
            "stream": True,
        }
    )
    answer = session.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=name, Body=body, ContentType="application/json"
    )
    for _ in answer["Body"]:
        pass


def test_what_a_policy_could_not_do_stands_among_the_activities(session, served):
    with session.fault("no-quota"):
        client(session).register_scalable_target(
            ServiceNamespace="sagemaker",
            ResourceId=f"endpoint/{served.name}/variant/AllTraffic",
            ScalableDimension="sagemaker:variant:DesiredInstanceCount",
            MinCapacity=2,
            MaxCapacity=2,
        )
    (row,) = scaling.activities(session, served).to_dict("records")
    assert row["result"].startswith("Failed: Failed to set desired instance count to 2. Reason: ")


# --- runs


def run(tmp_path, *, number=1, records=None, name="run", price=36.0, **config):
    config = made_runs.config(**config)
    config["endpoint"]["instance_count"] = number
    config["price"]["usd_per_hour"] = price * number
    folder = tmp_path / name
    folder.mkdir()
    recorder = results.Recorder(folder, config)
    for record in records or made_runs.steady(users=2, each=10):
        recorder.add(record)
    recorder.add_clients([made_runs.health()])
    return recorder.finish()


def test_runs_are_compared_by_replica(tmp_path):
    one, two = run(tmp_path), run(tmp_path, number=2, name="two")
    table = scaling.compare([one, two])
    assert list(table["replicas"]) == [1, 2]
    assert list(table["$/h"]) == [36, 72]
    rate = table["output tokens/s"][0]
    assert list(table["of each replica"]) == pytest.approx([rate, rate / 2], abs=0.01)
    cost = table["$ per 1M output tokens"]
    assert cost[1] == pytest.approx(2 * cost[0], rel=0.01)
    assert list(table["target"]) == ["rehearsal", "rehearsal"]
    assert table.columns[-1] == "target"


def test_no_runs_are_refused():
    with pytest.raises(ResultsError, match="no run to compare"):
        scaling.compare([])


def test_a_run_over_time_shows_when_it_became_better(tmp_path):
    slow = made_runs.steady(users=1, each=30, ttft_s=9.0)  # 10 s each
    start_s = slow[-1].ended_s
    fast = made_runs.steady(users=1, each=60, ttft_s=4.0, start_s=start_s)  # 5 s each
    table = scaling.over_time(run(tmp_path, records=slow + fast), every_min=5)
    assert list(table["minutes"]) == ["0 to 5", "5 to the end"]
    assert list(table["TTFT p50 (s)"]) == [9.0, 4.0]
    first, second = table["output tokens/s"]
    assert second == pytest.approx(2 * first, rel=0.05)
    assert list(table["target"]) == ["rehearsal", "rehearsal"]


def test_a_short_run_is_one_stretch_and_an_idle_one_has_no_wait(tmp_path):
    table = scaling.over_time(run(tmp_path), every_min=60)
    assert list(table["minutes"]) == ["0 to the end"]
    apart = made_runs.steady(users=1, each=2) + made_runs.steady(users=1, each=2, start_s=400.0)
    idle = scaling.over_time(run(tmp_path, records=apart, name="apart"), every_min=1)
    assert list(idle["output tokens/s"][1:-1]) == [0.0, 0.0, 0.0]
    assert idle["TTFT p50 (s)"][1:-1].isna().all()


def test_a_run_over_time_needs_answers_and_a_stretch(tmp_path):
    good = run(tmp_path)
    for minutes in (0, -1, float("nan"), float("inf"), "5", None):
        with pytest.raises(ResultsError, match="more than 0"):
            scaling.over_time(good, every_min=minutes)
    failed = [made_runs.record(n, tokens=0, error="ModelError") for n in range(4)]
    with pytest.raises(ResultsError, match="no answered request"):
        scaling.over_time(run(tmp_path, records=failed, name="failed"))
