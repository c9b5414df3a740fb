// What is set on a topic, and the forms that change and delete it.

import { request, send } from "./api.js";
import { configsInput, jsonBody, parseConfigs, wholeNumber } from "./configs.js";
import { confirmed } from "./confirm.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, element, field, panel } from "./dom.js";
import { refusal } from "./new_topic.js";
import { positionInput, timePicker } from "./position.js";
import { mayAdministerTopics } from "./rights.js";
import { address } from "./state.js";

/** `{element, show(config)}`. `changed()` is called after a change. */
export function topicSettings(topic, changed) {
  const list = element("dl.headers");
  const shown = panel("Settings", list, ...(mayAdministerTopics() ? forms(topic, changed) : [refusal()]));
  const show = config => {
    const rows = Object.entries(config ?? {}).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    list.replaceChildren(...(rows.length ? rows : [element("dt", {}, "No configuration of its own")]));
  };
  return { element: shown, show };
}

function forms(topic, changed) {
  const box = new CurlBox("Change the topic");
  const outcome = new Outcome();
  const partitions = element("input", { name: "partitions", inputmode: "numeric", placeholder: "unchanged", autocomplete: "off" });
  const configs = configsInput("retention.ms=86400000");
  const before = positionInput("delete_before", "");
  const changing = () => {
    const config = parseConfigs(configs.value);
    return request("PATCH", ["messages", topic], jsonBody({
      partitions: wholeNumber("Partitions", partitions.value),
      config: Object.keys(config).length ? config : undefined,
    }));
  };
  const trimming = () => request("PATCH", ["messages", topic], jsonBody({ delete_before: before.value.trim() }));
  const deleting = () => request("DELETE", ["messages", topic]);
  const act = (made, sentence) => attempt(outcome, async () => {
    outcome.good("");
    const sent = made();
    box.show(sent);
    await send(sent);
    outcome.good(sentence);
    await changed();
  });
  const submit = event => {
    event.preventDefault();
    act(changing, "Topic changed.");
  };
  const preview = () => box.preview(changing);
  const change = element(
    "form", { submit, input: preview, "aria-label": "Change the topic" },
    field("More partitions: their new number", partitions),
    field("Configuration, name=value per line", configs, "Without a value the default applies again."),
    element("button", { type: "submit", focus: preview, pointerenter: preview }, "Change"),
  );
  preview();
  const trim = async () => {
    if (!before.value.trim()) return outcome.bad("Enter the position before which messages are deleted, such as 0:42.");
    const text = `The messages of ${topic} before ${before.value.trim()} are deleted for all consumers.`;
    if (await confirmed({ title: "Delete messages", text, action: "Delete messages" })) await act(trimming, "Messages deleted.");
  };
  const remove = async () => {
    const text = "The topic and all its messages are deleted. This cannot be undone.";
    if (!(await confirmed({ title: `Delete ${topic}`, text, action: "Delete topic", name: topic }))) return;
    await attempt(outcome, async () => {
      await send(deleting());
      location.hash = address("topics");
    });
  };
  return [
    change,
    element("div.fields", {}, field("Delete messages before", before), ...timePicker(before),
      curlButton("Delete messages", box, trimming, trim)),
    element("div.actions", {}, curlButton("Delete topic", box, deleting, remove, { class: "danger" })),
    outcome.element, box.element,
  ];
}
