// A consumer: its progress, and calls that change its position.

import { polled, request, send } from "./api.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, element, field, number, panel, repeatWhileShown } from "./dom.js";

const REFRESH_MS = 1000;
const STORAGE_KEY = "kafka_http.consumers";

/** The consumers used in this browser. The API does not list Kafka's groups. */
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

/** `{element, name(), acknowledgement(position), acknowledge(position)}`. */
export function consumerPanel(topic, messages) {
  const box = new CurlBox("Consumer");
  const outcome = new Outcome();
  const rows = element("tbody");
  const known = element("datalist", { id: "consumers" });
  const name = element("input", {
    name: "consumer", value: knownNames()[0] ?? "me", list: known.id, autocomplete: "off", spellcheck: "false", required: true,
  });
  const position = element("input", { name: "rewind", value: "earliest", list: "positions", spellcheck: "false" });
  const path = (...more) => ["messages", topic, name.value.trim(), ...more];
  const calls = {
    progress: () => request("GET", path()),
    set: place => request("PUT", path(place)),
    forget: () => request("DELETE", path()),
    acknowledgement: place => request("DELETE", path(place)),
  };
  const list = () => known.replaceChildren(...knownNames().map(value => element("option", { value })));
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
    await act(() => calls.set("earliest"), "Position set to the first message.");
    messages.readFrom("committed");
  };
  const chosen = () => {
    rows.replaceChildren();
    box.preview(calls.progress);
    attempt(outcome, async () => {
      outcome.good("");
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
      field("Position", position),
      curlButton("Set position", box, rewind, () => act(rewind, "Position set.")),
    ),
    element(
      "div.actions", {},
      curlButton("Continue reading", box, calls.progress, () => messages.readFrom("committed")),
      curlButton("Replay", box, () => calls.set("earliest"), replay),
      curlButton("Delete offsets", box, calls.forget, () => act(calls.forget, "Offsets deleted."), { class: "quiet" }),
    ),
    outcome.element, box.element,
  );
  chosen();
  repeatWhileShown(shown, REFRESH_MS, () => refresh(polled).catch(() => rows.replaceChildren()));
  return {
    element: shown,
    name: () => name.value.trim(),
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
