// All topics with their partitions and message counts.

import { forEach, get, request, send } from "./api.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, element, number } from "./dom.js";
import { newTopicPanel } from "./new_topic.js";
import { isNarrowed } from "./rights.js";
import { address } from "./state.js";

const CONCURRENT_CALLS = 4;

/** Returns the number of offsets between the ends of the partitions. */
export const count = partitions => partitions.reduce((sum, each) => sum + each.latest - each.earliest, 0);

export function topicsView() {
  const box = new CurlBox("List topics");
  const outcome = new Outcome();
  const rows = element("tbody");
  const newTopic = newTopicPanel();
  const refresh = () => attempt(outcome, async () => {
    if (!(await fill(rows, box, outcome))) newTopic.open = true;
  });
  const head = element("tr", {}, ...["Topic", "Partitions", "Messages"].map(each => element("th", { scope: "col" }, each)));
  refresh();
  const shown = element(
    "section", {},
    element("div.title", {}, element("h2", {}, "Topics"), element("button", { type: "button", click: refresh }, "Refresh")),
    outcome.element, newTopic,
    element("div.panel.scroll", {}, element("table", {}, element("thead", {}, head), rows)),
    element("p.hint", {}, "The number of messages is the difference of the log's ends. Compacted topics hold fewer."),
    box.element,
  );
  return { element: shown, title: "Topics" };
}

/** Returns the number of topics. */
async function fill(rows, box, outcome) {
  const listing = request("GET", ["messages"]);
  box.show(listing);
  const { topics } = (await send(listing)).content;
  outcome.good(topics.length ? "" : isNarrowed() ? "There are no topics that you may see." : "There are no topics yet.");
  const made = topics.map(row);
  rows.replaceChildren(...made.map(each => each.row));
  await forEach(made, CONCURRENT_CALLS, each => attempt(outcome, each.complete));
  return topics.length;
}

function row(topic) {
  const [partitions, messages] = [element("td.number", {}, "…"), element("td.number", {}, "…")];
  const name = element("th", { scope: "row" }, element("a", { href: address("topics", topic) }, topic));
  const complete = async () => {
    const found = (await get("messages", topic)).partitions;
    partitions.textContent = number(found.length);
    messages.textContent = number(count(found));
  };
  return { row: element("tr", {}, name, partitions, messages), complete };
}
