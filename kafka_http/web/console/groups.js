// Consumer groups: all of them, and one with its members, offsets and lag.

import { polled, request, send } from "./api.js";
import { confirmed } from "./confirm.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, element, number, repeatWhileShown } from "./dom.js";
import { address } from "./state.js";

const REFRESH_MS = 2000;
const LIST_MS = 5000; // the server asks the brokers for all groups
const TYPES = { classic: "classic", consumer: "consumer (KIP-848)", share: "share (queue)" };

export function groupsView() {
  const box = new CurlBox("List groups");
  const outcome = new Outcome();
  const rows = element("tbody");
  const listing = () => request("GET", ["consumers"]);
  const refresh = (mark = made => made) => attempt(outcome, async () => {
    const { groups } = (await send(mark(listing()))).content;
    outcome.good(groups.length ? "" : "There are no groups that you may use.");
    rows.replaceChildren(...groups.map(row));
  });
  box.preview(listing);
  refresh();
  const shown = element(
    "section", {},
    element("div.title", {}, element("h2", {}, "Groups")),
    element("p.hint", {}, "Kafka's consumer groups. A consumer of this API is a group, too, as soon as it has acknowledged a message."),
    outcome.element,
    element("div.panel.scroll", {}, table(["Group", "Type", "State", "Members"], rows, "groups")),
    box.element,
  );
  repeatWhileShown(shown, LIST_MS, () => refresh(polled));
  return { element: shown, title: "Groups" };
}

function row({ group, type, state, members }) {
  const name = element("th", { scope: "row" }, element("a", { href: address("groups", group) }, group));
  return element("tr", {}, name, text(TYPES[type] ?? type), element("td", {}, stateBadge(state)), count(members));
}

export function groupView(group) {
  const box = new CurlBox("Show the group");
  const outcome = new Outcome();
  const [facts, queues, members, offsets] = [element("div.facts"), element("p"), element("tbody"), element("tbody")];
  const asking = () => request("GET", ["consumers", group]);
  const deleting = () => request("DELETE", ["consumers", group]);
  const remove = async () => {
    const sentence = `The group ${group} and its offsets on all topics are deleted. Its consumers start again from the beginning or the end.`;
    if (!(await confirmed({ title: `Delete ${group}`, text: sentence, action: "Delete group" }))) return;
    await attempt(outcome, async () => {
      await send(deleting());
      location.hash = address("groups");
    });
  };
  const button = curlButton("Delete group", box, deleting, remove, { class: "danger", disabled: true });
  const refresh = async (mark = made => made) => attempt(outcome, async () => {
    const found = (await send(mark(asking()))).content;
    showFacts(facts, found);
    queues.replaceChildren(...queueLinks(found));
    members.replaceChildren(...(found.members.length ? found.members.map(memberRow) : [nothing("The group has no members.", 5)]));
    offsets.replaceChildren(...offsetRows(found.offsets));
    button.disabled = found.members.length > 0;
    button.title = button.disabled ? `Only a group without members can be deleted.${found.type === "share" ? " Delete its queues instead." : ""}` : "";
  });
  box.preview(asking);
  refresh();
  const shown = element(
    "section.group", {},
    element("div.title", {}, element("h2", {}, group), facts),
    outcome.element, queues,
    element("h3", {}, "Offsets"),
    element("div.panel.scroll", {}, table(["Topic", "Partition", "Position", "End", "Lag"], offsets, "offsets")),
    element("h3", {}, "Members"),
    element("div.panel.scroll", {}, table(["Member", "Client", "Host", "Instance", "Partitions"], members, "members")),
    element("div.actions", {}, button),
    box.element,
  );
  repeatWhileShown(shown, REFRESH_MS, () => refresh(polled));
  return { element: shown, title: group };
}

function showFacts(facts, { type, state, assignor }) {
  const parts = [element("span.badge", {}, TYPES[type] ?? type), stateBadge(state), assignor && element("span.soft", {}, `assignor ${assignor}`)];
  facts.replaceChildren(...parts.filter(Boolean));
}

/** Links to the queues of a share group: one for each of its topics. It has offsets only after a first acknowledgement. */
function queueLinks({ group, type, members, offsets }) {
  if (type !== "share") return [];
  const topics = new Set([...offsets, ...members.flatMap(each => each.partitions)].map(each => each.topic));
  const links = [...topics].sort().map(topic => element("a", { href: address("queues", topic, group) }, `Queue of ${topic}`));
  return links.flatMap(each => [each, " "]);
}

function memberRow({ member, client, host, instance, partitions }) {
  const assigned = partitions.map(each => `${each.topic} ${each.partition}`).join(", ");
  return element("tr", {}, element("th", { scope: "row" }, member), ...[client, host, instance ?? "none", assigned || "none"].map(text));
}

/** A share group has start offsets in place of committed ones. */
function offsetRows(offsets) {
  if (!offsets.length) return [nothing("The group has no offsets on topics that you may see.", 5)];
  const rows = offsets.map(({ topic, partition, committed, start, end, lag }) => element(
    "tr", {},
    element("th", { scope: "row" }, element("a", { href: address("topics", topic) }, topic)),
    count(partition), count(committed ?? start), count(end), count(lag),
  ));
  const total = offsets.reduce((sum, each) => sum + (each.lag ?? 0), 0);
  return [...rows, element("tr.total", {}, element("th", { scope: "row", colspan: 4 }, "Total lag"), count(total))];
}

function table(columns, rows, kind) {
  const head = columns.map(each => element("th", { scope: "col" }, each));
  return element(`table.${kind}`, {}, element("thead", {}, element("tr", {}, ...head)), rows);
}

const text = shown => element("td", {}, shown);
const count = shown => element("td.number", {}, shown === null || shown === undefined ? "none" : number(shown));
const nothing = (sentence, columns) => element("tr", {}, element("td", { colspan: columns }, sentence));
const stateBadge = state => element(`span.badge${state === "Stable" ? ".good" : ""}`, {}, state);
