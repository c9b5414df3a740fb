// Tasks: publishes that were accepted to be done later, and their state.

import { polled, request, send } from "./api.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, choice, element, field, repeatWhileShown, time } from "./dom.js";
import { update } from "./rows.js";

const STATUSES = [["", "all"], ...["pending", "failed", "delivered", "cancelled"].map(each => [each, each])];
const MAX_TASKS = 100;
const REFRESH_MS = 2000;

export function tasksView() {
  const box = new CurlBox("List tasks");
  const outcome = new Outcome();
  const status = choice(STATUSES, { name: "status" });
  const topic = element("input", { name: "topic", autocomplete: "off", spellcheck: "false" });
  const list = element("ul.messages");
  const listing = () =>
    request("GET", ["tasks"], { query: { status: status.value, topic: topic.value.trim(), limit: MAX_TASKS } });
  const cancel = task => attempt(outcome, async () => {
    const cancelling = request("DELETE", ["tasks", task.id]);
    box.show(cancelling);
    await send(cancelling);
    await refresh();
  });
  const refresh = (mark = made => made) => attempt(outcome, async () => {
    const { tasks } = (await send(mark(listing()))).content;
    outcome.good(tasks.length ? "" : "There are no matching tasks.");
    update(list, tasks, task => row(task, box, cancel));
  });
  const chosen = () => {
    box.preview(listing);
    refresh();
  };
  status.addEventListener("change", chosen);
  topic.addEventListener("change", chosen);
  chosen();
  const shown = element(
    "section", {},
    element("div.title", {}, element("h2", {}, "Tasks")),
    element("p.hint", {}, "Publishes accepted with “Prefer: respond-async”, in the order of acceptance."),
    element("div.fields", {}, field("Status", status), field("Topic", topic)),
    outcome.element, list, box.element,
  );
  repeatWhileShown(shown, REFRESH_MS, () => refresh(polled));
  return { element: shown, title: "Tasks" };
}

function row(task, box, cancel) {
  const cancelling = () => request("DELETE", ["tasks", task.id]);
  const failed = (task.records ?? []).filter(each => each.error).length;
  const kind = { failed: "bad", pending: "warn" }[task.status] ?? "good";
  return element(
    "li", {},
    element(
      "div.facts", {},
      element(`span.badge.${kind}`, {}, task.status), element("strong", {}, task.topic), time(task.created),
      task.records && element("span", {}, `${task.records.length - failed} of ${task.records.length} messages written`),
      task.callback && element("span", {}, `callback ${task.callback.status}`),
      task.status === "pending" ? curlButton("Cancel", box, cancelling, () => cancel(task), { class: "quiet" }) : undefined,
    ),
    element("code.id", {}, task.id),
    task.error && element("p.outcome.bad", {}, task.error.message),
    task.callback?.reason && element("p.outcome.bad", {}, `Callback: ${task.callback.reason}`),
  );
}
