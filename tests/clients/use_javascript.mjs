// The AWS SDK for JavaScript v3: describe, list, invoke whole and streamed, and its errors.
import { readFileSync, writeFileSync } from "node:fs";

import {
  DescribeEndpointCommand,
  SageMakerClient,
  paginateListEndpoints,
  waitUntilEndpointInService,
} from "@aws-sdk/client-sagemaker";
import {
  InvokeEndpointCommand,
  InvokeEndpointWithResponseStreamCommand,
  SageMakerRuntimeClient,
} from "@aws-sdk/client-sagemaker-runtime";

const served = JSON.parse(readFileSync("served.json", "utf8")); // model by endpoint
const chat = JSON.parse(readFileSync("chat.json", "utf8"));
const sagemaker = new SageMakerClient({});
const runtime = new SageMakerRuntimeClient({});

const asked = (EndpointName, more = {}) => ({
  EndpointName,
  ContentType: "application/json",
  Body: JSON.stringify({ ...chat, model: served[EndpointName], ...more }),
});

async function whole(endpoint) {
  const answer = await runtime.send(new InvokeEndpointCommand(asked(endpoint)));
  return {
    reply: JSON.parse(answer.Body.transformToString()),
    variant: answer.InvokedProductionVariant,
    type: answer.ContentType,
  };
}

async function streamed(client, endpoint, more = {}) {
  const command = new InvokeEndpointWithResponseStreamCommand(
    asked(endpoint, { stream: true, ...more }),
  );
  const answer = await client.send(command);
  const decoder = new TextDecoder();
  let text = "";
  for await (const event of answer.Body) {
    text += decoder.decode(event.PayloadPart.Bytes, { stream: true });
  }
  const data = text.split("\n").map((line) => line.match(/^data: ?(\{.*\})$/)?.[1]);
  const choices = data.filter(Boolean).flatMap((line) => JSON.parse(line).choices);
  return {
    text: choices.map((choice) => choice.delta.content ?? "").join(""),
    finish: choices.at(-1).finish_reason,
    type: answer.ContentType,
  };
}

async function refusal(client, command) {
  try {
    await client.send(command);
  } catch (error) {
    const { name, message, $fault, $metadata, OriginalStatusCode, OriginalMessage } = error;
    const status = $metadata.httpStatusCode;
    return { name, message, fault: $fault, status, OriginalStatusCode, OriginalMessage };
  }
}

const found = { protocol: runtime.config.requestHandler.metadata.handlerProtocol, pages: [] };
const waiter = { client: sagemaker, maxWaitTime: 20, minDelay: 1, maxDelay: 2 };
found.waited = (await waitUntilEndpointInService(waiter, { EndpointName: "tgi-3" })).state;
found.described = await sagemaker.send(new DescribeEndpointCommand({ EndpointName: "tgi-3" }));
const inService = { StatusEquals: "InService", SortBy: "Name", NameContains: "tgi-" };
for await (const page of paginateListEndpoints({ client: sagemaker, pageSize: 2 }, inService)) {
  found.pages.push(page.Endpoints.map((endpoint) => endpoint.EndpointName));
}
for (const endpoint of Object.keys(served)) {
  found[endpoint] = {
    whole: await whole(endpoint),
    streamed: await streamed(runtime, endpoint),
  };
}
found.missing = await refusal(sagemaker, new DescribeEndpointCommand({ EndpointName: "nobody" }));
found["not invoked"] = await refusal(runtime, new InvokeEndpointCommand(asked("nobody")));
found.refused = await refusal(
  runtime,
  new InvokeEndpointWithResponseStreamCommand({ ...asked("tgi-3"), Body: "{}" }),
);

const crumbs = new SageMakerRuntimeClient({ endpoint: process.env.CRUMBS_URL });
found["in crumbs"] = await streamed(crumbs, "tgi-3", { max_tokens: 300 });
writeFileSync("found.json", JSON.stringify(found));
