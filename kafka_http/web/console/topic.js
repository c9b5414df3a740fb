// One topic: publish, read, consumers, partitions, settings.

import { polled, request, send } from "./api.js";
import { consumerPanel } from "./consumer.js";
import { Outcome, attempt, element, number, panel, repeatWhileShown } from "./dom.js";
import { Messages } from "./messages.js";
import { publishPanel } from "./publish.js";
import { Tape } from "./tape.js";
import { topicSettings } from "./topic_settings.js";
import { count } from "./topics.js";

const REFRESH_MS = 2000;

export function topicView(topic) {
  const outcome = new Outcome();
  const summary = element("span.soft");
  const rows = element("tbody");
  const messages = new Messages(topic);
  const consumer = consumerPanel(topic, messages);
  const refresh = (mark = made => made) => attempt(outcome, async () => {
    const { partitions, config } = (await messages.watch(send(mark(request("GET", ["messages", topic]))))).content;
    outcome.good("");
    summary.textContent = `${plural(partitions.length, "partition")}, ${plural(count(partitions), "message")}`;
    rows.replaceChildren(...partitions.map(partitionRow));
    settings.show(config);
    tape.update(partitions);
  });
  const settings = topicSettings(topic, refresh);
  const tape = new Tape(topic, messages);
  messages.acknowledging(consumer);
  const shown = element(
    "section", {},
    element("div.title", {}, element("h2", {}, topic), summary),
    outcome.element,
    tape.element,
    element(
      "div.columns", {},
      element("div.side", {}, publishPanel(topic), consumer.element, partitionsPanel(rows), settings.element),
      messages.element,
    ),
    element("p.hint.keys", {}, "Keys: ", key("/"), " goes to the search, ", key("Ctrl+Enter"), " in the form publishes, ",
      key("Esc"), " closes a question."),
  );
  refresh();
  repeatWhileShown(shown, REFRESH_MS, () => refresh(polled));
  const restore = () => {
    consumer.restore();
    messages.restore();
  };
  return { element: shown, title: topic, restore, leave: () => messages.close() };
}

const key = name => element("kbd", {}, name);

const plural = (amount, noun) => `${number(amount)} ${noun}${amount === 1 ? "" : "s"}`;

function partitionsPanel(rows) {
  const head = ["Partition", "First", "End", "Leader", "Replicas"].map(each => element("th", { scope: "col" }, each));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), rows);
  return panel("Partitions", element("div.scroll", {}, table));
}

function partitionRow({ partition, earliest, latest, leader, replicas }) {
  const cells = [number(earliest), number(latest), leader ?? "none", replicas.join(", ")];
  const name = element("th.number", { scope: "row" }, String(partition));
  return element("tr", {}, name, ...cells.map(each => element("td.number", {}, String(each))));
}
