// Follows a topic over a stream of server-sent events, and reconnects when it ends.

import { callOrLogIn, problem } from "./api.js";
import { events } from "./events.js";

const MIN_DELAY = 500;
const MAX_DELAY = 10_000;

export class Follower {
  #request;
  #on;
  #delay = MIN_DELAY;
  #isResumed = false;
  #closing = new AbortController();
  #wake = () => {};

  /** `request` opens the stream at `position`; `on.record(json)`, `on.state(text)` and `on.problem(text)` are called. */
  constructor(request, position, on) {
    this.#request = request;
    this.#on = on;
    this.position = position;
    this.#run();
  }

  close() {
    this.#closing.abort();
  }

  /** Reconnects now if it waits to do so. */
  retry() {
    this.#wake();
  }

  get #isClosed() {
    return this.#closing.signal.aborted;
  }

  async #run() {
    while (!this.#isClosed) {
      await this.#follow().catch(() => {}); // the connection is broken, or closed here
      if (this.#isClosed) return;
      this.#on.state("reconnecting");
      await new Promise(done => {
        this.#wake = done;
        setTimeout(done, this.#delay * (1 + Math.random()));
      });
      this.#delay = Math.min(2 * this.#delay, MAX_DELAY);
    }
  }

  async #follow() {
    const headers = { ...this.#request.headers };
    if (this.#isResumed) headers["Last-Event-ID"] = this.position;
    const response = await callOrLogIn({ ...this.#request, headers }, { signal: this.#closing.signal });
    if (!response.ok) return this.#refused(response);
    this.#delay = MIN_DELAY;
    this.#on.state("live");
    for await (const event of events(response)) this.#received(event);
  }

  async #refused(response) {
    const content = await response.json().catch(() => null); // a proxy may answer in HTML
    if (content) this.#on.problem(problem(response, content));
  }

  #received({ id, event, data, retry }) {
    if (this.#isClosed) return;
    if (retry) this.#delay = Number(retry);
    if (id) {
      this.position = id;
      this.#isResumed = true;
    }
    if (!data) return;
    if (event === "gap") this.#on.problem(gap(JSON.parse(data)));
    else if (event === "error") this.#on.problem(JSON.parse(data).error.message);
    else if (!event) this.#on.record(data);
  }
}

const gap = ({ partition, from, to }) => `Partition ${partition}: offsets ${from} to ${to - 1} are no longer in the log.`;
