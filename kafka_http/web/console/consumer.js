// A consumer: its progress, and calls that change its position.

import { polled, request, send } from "./api.js";
import { confirmed } from "./confirm.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, element, field, number, panel, repeatWhileShown } from "./dom.js";
import { positionInput, timePicker } from "./position.js";
import { may } from "./rights.js";
import { address, keepInAddress } from "./state.js";

const REFRESH_MS = 1000;
const IS_QUEUE = 40905; // the code of the error if the name is that of a queue
const STORAGE_KEY = "kafka_http.consumers";

/** The consumers used in this browser. */
function knownNames() {
  try {
    return JSON.parse(localStorage.getItem(STORAGE_KEY)) ?? [];
  } catch {
    return [];
  }
}

function remember(name) {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify([name, ...knownNames().filter(each => each !== name)].slice(0, 20)));
  } catch {
    // the browser does not store data
  }
}

/** `{element, name(), restore(), acknowledgement(position), acknowledge(position)}`. */
export function consumerPanel(topic, messages) {
  const box = new CurlBox("Consumer");
  const outcome = new Outcome();
  const rows = element("tbody");
  const known = element("datalist", { id: "consumers" });
  const name = element("input", {
    name: "consumer", value: knownNames()[0] ?? "me", list: known.id, autocomplete: "off", spellcheck: "false", required: true,
  });
  const restore = keepInAddress("consumer", name, name.value);
  const position = positionInput("rewind", "earliest");
  const path = (...more) => ["messages", topic, name.value.trim(), ...more];
  const calls = {
    progress: () => request("GET", path()),
    set: place => request("PUT", path(place)),
    forget: () => request("DELETE", path()),
    acknowledgement: place => request("DELETE", path(place)),
  };
  const [page, queue] = [element("a", {}, "Show the group"), element("a", {}, "Open as a queue")];
  let groups = [];
  let isQueue = false;
  const list = () => {
    const names = new Set([...groups, ...knownNames()]);
    known.replaceChildren(...[...names].map(value => element("option", { value })));
  };
  const listGroups = async () => {
    const found = (await send(polled(request("GET", ["consumers"], { query: { topic } })))).content.groups;
    groups = found.map(each => each.group);
    list();
  };
  const refresh = async (mark = made => made) => fill(rows, (await send(mark(calls.progress()))).content.partitions);
  const act = (made, sentence) => attempt(outcome, async () => {
    const request_ = made();
    box.show(request_);
    await send(request_);
    remember(name.value.trim());
    list();
    outcome.good(sentence);
    await refresh();
  });
  const rewind = () => calls.set(position.value.trim());
  const replay = async () => {
    const text = `${name.value.trim()} goes back to the first message of ${topic}. Its clients get all messages again.`;
    if (!(await confirmed({ title: "Replay", text, action: "Replay all messages" }))) return;
    await act(() => calls.set("earliest"), "Position set to the first message.");
    messages.readFrom("committed");
  };
  const forget = async () => {
    const text = `The offsets of ${name.value.trim()} on ${topic} are deleted. It then has no position on this topic.`;
    if (await confirmed({ title: "Delete offsets", text, action: "Delete its offsets" })) await act(calls.forget, "Offsets deleted.");
  };
  const chosen = () => {
    rows.replaceChildren();
    isQueue = false;
    page.href = address("groups", name.value.trim());
    queue.href = address("queues", topic, name.value.trim());
    box.preview(calls.progress);
    attempt(outcome, async () => {
      outcome.good("");
      if (!may("consumer", name.value.trim())) throw new Error("You may not use the consumer of this name.");
      await refresh();
    });
  };
  name.addEventListener("change", chosen);
  list();
  const shown = panel(
    "Consumer",
    field("Name (a Kafka consumer group)", name), known,
    progressTable(rows),
    element(
      "div.fields", {},
      field("Position", position), ...timePicker(position),
      curlButton("Set position", box, rewind, () => act(rewind, "Position set.")),
    ),
    element(
      "div.actions", {},
      curlButton("Continue reading", box, calls.progress, () => messages.readFrom("committed")),
      curlButton("Replay", box, () => calls.set("earliest"), replay),
      curlButton("Delete offsets", box, calls.forget, forget, { class: "quiet" }), page, queue,
    ),
    outcome.element, box.element,
  );
  chosen();
  listGroups().catch(() => {}); // the names help to type only
  repeatWhileShown(shown, REFRESH_MS, () => isQueue || refresh(polled).catch(error => {
    rows.replaceChildren();
    isQueue = error.code === IS_QUEUE;
  }));
  return {
    element: shown,
    name: () => name.value.trim(),
    restore: () => {
      const before = name.value;
      if (restore() !== before) chosen();
    },
    acknowledgement: calls.acknowledgement,
    acknowledge: place => act(() => calls.acknowledgement(place), `Acknowledged up to ${place}.`),
  };
}

function progressTable(rows) {
  const head = ["Partition", "Committed", "End", "Lag"].map(each => element("th", { scope: "col" }, each));
  return element("div.scroll", {}, element("table.progress", {}, element("thead", {}, element("tr", {}, ...head)), rows));
}

function fill(rows, partitions) {
  const made = partitions.map(({ partition, committed, earliest, latest, lag }) => {
    const max = Math.max(1, latest - earliest);
    const meter = element("meter", {
      max, value: lag, low: max / 4, high: max * 3 / 4, optimum: 0, "aria-label": `Lag of partition ${partition}`,
    });
    return element(
      "tr", {},
      element("th.number", { scope: "row" }, String(partition)),
      element("td.number", {}, committed === null ? "none" : number(committed)),
      element("td.number", {}, number(latest)),
      element("td.number.lag", {}, meter, element("span", {}, number(lag))),
    );
  });
  const total = partitions.reduce((sum, each) => sum + each.lag, 0);
  const all = element("tr.total", {}, element("th", { scope: "row", colspan: 3 }, "Total lag"), element("td.number", {}, number(total)));
  rows.replaceChildren(...made, all);
}
