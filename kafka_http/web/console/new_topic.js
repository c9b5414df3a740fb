// The form that creates a topic.

import { request, send } from "./api.js";
import { configsInput, jsonBody, parseConfigs, wholeNumber } from "./configs.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, element, field } from "./dom.js";
import { mayAdministerTopics } from "./rights.js";
import { address } from "./state.js";

export function newTopicPanel() {
  const summary = element("summary", {}, element("h3", {}, "New topic"));
  return element("details.panel", {}, summary, ...(mayAdministerTopics() ? form() : [refusal()]));
}

/** Says why the user cannot administer topics. */
export const refusal = () =>
  element("p.hint", {}, "You may not create, change or delete topics. That needs the right admin or, without authentication, the setting topic_admin.");

function form() {
  const box = new CurlBox("Create a topic");
  const outcome = new Outcome();
  const input = (name, properties) => element("input", { name, autocomplete: "off", spellcheck: "false", ...properties });
  const topic = input("new-topic", { required: true });
  const partitions = input("partitions", { inputmode: "numeric", placeholder: "the broker's default" });
  const replicas = input("replicas", { inputmode: "numeric", placeholder: "the broker's default" });
  const configs = configsInput("retention.ms=86400000");
  const made = () => {
    const config = parseConfigs(configs.value);
    return request("POST", ["messages"], jsonBody({
      topic: topic.value.trim(),
      partitions: wholeNumber("Partitions", partitions.value),
      replication_factor: wholeNumber("Replicas", replicas.value),
      config: Object.keys(config).length ? config : undefined,
    }));
  };
  const preview = () => box.preview(made);
  const submit = event => {
    event.preventDefault();
    attempt(outcome, async () => {
      outcome.good("");
      await send(made());
      location.hash = address("topics", topic.value.trim());
    });
  };
  preview();
  const shown = element(
    "form", { submit, input: preview, "aria-label": "New topic" },
    element("div.fields", {}, field("Name", topic), field("Partitions", partitions), field("Replicas", replicas)),
    field("Configuration, name=value per line", configs),
    element("button.primary", { type: "submit" }, "Create topic"),
  );
  return [shown, outcome.element, box.element];
}
