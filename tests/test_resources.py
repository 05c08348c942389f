"""What is named and tagged as the workshop's: found, told apart, deleted, whatever it is called."""

import made_things as made
import pytest
import rehearsing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rehearsing import participant

from helpers import cleanup, recipes, resources
from helpers.errors import EndpointError
from helpers.resources import ABSENT, ALL_KINDS, ASKED, BUSY


@pytest.fixture
def session(shared):
    """A participant of the test's own, in the session's region."""
    yield participant(shared)
    rehearsing.restore()


@pytest.fixture(scope="module")
def whole(shared):
    """A participant who has one of everything."""
    mine = participant(shared, "whole")
    made.everything(mine, "whole")
    return mine


def found(session, kind=None, **how):
    things, unseen = resources.look(session, session.participant, **how)
    assert not unseen
    return [one for one in things if kind in (None, one.kind)]


# --- names ----------------------------------------------------------------------------------

SLUGS = st.from_regex(r"[a-z]([a-z0-9]|-[a-z0-9]){0,7}", fullmatch=True)


@given(SLUGS, st.sampled_from(sorted(recipes.RECIPES)))
def test_a_name_made_from_a_known_recipe_tells_the_participant(who, recipe):
    assert resources.participant_in(resources.name_of(who, recipe)) == who


@given(SLUGS, SLUGS)
def test_a_name_made_from_another_recipe_does_not(who, recipe):
    assert resources.participant_in(resources.name_of(who, recipe)) == ""


@given(st.text())
def test_a_name_that_is_none_of_the_workshops_has_no_participant(name):
    assert resources.participant_in(name) == ""
    assert resources.participant_in(f"inf2-workshop-{name}") in name


# --- the face of each kind ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.label)
def test_each_kind_is_found_tagged_asked_for_and_there(whole, kind):
    (one,) = found(whole, kind)
    assert one.owner == "whole"
    assert one.region == "us-east-1"
    assert one.created <= whole.clock.now()
    assert one.deployment in ("inf2-workshop-whole-llama-3-8b", "")
    if kind is not resources.OBJECTS:  # which a folder holds, and a folder has no tags
        assert one.tags["participant"] == "whole"
        assert one.tags["workshop"] == "inferentia2"
    assert resources.is_there(whole, one)


def test_each_kind_can_be_deleted_and_is_absent_afterwards(session):
    made.everything(session, session.participant)
    things = found(session)
    assert [one.kind for one in things] == list(ALL_KINDS)
    for one in things:
        assert resources.ask_to_delete(session, one) == ASKED
        assert rehearsing.until(lambda one=one: not resources.is_there(session, one))
    assert found(session) == []
    for one in things:
        if one.kind is resources.OBJECTS:
            assert resources.ask_to_delete(session, one) == ASKED  # nothing is an answer as well
        elif one.kind is not resources.SCHEDULE_GROUP:  # moto cannot delete one twice
            assert resources.ask_to_delete(session, one) == ABSENT


def test_the_policies_of_a_scaling_target_go_with_it(session):
    name = made.everything(session, session.participant)
    client = session.client("application-autoscaling")
    of_it = {**made.SCALED, "ResourceId": f"endpoint/{name}/variant/AllTraffic"}
    assert client.describe_scaling_policies(**of_it)["ScalingPolicies"]
    (target,) = found(session, resources.SCALING_TARGET)
    resources.ask_to_delete(session, target)
    assert client.describe_scaling_policies(**of_it)["ScalingPolicies"] == []


def test_an_endpoint_that_is_coming_up_is_busy(session):
    with session.fault("health-check"):
        made.endpoint(session, f"inf2-workshop-{session.participant}-llama-3-8b")
        (one,) = found(session, kinds=(resources.ENDPOINT,), by_tag=False)
        assert resources.ask_to_delete(session, one) == BUSY
    rehearsing.until(lambda: resources.ask_to_delete(session, one) == ASKED)
    assert resources.ask_to_delete(session, one) in (ASKED, ABSENT)  # being deleted


def test_a_schedule_says_when_it_happens(session):
    name = f"inf2-workshop-{session.participant}-llama-3-8b"
    made.group(session, session.participant)
    due = made.schedule(session, name, group=f"inf2-workshop-{session.participant}", hours=7)
    (one,) = found(session, resources.SCHEDULE)
    assert resources.due(session, one) == due.replace(microsecond=0)
    resources.ask_to_delete(session, one)
    assert resources.due(session, one) is None


# --- pages, versions, uploads ---------------------------------------------------------------


def test_more_than_a_page_of_everything_is_found(session):
    who, other = session.participant, f"{session.participant}-b"
    made.group(session, who)
    for number in range(101):
        name = f"inf2-workshop-{who}-r{number}"
        made.model(session, name, made.tags_for(who))
        if number < 51:
            made.log_group(session, name, made.tags_for(who))
            made.schedule(session, name, group=f"inf2-workshop-{who}")
        if number < 5:
            made.model(session, f"inf2-workshop-{other}-r{number}", made.tags_for(other))
    things = found(session)
    assert len([one for one in things if one.kind is resources.MODEL]) == 101
    assert len([one for one in things if one.kind is resources.LOG_GROUP]) == 51
    assert len([one for one in things if one.kind is resources.SCHEDULE]) == 51


def test_versions_and_markers_and_unfinished_uploads_are_all_deleted(session):
    mine = made.admin(session.in_region("eu-west-1"))
    client, bucket = mine.client("s3"), made.bucket(mine)
    made.weights(mine, mine.participant, files=1)  # from before the bucket kept versions
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    made.weights(mine, mine.participant, files=2)
    key = f"inf2-workshop/{mine.participant}/weights/org/model/"
    client.delete_object(Bucket=bucket, Key=f"{key}0.safetensors")
    client.create_multipart_upload(Bucket=bucket, Key=f"{key}2.safetensors")
    made.weights(mine, "someone-else")
    (folder,) = found(mine, resources.OBJECTS)
    assert folder.name == f"s3://{bucket}/inf2-workshop/{mine.participant}/"
    assert folder.status == "5 objects, 0.0 GB"
    assert resources.ask_to_delete(mine, folder) == ASKED
    assert not resources.is_there(mine, folder)
    assert found(mine, resources.OBJECTS) == []
    assert found(participant(mine, "someone-else"), resources.OBJECTS)


def test_more_objects_than_one_request_can_delete_are_deleted(session, monkeypatch):
    monkeypatch.setattr("helpers.resources.bucket.DELETED_AT_ONCE", 10)
    client, bucket = session.client("s3"), made.bucket(session)
    for number in range(25):
        client.put_object(Bucket=bucket, Key=f"inf2-workshop/{session.participant}/{number}")
    (folder,) = found(session, resources.OBJECTS)
    resources.ask_to_delete(session, folder)
    assert not resources.is_there(session, folder)


def test_who_may_list_objects_only_deletes_those(session):
    made.weights(session, session.participant)
    for operation in ("ListObjectVersions", "ListMultipartUploads"):
        rehearsing.refuse(
            session, operation, "AccessDenied", "Access Denied", status=403, service="s3"
        )
    _, unseen = resources.look(session, session.participant)
    assert [(one.kinds, one.what) for one in unseen] == [((resources.OBJECTS,), "weights folders")]
    assert "ListObjectVersions" in unseen[0].why
    assert list(cleanup.delete(session)["result"]) == [
        "deleted, except what could not be looked at"
    ]
    rehearsing.restore()
    assert found(session) == []


def test_objects_that_may_not_be_deleted_are_named_in_a_sentence(session):
    made.weights(session, session.participant)
    rehearsing.pretend(
        session,
        "DeleteObjects",
        service="s3",
        Errors=[{"Key": "k", "Code": "AccessDenied", "Message": "Access Denied"}],
    )
    (folder,) = found(session, resources.OBJECTS)
    with pytest.raises(EndpointError, match="cannot be deleted: 1 object.*k: Access Denied"):
        resources.ask_to_delete(session, folder)


# --- whose it is ----------------------------------------------------------------------------


def test_the_tag_decides_and_not_the_name(session):
    who = session.participant
    made.model(session, f"inf2-workshop-{who}-llama-3-8b", made.tags_for("somebody"))
    made.model(session, f"inf2-workshop-{who}-b-llama-3-8b", made.tags_for(who))
    assert [one.name for one in found(session)] == [f"inf2-workshop-{who}-b-llama-3-8b"]


def test_what_has_the_tags_and_another_name_is_found_too(session):
    who = session.participant
    everyone = made.admin(session)
    made.model(everyone, f"copy-of-inf2-workshop-{who}-x", made.tags_for(who))
    assert [one.name for one in found(session)] == [f"copy-of-inf2-workshop-{who}-x"]
    resources.delete(everyone, resources.MODEL, f"copy-of-inf2-workshop-{who}-x")
    made.model(everyone, f"renamed-{who}", made.tags_for(who))
    made.model(everyone, f"foreign-{who}", {"participant": who})  # another workshop's
    things = found(session)
    # A participant may find it, and read no tags of what has no name of the workshop's.
    assert [(one.name, one.owner) for one in things] == [(f"renamed-{who}", "")]
    session = everyone
    assert [(one.name, one.owner) for one in found(session)] == [(f"renamed-{who}", who)]
    assert found(session, by_tag=False) == []
    assert f"renamed-{who}" in [one.name for one in resources.look(session)[0]]


def test_what_is_tagged_beside_it_tells_whose_an_untagged_log_group_is(session):
    who, neighbor = session.participant, f"{session.participant}-b"
    name = f"inf2-workshop-{who}-b-llama-3-8b"  # who's recipe b-llama-3-8b
    made.model(session, name, made.tags_for(who))
    made.log_group(session, name)
    assert {one.owner for one in found(session)} == {who}
    assert found(participant(session, neighbor)) == []


def test_without_any_tag_the_name_tells_where_it_can(session):
    who, neighbor = session.participant, f"{session.participant}-b"
    made.model(session, f"inf2-workshop-{neighbor}-llama-3-8b")
    made.model(session, f"inf2-workshop-{who}-llama-3-8b")
    made.model(session, f"inf2-workshop-{who}-b-own-recipe")
    owners = {one.name: one.owner for one in found(session)}
    assert owners == {
        f"inf2-workshop-{who}-llama-3-8b": who,
        f"inf2-workshop-{who}-b-own-recipe": "",
    }


def test_when_tags_cannot_be_read_nothing_has_an_owner(session):
    made.model(session, f"inf2-workshop-{session.participant}-llama-3-8b")
    rehearsing.refuse(session, "ListTags", "AccessDeniedException", "no")
    (one,) = found(session)
    assert (one.owner, one.tags) == ("", None)
    # To find it, its name will do: nothing is deleted then.
    assert resources.of_participant(session, resources.MODEL)[0].name == one.name


def test_a_schedule_is_its_groups(session):
    who = session.participant
    made.group(session, f"{who}-b", made.tags_for(f"{who}-b"))
    made.schedule(session, f"inf2-workshop-{who}-b-own", group=f"inf2-workshop-{who}-b")
    made.schedule(made.admin(session), f"inf2-workshop-{who}-llama-3-8b", group="default")
    assert [(one.name, one.owner) for one in found(session)] == [
        (f"inf2-workshop-{who}-llama-3-8b", who)
    ]
    assert len(found(participant(session, f"{who}-b"))) == 2


# --- what the rehearsal's tagging service tells -----------------------------------------------


def tagged(session, **filters):
    client = session.client("resourcegroupstaggingapi")
    pages = client.get_paginator("get_resources").paginate(
        TagFilters=[{"Key": "participant", "Values": [session.participant]}],
        PaginationConfig={"PageSize": 2},
        **filters,
    )
    return sorted(one["ResourceARN"] for page in pages for one in page["ResourceTagMappingList"])


def test_get_resources_knows_what_every_service_of_the_rehearsal_has(whole):
    arn = "arn:aws:{}:us-east-1:123456789012:{}".format
    name = "inf2-workshop-whole-llama-3-8b"
    everything = tagged(whole)
    assert [one for one in everything if ":scalable-target/" not in one] == [
        arn("logs", f"log-group:/aws/sagemaker/Endpoints/{name}"),
        arn("sagemaker", f"endpoint-config/{name}"),
        arn("sagemaker", f"endpoint/{name}"),
        arn("sagemaker", f"model/{name}"),
        arn("scheduler", "schedule-group/inf2-workshop-whole"),
    ]
    assert len(everything) == 6
    of_type = tagged(whole, ResourceTypeFilters=["sagemaker:model", "logs"])
    assert of_type == [everything[i] for i in range(6) if ":model/" in everything[i] or i == 1]
    assert tagged(whole.in_region("eu-north-1")) == []


def test_get_resources_filters_by_key_value_and_arn(whole):
    client = whole.client("resourcegroupstaggingapi")

    def found(*filters):
        listed = client.get_resources(TagFilters=[dict(one) for one in filters])
        return {one["ResourceARN"] for one in listed["ResourceTagMappingList"]}

    whose = {"Key": "participant", "Values": ["whole", "nobody"]}
    assert len(found(whose)) == 6
    assert found(whose, {"Key": "recipe"}) == found(whose)
    assert found(whose, {"Key": "recipe", "Values": ["other"]}) == set()
    (one, *_) = found(whose)
    only = client.get_resources(ResourceARNList=[one])["ResourceTagMappingList"]
    assert [each["ResourceARN"] for each in only] == [one]
    with pytest.raises(client.exceptions.ClientError, match="NextToken"):
        client.get_resources(PaginationToken="made up")


NAMES = st.from_regex(r"[ab](-?[ab]){0,3}", fullmatch=True)
CUSTOM = st.from_regex(r"[ab](-?[ab]){0,3}(-llama)?", fullmatch=True)


def its_name(thing):
    owner, recipe, kind, _ = thing
    return resources.name_of(owner, recipe), kind


THINGS = st.lists(
    st.tuples(
        NAMES,
        st.one_of(CUSTOM, st.sampled_from(["llama-3-8b", "llama-3-70b"])),
        st.sampled_from(["model", "log group"]),
        st.booleans(),
    ),
    min_size=2,
    max_size=6,
    unique_by=its_name,
)


KINDS = (resources.MODEL, resources.LOG_GROUP)
MAKE = {"model": made.model, "log group": made.log_group}


@pytest.fixture(scope="module")
def region(shared):
    """A region of the following test's own."""
    return shared.in_region("ap-south-1")


def everyones(region):
    return resources.look(region, kinds=KINDS, by_tag=False)[0]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(THINGS, NAMES)
def test_whatever_the_names_nobody_elses_things_are_touched(region, things, who):
    """`a` and `a-b`, recipes `b-a` and `llama-3-8b`: one's names begin as another's do."""
    for owner, recipe, kind, is_tagged in things:
        tags = made.tags_for(owner, recipe=recipe) if is_tagged else None
        MAKE[kind](region, resources.name_of(owner, recipe), tags)
    cleanup.delete(participant(region, who))
    rest = everyones(region)
    left = {(one.kind.label, one.deployment) for one in rest}
    for owner, recipe, kind, is_tagged in things:
        there = (kind, resources.name_of(owner, recipe)) in left
        assert there or owner == who
        assert not (there and owner == who and is_tagged)
    for one in rest:
        resources.ask_to_delete(region, one)
