// Searches the whole topic on the server, and shows how far it is.

import { callOrLogIn, get, problem, request } from "./api.js";
import { curlButton } from "./curl.js";
import { Outcome, attempt, element, field, number } from "./dom.js";
import { events } from "./events.js";
import { MAX_ROWS } from "./message_list.js";
import { state } from "./state.js";
import { count } from "./topics.js";

export class Search {
  #topic;
  #on;
  #closing = new AbortController();
  #next = "earliest"; // where “Search on” continues
  #found = 0;
  #scanned = 0;
  #before = 0; // scanned by the parts of this search that have ended
  #total = 0;

  #outcome = new Outcome();
  #contains = element("input", { name: "contains", type: "search", autocomplete: "off", spellcheck: "false" });
  #key = element("input", { name: "searched-key", autocomplete: "off", spellcheck: "false" });
  #box;
  #bar = element("progress", { "aria-label": "Searched part of the topic" });
  #text = element("span", { role: "status" });
  #stop = element("button", { type: "button", click: () => this.#closing.abort() }, "Stop");
  #more = element("button", { type: "button", click: () => this.#read() }, "Search on");
  #progress = element("div.actions", { hidden: true }, this.#bar, this.#text, this.#stop, this.#more);

  /**
   * `on.start()` is called when the user searches, `on.path(position)` and `on.query()` return the path and the
   * parameters of reading, `on.record(json)` gets what is found. `box` shows the curl command.
   */
  constructor(topic, box, on) {
    this.#topic = topic;
    this.#on = on;
    this.#box = box;
    const asking = () => this.#request("earliest", on.query());
    const submit = event => {
      event.preventDefault();
      attempt(this.#outcome, async () => {
        if (!this.isWanted) throw new Error("Enter a text or a key to search for.");
        on.start();
      });
    };
    this.element = element(
      "form", { submit, input: () => box.preview(asking), "aria-label": "Search the whole topic" },
      element("div.fields", {}, field("Search the whole topic for a text", this.#contains), field("with the key", this.#key),
        curlButton("Search", box, asking, undefined, { type: "submit" })),
      this.#outcome.element, this.#progress,
    );
    this.restore();
  }

  get isWanted() {
    return Boolean(this.#contains.value || this.#key.value);
  }

  /** What is searched for, as parameters of a request and of the address. */
  get parameters() {
    return { contains: this.#contains.value, key: this.#key.value };
  }

  /** Shows what the address says. */
  restore() {
    const { parameters } = state();
    this.#contains.value = parameters.get("contains") ?? "";
    this.#key.value = parameters.get("key") ?? "";
  }

  clear() {
    this.#contains.value = this.#key.value = "";
    this.close();
  }

  close() {
    this.#closing.abort();
    this.#closing = new AbortController();
    this.#progress.hidden = true;
    this.#outcome.good("");
  }

  /** Searches from the beginning of the topic. */
  run() {
    this.#box.preview(() => this.#request("earliest", this.#on.query()));
    [this.#next, this.#scanned, this.#total] = ["earliest", 0, 0];
    return this.#read();
  }

  #request(position, query) {
    const headers = { Accept: "text/event-stream" };
    const made = request("GET", this.#on.path(position), { query: { ...query, until: "end", ...this.parameters }, headers });
    return { ...made, stream: true };
  }

  /** Searches until the end of the topic, or until the list is full. */
  async #read() {
    this.close();
    const closing = this.#closing;
    [this.#found, this.#before] = [0, this.#scanned];
    this.#show("");
    let ended = "Stopped";
    try {
      this.#total ||= await this.#counted();
      if (await this.#stream(closing)) ended = "Searched to the end";
      else if (this.#found >= MAX_ROWS) ended = "Stopped at a full list";
    } catch (error) {
      if (closing === this.#closing) this.#outcome.bad(error.message);
    }
    // Otherwise the page shows another search, or no search any more.
    if (closing === this.#closing) this.#show(ended, ended !== "Searched to the end");
  }

  async #counted() {
    const wanted = this.#on.query().partition?.split(",");
    const { partitions } = await get("messages", this.#topic);
    return count(partitions.filter(each => !wanted || wanted.includes(String(each.partition))));
  }

  /** Returns whether the end of the topic was reached. */
  async #stream(closing) {
    const { partition, ...query } = this.#on.query();
    if (this.#next === "earliest") query.partition = partition; // a later position names the partitions
    try {
      const response = await callOrLogIn(this.#request(this.#next, query), { signal: closing.signal });
      if (response.status === 204) return true;
      if (!response.ok) throw new Error(problem(response, await response.json().catch(() => null)));
      for await (const event of events(response)) {
        if (closing.signal.aborted) return false;
        if (event.event === "end") return true;
        this.#received(event);
        if (this.#found >= MAX_ROWS) closing.abort();
      }
    } catch (error) {
      if (!closing.signal.aborted) throw error;
    }
    return false;
  }

  #received({ id, event, data }) {
    if (id) this.#next = id;
    if (event === "progress") {
      this.#scanned = this.#before + JSON.parse(data).scanned;
      this.#show("");
    } else if (event === "error") {
      throw new Error(JSON.parse(data).error.message);
    } else if (!event && data) {
      this.#found += 1;
      this.#on.record(data);
    }
  }

  /** Shows how far the search is. `ended` says why it has ended. */
  #show(ended, canContinue = false) {
    if (ended && !canContinue) this.#scanned = this.#total;
    this.#bar.max = Math.max(this.#total, this.#scanned, 1);
    this.#bar.value = this.#scanned;
    const facts = `${number(this.#found)} found, ${number(this.#scanned)} of ${number(this.#total)} messages searched`;
    this.#text.textContent = ended ? `${ended}: ${facts}.` : `${facts} …`;
    this.#stop.hidden = Boolean(ended);
    this.#more.hidden = !canContinue;
    this.#progress.hidden = false;
  }
}
