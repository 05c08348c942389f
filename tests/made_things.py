"""Things of the workshop's names and tags, made with plain boto3 as its other parts make them."""

import json
from dataclasses import replace
from datetime import timedelta

from botocore.credentials import Credentials
from deployed import IMAGE

from helpers import recipes, resources
from helpers.rehearsal import launch

RECIPE = recipes.get("llama-3-8b")
ENV = {**RECIPE.env, "HF_TOKEN": "hf_of_the_tests"}
ROLE = "arn:aws:iam::123456789012:role/inf2-workshop-execution"
SCHEDULER_ROLE = "arn:aws:iam::123456789012:role/inf2-workshop-scheduler"
SCALED = {
    "ServiceNamespace": "sagemaker",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def tags_for(participant, *, recipe="llama-3-8b", expires="never"):
    return {
        "workshop": "inferentia2",
        "participant": participant,
        "recipe": recipe,
        "expires": expires,
    }


def listed(tags):
    return [{"Key": key, "Value": value} for key, value in (tags or {}).items()]


def model(session, name, tags=None):
    session.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": IMAGE, "Environment": ENV},
        Tags=listed(tags),
    )


def config(session, name, tags=None, *, count=1, model_name=None):
    session.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": model_name or name,
                "InstanceType": "ml.inf2.xlarge",
                "InitialInstanceCount": count,
                "ContainerStartupHealthCheckTimeoutInSeconds": 3600,
            }
        ],
        Tags=listed(tags),
    )


def endpoint(session, name, tags=None, *, count=1, config_name=None):
    model(session, name, tags)
    config(session, name, tags, count=count)
    session.client("sagemaker").create_endpoint(
        EndpointName=name, EndpointConfigName=config_name or name, Tags=listed(tags)
    )


def in_service(session, name):
    session.client("sagemaker").get_waiter("endpoint_in_service").wait(
        EndpointName=name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 200}
    )


def scaling(session, name, tags=None):
    client = session.client("application-autoscaling")
    named = {**SCALED, "ResourceId": f"endpoint/{name}/variant/AllTraffic"}
    client.register_scalable_target(**named, MinCapacity=1, MaxCapacity=2, Tags=tags or {})
    client.put_scaling_policy(
        **named,
        PolicyName=name,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 4.0,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
            },
        },
    )


def group(session, participant, tags=None):
    session.client("scheduler").create_schedule_group(
        Name=f"inf2-workshop-{participant}", Tags=listed(tags)
    )


def schedule(session, name, *, group, hours=4.0):
    due = session.clock.now() + timedelta(hours=hours)
    session.client("scheduler").create_schedule(
        Name=name,
        GroupName=group,
        ScheduleExpression=f"at({due:%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint",
            "RoleArn": SCHEDULER_ROLE if group != "default" else _own_role(session),
            "Input": json.dumps({"EndpointName": name}),
        },
    )
    return due


def _own_role(session):
    """A role that trusts the scheduler for every group, as the workshop's does not."""
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made = session.client("iam").create_role(
        RoleName="for-any-schedule", AssumeRolePolicyDocument=document
    )
    return made["Role"]["Arn"]


def log_group(session, name, tags=None):
    group = f"/aws/sagemaker/Endpoints/{name}"
    session.client("logs").create_log_group(logGroupName=group, **({"tags": tags} if tags else {}))


def admin(session):
    """The same session as one who may do everything."""
    key = session.boto.endpoint_url, session.region
    if key not in _admins:
        boto = type(session.boto)(
            region_name=session.region, endpoint_url=key[0], like=session.boto
        )
        keys = launch.credentials("admin")
        boto._session._credentials = Credentials(*(value for _, value in sorted(keys.items())))
        _admins[key] = replace(session, boto=boto)
    clients = _admins[key]._clients
    mine = replace(_admins[key], participant=session.participant, settings=session.settings)
    mine._clients = clients
    return mine


_admins = {}


def bucket(session):
    """The bucket of the session's region, which participants cannot make."""
    name, client = session.bucket, admin(session).client("s3")
    if name not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": session.region}}
        client.create_bucket(Bucket=name, **(elsewhere if session.region != "us-east-1" else {}))
    return name


def weights(session, participant, *, files=2):
    here = bucket(session)
    for number in range(files):
        session.client("s3").put_object(
            Bucket=here,
            Key=f"inf2-workshop/{participant}/weights/org/model/{number}.safetensors",
            Body=b"w" * 1000,
        )


def everything(session, participant, *, recipe="llama-3-8b", hours=400.0, scaled=True, count=1):
    """One deployment of every kind, as the workshop makes it; its name."""
    name = resources.name_of(participant, recipe)
    tags = tags_for(participant, recipe=recipe)
    log_group(session, name, tags)
    group(session, participant, tags)
    if hours:
        schedule(session, name, group=f"inf2-workshop-{participant}", hours=hours)
    endpoint(session, name, tags, count=count)
    if scaled:
        in_service(session, name)
        scaling(session, name, tags)
    weights(session, participant)
    return name
