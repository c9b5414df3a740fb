// Throughput of a topic and lag of its consumers over the last minutes. The page measures them while it is open.

import { element, number } from "./dom.js";

const SPAN_MS = 600_000;
const MINUTES = [1, 2, 5, 10]; // spans of the charts, as far as there are measurements
const MIN_STEP_MS = 500; // between two measurements of throughput
const MAX_TOPICS = 20;
const MAX_LINES = 4;
const [WIDTH, HEIGHT] = [600, 100]; // of the coordinates; the chart itself has any size

const histories = new Map(); // by topic, so that they outlast a change of the view

/** What was measured of a topic: the ends of its log, and the lag of each consumer. */
class History {
  #totals = [];
  #lags = new Map();
  #present = new Set(); // the consumers that have a position now

  ended(total, at) {
    const last = this.#totals.at(-1);
    if (last && at - last.at < MIN_STEP_MS) return;
    this.#totals.push({ at, total });
    this.#totals = recent(this.#totals, at);
  }

  stood(consumers, at) {
    this.#present = new Set(consumers.map(each => each.name));
    for (const { name, lag } of consumers) this.#lags.set(name, [...this.#lags.get(name) ?? [], { at, value: lag }]);
    for (const [name, points] of this.#lags) {
      if (at - points.at(-1).at > SPAN_MS) this.#lags.delete(name);
      else this.#lags.set(name, recent(points, at));
    }
  }

  /** Returns the minutes that a chart needs. */
  get minutes() {
    const first = Math.min(this.#totals[0]?.at ?? Infinity, ...[...this.#lags.values()].map(([each]) => each.at));
    return MINUTES.find(each => Date.now() - first <= each * 60_000) ?? MINUTES.at(-1);
  }

  /** Returns messages per second, each at the end of its interval. */
  throughput() {
    return rates(this.#totals);
  }

  /** Returns `[name, points]` of the consumers with the largest lag, by name. */
  lags() {
    const byLag = [...this.#lags].filter(([name]) => this.#present.has(name)).sort(([, one], [, other]) => other.at(-1).value - one.at(-1).value);
    return byLag.slice(0, MAX_LINES).sort(([one], [other]) => one.localeCompare(other));
  }

  get others() {
    return Math.max(0, this.#present.size - MAX_LINES);
  }
}

const recent = (points, at) => points.filter(each => at - each.at <= SPAN_MS);

/** Returns messages per second from totals `[{at, total}]`. A topic that was created again starts at 0. */
export function rates(totals) {
  return totals.slice(1).map(({ at, total }, index) => {
    const before = totals[index];
    return { at, value: Math.max(0, total - before.total) * 1000 / (at - before.at) };
  });
}

function historyOf(topic) {
  const known = histories.get(topic) ?? new History();
  histories.delete(topic);
  histories.set(topic, known);
  if (histories.size > MAX_TOPICS) histories.delete(histories.keys().next().value);
  return known;
}

export class LogCharts {
  #history;
  #throughput = new Chart("Throughput");
  #lag = new Chart("Lag");

  constructor(topic) {
    this.#history = historyOf(topic);
    this.element = element("div.charts", {}, this.#throughput.element, this.#lag.element);
    this.#draw();
  }

  /** Notes the sum of the ends of the partitions. */
  ended(total) {
    this.#history.ended(total, Date.now());
    this.#draw();
  }

  /** Notes the lag of consumers: `[{name, lag}]`. */
  stood(consumers) {
    this.#history.stood(consumers, Date.now());
    this.#draw();
  }

  #draw() {
    const throughput = this.#history.throughput();
    const minutes = this.#history.minutes;
    const rate = throughput.at(-1)?.value ?? 0;
    this.#throughput.draw([["messages per second", throughput]], `${rounded(rate)} messages per second`, minutes);
    const lags = this.#history.lags();
    const others = this.#history.others ? ` (${this.#history.others} more consumers)` : "";
    this.#lag.draw(lags, lags.length ? others : "no consumer has a position", minutes);
  }
}

const rounded = value => number(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));

/** A chart of lines over the last minutes. */
class Chart {
  #title;
  #now = element("span");
  #lines = element("ul.lines");
  #max = element("span.max");
  #start = element("span");
  #svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });

  constructor(title) {
    this.#title = title;
    this.element = element(
      "figure.chart", {}, element("figcaption", {}, element("h4", {}, title), this.#now, this.#lines),
      element("div.plot", {}, this.#svg, this.#max),
      element("div.axis", {}, this.#start, element("span", {}, "now")),
    );
  }

  /** Draws `lines`, `[[name, [{at, value}]]]`, over the last `minutes`. `says` is the present state in words. */
  draw(lines, says, minutes) {
    const max = ceiling(Math.max(0, ...lines.flatMap(([, points]) => points.map(each => each.value))));
    const place = { now: Date.now(), span: minutes * 60_000, max };
    const span = minutes === 1 ? "minute" : `${minutes} minutes`;
    this.#start.textContent = `${minutes === 1 ? "1 minute" : span} ago`;
    this.#now.textContent = says;
    this.#max.textContent = number(max);
    const drawn = lines.map(([, points], at) => svg("polyline", { points: path(points, place), class: `line-${at}` }));
    this.#svg.replaceChildren(...drawn);
    const named = lines.length > 1 || this.#title === "Lag";
    this.#lines.replaceChildren(...(named ? lines.map(entry) : []));
    this.#svg.setAttribute("aria-label", `${this.#title} over the last ${span}: ${spoken(lines, says)}`);
  }
}

function entry([name, points], at) {
  const sample = svg("svg", { viewBox: "0 0 24 8", class: "sample", "aria-hidden": "true" }, svg("polyline", { points: "0,4 24,4", class: `line-${at}` }));
  return element("li", {}, sample, element("span", {}, name), element("strong", {}, rounded(points.at(-1).value)));
}

function spoken(lines, says) {
  const facts = lines.filter(([, points]) => points.length).map(([name, points]) => {
    const highest = Math.max(...points.map(each => each.value));
    return `${name} now ${rounded(points.at(-1).value)}, at most ${rounded(highest)}`;
  });
  return facts.join("; ") || says;
}

/** Returns the points of a polyline: the `span` of time up to `now` from left to right, `max` at the top. */
export function path(points, { now, span, max }) {
  return points.map(({ at, value }) => {
    const x = WIDTH * (1 - (now - at) / span);
    return `${x.toFixed(1)},${(HEIGHT * (1 - value / max)).toFixed(1)}`;
  }).join(" ");
}

/** Returns the end of an axis: 1, 2 or 5 times a power of ten, at least 1. */
export function ceiling(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map(each => each * power).find(each => each >= value);
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}
