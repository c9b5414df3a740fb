// The messages of a topic, live or page by page. Keeps the newest ones, up to a limit.

import { FORMATS, parseExactly, request, send } from "./api.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, checkbox, choice, element, field, number } from "./dom.js";
import { Follower } from "./follower.js";
import { messageRow } from "./message.js";

const MAX_ROWS = 300;
const PAGE = 100;
const FOLLOWING = ["connecting", "live", "reconnecting"];
const NO_KAFKA = [50302, 50003, 504]; // the codes of errors when Kafka does not answer
const FLUSH_MS = 100;
const ANNOUNCE_MS = 5000;
const POSITIONS = ["latest", "earliest", "-10", "committed", "0:0", "@2026-01-01T00:00:00Z"];

export class Messages {
  #topic;
  #consumer = null;
  #follower = null;
  #next = null; // the position after the last page
  #session = 0;
  #waiting = [];
  #flush = null;
  #received = 0;
  #unannounced = 0;
  #announcer = setInterval(() => this.#announce(), ANNOUNCE_MS);
  #reading = "stopped"; // what the page does
  #isKafkaAway = false;

  #box = new CurlBox("Read messages");
  #outcome = new Outcome();
  #from = element("input", { name: "from", value: "-10", list: "positions", autocomplete: "off", spellcheck: "false" });
  #partition = element("input", { name: "partition", placeholder: "all", inputmode: "numeric", autocomplete: "off" });
  #format = choice([["", "detected"], ...FORMATS.map(each => [each, each])], { name: "format" });
  #live = checkbox("Live", { name: "live", checked: true });
  #filter = element("input", { name: "filter", type: "search", placeholder: "text in key, value or headers" });
  #list = element("ol.messages", { "aria-label": "Messages, newest first" });
  #state = element("span.badge", { "data-state": "" });
  #count = element("span.soft");
  #announcement = element("p.unseen", { role: "status" });
  #pause = element("button", { type: "button", click: () => this.#pauseOrResume() }, "Pause");
  #more = curlButton("Next page", this.#box, () => this.#page(this.#next), () => this.#readNext());

  constructor(topic) {
    this.#topic = topic;
    this.element = this.#built();
    this.#filter.addEventListener("input", () => this.#filtered());
    this.#box.preview(() => this.#shownRequest());
  }

  /** Sets the consumer that reads and acknowledges, which `consumerPanel` returns. */
  acknowledging(consumer) {
    this.#consumer = consumer;
    this.#start();
  }

  /** Is called with each message that comes. */
  onMessage = () => {};

  /** Shows by the response to a request whether Kafka answers. Returns the response. */
  async watch(response) {
    try {
      const found = await response;
      this.#kafka(true);
      return found;
    } catch (error) {
      this.#kafka(!NO_KAFKA.includes(error.code));
      throw error;
    }
  }

  #kafka(isThere) {
    this.#isKafkaAway = !isThere;
    this.#showReading();
  }

  readFrom(position) {
    this.#from.value = position;
    this.#start();
  }

  close() {
    this.#session += 1;
    clearInterval(this.#announcer);
    clearTimeout(this.#flush);
    this.#follower?.close();
  }

  #built() {
    const preview = () => this.#box.preview(() => this.#shownRequest());
    const form = element(
      "form.fields", { submit: event => this.#submitted(event), input: preview, "aria-label": "Read" },
      field("From", this.#from), field("Partition", this.#partition), field("Format", this.#format),
      this.#live.label,
      element("button.primary", { type: "submit", focus: preview, pointerenter: preview }, "Read"),
    );
    return element(
      "section.reading", { "aria-labelledby": "messages-title" },
      element("div.title", {}, element("h3", { id: "messages-title" }, "Messages"), this.#state, this.#count),
      element("datalist", { id: "positions" }, ...POSITIONS.map(value => element("option", { value }))),
      form, this.#box.element, this.#outcome.element,
      element("div.fields", {}, field("Filter", this.#filter), this.#pause, this.#more,
        element("button.quiet", { type: "button", click: () => this.#clear() }, "Clear")),
      this.#announcement, this.#list,
    );
  }

  #submitted(event) {
    event.preventDefault();
    this.#start();
  }

  // Requests

  #path(position) {
    return ["messages", this.#topic, this.#consumer?.name() || "console", position];
  }

  #query() {
    return { partition: this.#partition.value.trim(), format: this.#format.value };
  }

  #page(position, query = this.#query()) {
    return request("GET", this.#path(position), { query: { ...query, limit: PAGE } });
  }

  #stream(position, query) {
    const headers = { Accept: "text/event-stream" };
    return { ...request("GET", this.#path(position), { query, headers }), stream: true };
  }

  #shownRequest() {
    const from = this.#from.value.trim();
    return this.#live.control.checked ? this.#stream(from, this.#query()) : this.#page(from);
  }

  // Reading

  /** Reads a page first. It shows errors, and its position is the start of the stream, so that no message is missed if
   * the stream breaks before its first message. */
  #start() {
    this.#stop();
    this.#clear();
    const session = this.#session;
    attempt(this.#outcome, async () => {
      this.#outcome.good("");
      this.#box.preview(() => this.#shownRequest());
      await this.#readPage(this.#page(this.#from.value.trim()), session);
      if (session !== this.#session) return;
      if (this.#live.control.checked) this.#follow(this.#next);
      else this.#showState("page");
    });
  }

  #stop() {
    this.#session += 1;
    this.#follower?.close();
    this.#follower = null;
    this.#next = null;
    this.#showState("stopped");
  }

  async #readPage(page, session) {
    const { content, text } = await send(page);
    if (session !== this.#session) return;
    this.#next = content.next;
    const exact = parseExactly(text).records;
    content.records.forEach((record, at) => this.#receive(record, exact[at].value));
    if (!content.records.length && !this.#live.control.checked) this.#outcome.good("There are no more messages at present.");
  }

  #readNext() {
    attempt(this.#outcome, async () => {
      const page = this.#page(this.#next, { format: this.#format.value });
      this.#outcome.good("");
      this.#box.show(page);
      await this.#readPage(page, this.#session);
    });
  }

  #follow(position) {
    const query = { format: this.#format.value }; // the position names the partitions
    this.#showState("connecting");
    this.#follower = new Follower(this.#stream(position, query), position, {
      record: json => this.#receive(JSON.parse(json), parseExactly(json).value),
      state: text => this.#showState(text),
      problem: text => this.#outcome.bad(text),
    });
  }

  #pauseOrResume() {
    if (this.#follower) {
      this.#follower.close();
      this.#next = this.#follower.position;
      this.#follower = null;
      this.#showState("paused");
    } else if (this.#next) {
      this.#follow(this.#next);
    }
  }

  #showState(state) {
    this.#reading = state;
    this.#showReading();
    this.#pause.hidden = !this.#live.control.checked || state === "stopped" || state === "page";
    this.#pause.textContent = state === "paused" ? "Resume" : "Pause";
    this.#more.hidden = state !== "page";
    if (state === "live") this.#outcome.good("");
  }

  #showReading() {
    const isWaiting = this.#isKafkaAway && FOLLOWING.includes(this.#reading);
    this.#state.textContent = isWaiting ? "waiting for Kafka" : this.#reading;
    this.#state.dataset.state = isWaiting ? "waiting" : this.#reading;
  }

  // Showing

  #receive(record, exact) {
    this.#received += 1;
    this.#unannounced += 1;
    this.onMessage(record);
    this.#waiting.push([record, exact]);
    if (this.#waiting.length > MAX_ROWS) this.#waiting.shift();
    this.#flush ??= setTimeout(() => this.#shown(), FLUSH_MS);
  }

  #shown() {
    this.#flush = null;
    const rows = this.#waiting.map(([record, exact]) => this.#row(record, exact));
    this.#waiting = [];
    this.#list.prepend(...rows.reverse());
    while (this.#list.childElementCount > MAX_ROWS) this.#list.lastElementChild.remove();
    this.#counted();
  }

  #row(record, exact) {
    const place = `${record.partition}:${record.offset}`;
    const acknowledge = curlButton(
      "Ack up to here", this.#box, () => this.#consumer.acknowledgement(place),
      () => this.#consumer.acknowledge(place), { class: "quiet", "aria-label": `Acknowledge up to ${place}` },
    );
    const row = messageRow(record, exact, [acknowledge]);
    row.hidden = !this.#matches(row);
    return row;
  }

  #matches(row) {
    return row.textContent.toLowerCase().includes(this.#filter.value.trim().toLowerCase());
  }

  #filtered() {
    for (const row of this.#list.children) row.hidden = !this.#matches(row);
    this.#counted();
  }

  #counted() {
    const shown = [...this.#list.children].filter(each => !each.hidden).length;
    this.#count.textContent = `${number(shown)} shown of ${number(this.#received)} received`;
  }

  #clear() {
    this.#waiting = [];
    this.#received = 0;
    this.#unannounced = 0;
    this.#list.replaceChildren();
    this.#counted();
  }

  /** Announces new messages to screen readers from time to time, not each one. */
  #announce() {
    if (!this.#unannounced) return;
    this.#announcement.textContent = `${number(this.#unannounced)} new messages`;
    this.#unannounced = 0;
  }
}
