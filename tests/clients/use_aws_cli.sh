#!/usr/bin/env bash
# The AWS CLI: deploy, look around, wait, invoke, read the log, delete. Answers land in this folder.
set -euo pipefail

refused() { # name, command: keep its words and its exit status
    local status=0
    "${@:2}" > /dev/null 2> "$1.txt" || status=$?
    echo "$status" > "$1.status"
}

group=/aws/sagemaker/Endpoints/cli
variant=VariantName=AllTraffic,ModelName=cli,InstanceType=ml.inf2.48xlarge
variant+=,InitialInstanceCount=1,ContainerStartupHealthCheckTimeoutInSeconds=3600

aws sagemaker create-model --model-name cli --primary-container file://guide.json \
    --execution-role-arn arn:aws:iam::123456789012:role/workshop-execution-role > model.json
aws sagemaker create-endpoint-config --endpoint-config-name cli \
    --production-variants "$variant" > config.json
arn=$(aws sagemaker create-endpoint --endpoint-name cli --endpoint-config-name cli \
    --tags Key=client,Value=cli --query EndpointArn --output text)
aws sagemaker describe-endpoint --endpoint-name cli > creating.json

aws sagemaker list-tags --resource-arn "$arn" > tags.json
aws sts get-caller-identity > identity.json
aws sagemaker describe-endpoint-config --endpoint-config-name cli > described.json
aws sagemaker list-endpoints --page-size 2 --sort-by Name --sort-order Ascending > endpoints.json
refused missing aws sagemaker describe-endpoint --endpoint-name nobody
refused uninvoked aws sagemaker-runtime invoke-endpoint --endpoint-name nobody \
    --content-type application/json --body file://chat.json reply.json
refused unpinged aws sagemaker wait endpoint-in-service --endpoint-name broken

status() { aws sagemaker describe-endpoint --endpoint-name cli --query EndpointStatus --output text; }
until [ "$(status)" != Creating ]; do sleep 0.2; done # `wait` looks every 30 real seconds
aws sagemaker wait endpoint-in-service --endpoint-name cli
aws sagemaker describe-endpoint --endpoint-name cli > waited.json
aws sagemaker-runtime invoke-endpoint --endpoint-name cli \
    --content-type application/json --body file://chat.json reply.json > invoked.json
aws logs filter-log-events --log-group-name "$group" > log.json
aws sagemaker delete-endpoint --endpoint-name cli
aws sagemaker delete-endpoint-config --endpoint-config-name cli
aws sagemaker delete-model --model-name cli
aws sagemaker list-endpoints --name-contains cli > left.json
