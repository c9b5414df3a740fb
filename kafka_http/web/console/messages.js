// The messages of a topic: live, page by page, or what a search finds.

import { parseExactly, request, send } from "./api.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, checkbox, choice, element, field } from "./dom.js";
import { Follower } from "./follower.js";
import { formats, readingFormats } from "./formats.js";
import { MessageList } from "./message_list.js";
import { positionExamples, positionInput, timePicker } from "./position.js";
import { may } from "./rights.js";
import { Search } from "./search.js";
import { remember, state } from "./state.js";

const PAGE = 100;
const FROM = "-10";
const NO_KAFKA = [50302, 50003, 504]; // the codes of errors when Kafka does not answer

export class Messages {
  #topic;
  #consumer = null;
  #follower = null;
  #next = null; // the position after the last page
  #session = 0;
  #reading = "stopped"; // what the page does
  #isKafkaAway = false;

  #box = new CurlBox("Read messages");
  #outcome = new Outcome();
  #from = positionInput("from", FROM);
  #partition = element("input", { name: "partition", placeholder: "all", inputmode: "numeric", autocomplete: "off" });
  #format = choice([["", "detected"], ...formats().map(each => [each, each])], { name: "format" });
  #live = checkbox("Live", { name: "live", checked: true });
  #state = element("span.badge", { "data-state": "" });
  #pause = element("button", { type: "button", click: () => this.#pauseOrResume() }, "Pause");
  #more = curlButton("Next page", this.#box, () => this.#page(this.#next), () => this.#readNext());
  #list;
  #search;

  constructor(topic) {
    this.#topic = topic;
    this.#list = new MessageList(topic, record => this.#actions(record), [this.#pause, this.#more]);
    this.#search = new Search(topic, this.#box, {
      start: () => this.#start({ isStep: true, isSearch: true }),
      path: position => this.#path(position),
      query: () => this.#query(),
      record: json => this.#list.receive(json),
    });
    this.#restoreForm();
    this.element = this.#built();
    this.#box.preview(() => this.#shownRequest());
  }

  /** Sets the consumer that reads and acknowledges, which `consumerPanel` returns. */
  acknowledging(consumer) {
    this.#consumer = consumer;
    this.restore();
  }

  /** Shows what the address says. */
  restore() {
    this.#restoreForm();
    this.#search.restore();
    this.#list.restore();
    this.#start({ isSearch: this.#search.isWanted });
  }

  readFrom(position) {
    this.#from.value = position;
    this.#start({ isStep: true });
  }

  /** Calls `listener(records)` for all messages that the list gets from now on, some at a time. */
  listen(listener) {
    this.#list.listen(listener);
  }

  /** Shows by the response to a request whether Kafka answers. Returns the response. */
  async watch(response) {
    try {
      const found = await response;
      if (this.#isKafkaAway) this.#follower?.retry();
      this.#isKafkaAway = false;
      return found;
    } catch (error) {
      this.#isKafkaAway = NO_KAFKA.includes(error.code);
      throw error;
    } finally {
      this.#showReading();
    }
  }

  /** Shows the message at an offset: its row if the list has it, else it reads from there. */
  reveal(partition, offset) {
    const row = this.#list.row(partition, offset);
    if (!row) return this.readFrom(`${partition}:${offset}`);
    row.hidden = false;
    row.tabIndex = -1;
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  }

  close() {
    this.#session += 1;
    this.#follower?.close();
    this.#search.close();
    this.#list.close();
  }

  #built() {
    const preview = () => this.#box.preview(() => this.#shownRequest());
    const submit = event => {
      event.preventDefault();
      this.#start({ isStep: true });
    };
    const form = element(
      "form.fields", { submit, input: preview, "aria-label": "Read" },
      field("From", this.#from), ...timePicker(this.#from), field("Partition", this.#partition),
      field("Format", this.#format), this.#live.label,
      element("button.primary", { type: "submit", focus: preview, pointerenter: preview }, "Read"),
    );
    return element(
      "section.reading", { "aria-labelledby": "messages-title" },
      element("div.title", {}, element("h3", { id: "messages-title" }, "Messages"), this.#state, this.#list.count),
      positionExamples(), form, this.#search.element, this.#box.element, this.#outcome.element, this.#list.element,
    );
  }

  #actions(record) {
    const place = `${record.partition}:${record.offset}`;
    return [curlButton(
      "Ack up to here", this.#box, () => this.#consumer.acknowledgement(place),
      () => this.#consumer.acknowledge(place), { class: "quiet ack", "aria-label": `Acknowledge up to ${place}` },
    )];
  }

  #restoreForm() {
    const { parameters } = state();
    this.#from.value = parameters.get("from") ?? FROM;
    this.#partition.value = parameters.get("partition") ?? "";
    this.#format.value = parameters.get("format") ?? "";
    this.#live.control.checked = parameters.get("live") !== "false";
  }

  #rememberForm(isStep) {
    const from = this.#from.value.trim();
    const parameters = {
      from: from === FROM ? "" : from, partition: this.#partition.value.trim(), format: this.#format.value,
      live: this.#live.control.checked ? "" : "false",
    };
    remember({ ...parameters, ...this.#search.parameters }, { isStep });
  }

  // Requests

  #path(position) {
    return ["messages", this.#topic, this.#consumer?.name() || "console", position];
  }

  #query() {
    return { partition: this.#partition.value.trim() || undefined, ...readingFormats(this.#format.value) };
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

  /** Reads or searches as the forms say. With `isStep` the back button returns to what was shown before. */
  #start({ isStep = false, isSearch = false }) {
    this.#stop();
    this.#list.clear();
    if (!isSearch) this.#search.clear();
    this.#rememberForm(isStep);
    this.#outcome.good("");
    if (!may("read", this.#topic)) this.#outcome.bad("You may not read this topic.");
    else if (isSearch) this.#find();
    else attempt(this.#outcome, () => this.#readFirst());
  }

  async #find() {
    const session = this.#session;
    this.#showState("searching");
    await this.#search.run();
    if (session === this.#session) this.#showState("search");
  }

  /** Reads a page first. It shows errors, and its position is the start of the stream, so that no message is missed if
   * the stream breaks before its first message. */
  async #readFirst() {
    const session = this.#session;
    this.#box.preview(() => this.#shownRequest());
    await this.#readPage(this.#page(this.#from.value.trim()), session);
    if (session !== this.#session) return;
    if (this.#live.control.checked) this.#follow(this.#next);
    else this.#showState("page");
  }

  #stop() {
    this.#session += 1;
    this.#follower?.close();
    this.#follower = null;
    this.#search.close();
    this.#next = null;
    this.#showState("stopped");
  }

  async #readPage(page, session) {
    const { content, text } = await send(page);
    if (session !== this.#session) return;
    this.#next = content.next;
    for (const exact of parseExactly(text).records) this.#list.receive(JSON.stringify(exact));
    if (!content.records.length && !this.#live.control.checked) this.#outcome.good("There are no more messages at present.");
  }

  #readNext() {
    attempt(this.#outcome, async () => {
      const page = this.#page(this.#next, readingFormats(this.#format.value));
      this.#outcome.good("");
      this.#box.show(page);
      await this.#readPage(page, this.#session);
    });
  }

  #follow(position) {
    this.#showState("connecting");
    const query = readingFormats(this.#format.value); // the position names the partitions
    this.#follower = new Follower(this.#stream(position, query), position, {
      record: json => this.#list.receive(json),
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

  #showState(shown) {
    this.#reading = shown;
    this.#showReading();
    this.#pause.hidden = !["connecting", "live", "reconnecting", "paused"].includes(shown);
    this.#pause.textContent = shown === "paused" ? "Resume" : "Pause";
    this.#more.hidden = shown !== "page";
    if (shown === "live") this.#outcome.good("");
  }

  #showReading() {
    const isWaiting = this.#isKafkaAway && ["connecting", "live", "reconnecting"].includes(this.#reading);
    this.#state.textContent = isWaiting ? "waiting for Kafka" : this.#reading;
    this.#state.dataset.state = isWaiting ? "waiting" : this.#reading;
  }
}
