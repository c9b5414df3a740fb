// What the user may do, as the server says.

import { request, send } from "./api.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, element } from "./dom.js";

const SCHEMES = {
  basic: "user and password", key: "API key", jwt: "token", certificate: "certificate", proxy: "named by a proxy",
  anonymous: "without credentials", off: "authentication is off",
};
const RIGHTS = [
  ["publish", "Publish to topics"], ["read", "Read topics"], ["describe", "See other topics"],
  ["consumer", "Use consumers and groups"],
];

export function accessView() {
  const box = new CurlBox("Show access");
  const outcome = new Outcome();
  const [facts, rows] = [element("div.facts"), element("tbody")];
  const asking = request("GET", ["access"]);
  box.show(asking);
  attempt(outcome, async () => {
    const { access } = (await send(asking)).content;
    facts.replaceChildren(
      element("strong", {}, access.principal ?? "everybody"), element("span.badge", {}, SCHEMES[access.scheme] ?? access.scheme),
      ...access.groups.map(each => element("span", {}, `group ${each}`)),
    );
    rows.replaceChildren(
      ...RIGHTS.map(([right, label]) => row(label, names(access.rights[right]))),
      row("Create, change and delete topics", access.rights.topic_admin ? "yes" : "no"),
      row("Administer", access.rights.admin ? "yes" : "no"),
    );
  });
  const head = element("tr", {}, ...["Right", "On"].map(each => element("th", { scope: "col" }, each)));
  const shown = element(
    "section", {},
    element("div.title", {}, element("h2", {}, "Access")), facts, outcome.element,
    element("div.panel.scroll", {}, element("table.rights", {}, element("thead", {}, head), rows)),
    box.element,
  );
  return { element: shown, title: "Access" };
}

const row = (label, text) =>
  element("tr", {}, element("th", { scope: "row" }, label), element("td", {}, text));

/** Names match a pattern of each list in `include`, and none in `exclude`. */
function names({ include, exclude }) {
  if (include.some(each => !each.length)) return "none";
  const wanted = include.map(each => each.includes("*") ? "all" : each.join(", "));
  const narrowed = wanted.filter(each => each !== "all");
  const text = narrowed.length ? narrowed.join(", and of these: ") : "all";
  return exclude.length ? `${text}, except ${exclude.join(", ")}` : text;
}
