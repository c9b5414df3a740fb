// The consumer instances of the REST Proxy v2 API, and what they read.

import { polled, request, send } from "./api.js";
import { confirmed } from "./confirm.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, element, repeatWhileShown } from "./dom.js";
import { update } from "./rows.js";

const REFRESH_MS = 2000;

export function instancesView() {
  const box = new CurlBox("List consumer instances");
  const outcome = new Outcome();
  const list = element("ul.messages");
  const listing = () => request("GET", ["instances"]);
  const remove = instance => attempt(outcome, async () => {
    const text = `The instance ${instance.name} of the group ${instance.group} is closed. Its client gets errors from then on.`;
    if (!(await confirmed({ title: "Delete instance", text, action: "Delete instance" }))) return;
    const removing = removal(instance);
    box.show(removing);
    await send(removing);
    await refresh();
  });
  const refresh = (mark = made => made) => attempt(outcome, async () => {
    const { instances } = (await send(mark(listing()))).content;
    outcome.good(instances.length ? "" : "There are no consumer instances.");
    update(list, instances, instance => row(instance, box, remove));
  });
  box.preview(listing);
  refresh();
  const shown = element(
    "section", {},
    element("div.title", {}, element("h2", {}, "Consumer instances")),
    element("p.hint", {}, "Clients of the REST Proxy v2 API create them. Idle instances are closed, even while they are listed here."),
    outcome.element, list, box.element,
  );
  repeatWhileShown(shown, REFRESH_MS, () => refresh(polled));
  return { element: shown, title: "Consumer instances" };
}

const removal = ({ group, name }) => request("DELETE", ["consumers", group, "instances", name]);

function row(instance, box, remove) {
  return element(
    "li", {},
    element(
      "div.facts", {},
      element("strong", {}, instance.name), element("span", {}, `group ${instance.group}`),
      element("span.badge", {}, instance.format),
      curlButton("Delete", box, () => removal(instance), () => remove(instance), { class: "quiet" }),
    ),
    element("p", {}, reads(instance)),
  );
}

function reads({ topics, pattern, partitions }) {
  if (pattern !== undefined) return `subscribed to the topics that match ${pattern}`;
  if (topics) return `subscribed to ${topics.join(", ")}`;
  if (partitions) return `assigned to ${partitions.map(each => `${each.topic} ${each.partition}`).join(", ")}`;
  return "reads nothing yet";
}
