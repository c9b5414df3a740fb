// Follows a topic over an EventSource and reconnects when the connection ends.

const MIN_DELAY = 500;
const MAX_DELAY = 10_000;

export class Follower {
  #source = null;
  #timer = null;
  #delay = MIN_DELAY;
  #address;
  #on;

  /** `address(position)` is the URL of a stream; `on.record(json)`, `on.state(text)` and `on.problem(text)` are called. */
  constructor(address, position, on) {
    this.#address = address;
    this.#on = on;
    this.position = position;
    this.#open();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source.close();
  }

  #open() {
    const source = new EventSource(this.#address(this.position));
    source.addEventListener("open", () => this.#opened());
    source.addEventListener("message", event => {
      this.position = event.lastEventId;
      this.#on.record(event.data);
    });
    source.addEventListener("gap", event => {
      const { partition, from, to } = JSON.parse(event.data);
      this.position = event.lastEventId;
      this.#on.problem(`Partition ${partition}: offsets ${from} to ${to - 1} are no longer in the log.`);
    });
    source.addEventListener("error", event => this.#interrupted(event));
    this.#source = source;
  }

  #opened() {
    this.#delay = MIN_DELAY;
    this.#on.state("live");
  }

  #interrupted(event) {
    if (event.data) {  // the server's last event
      this.position = event.lastEventId;
      this.#on.problem(JSON.parse(event.data).error.message);
    }
    this.#on.state("reconnecting");
    if (this.#source.readyState !== EventSource.CLOSED) return; // the browser reconnects with the last id
    this.#timer = setTimeout(() => this.#open(), this.#delay * (1 + Math.random()));
    this.#delay = Math.min(2 * this.#delay, MAX_DELAY);
  }
}
