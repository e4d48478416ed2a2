// The page: its views, the models, the theme, and what goes wrong.

import { get } from "./api.js";
import * as chat from "./chat.js";
import * as samplers from "./samplers.js";
import * as search from "./search.js";
import * as writing from "./writing.js";

const byId = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[role=tab]")];
const THEME = "llmjax.theme";

function fail(message, retry) {
  const notice = byId("notice");
  notice.hidden = !message;
  notice.textContent = message;
  if (message && retry) {
    const again = document.createElement("button");
    again.textContent = "Try again";
    again.addEventListener("click", retry);
    notice.append(again);
  }
}

function open(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  byId("history").hidden = tab.id !== "tab-chat";
  fail("");
  location.replace(`#${tab.id.replace("tab-", "")}`);
}

function onTabKey(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const shown = tabs.filter((tab) => !tab.hidden);
  const next = shown[(shown.indexOf(event.target) + step + shown.length) % shown.length];
  open(next);
  next.focus();
}

function toggle(button, panel, shown) {
  const open = shown();
  button.setAttribute("aria-expanded", String(open));
  if (open) panel.querySelector("button, input, textarea").focus();
}

function theme(value) {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
}

function nextTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, next);
  theme(next);
}

async function connect() {
  try {
    const models = (await get("/v1/models")).data;
    byId("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
    const indexes = (await get("/v1/indexes")).data;
    byId("index").replaceChildren(...indexes.map(({ id }) => new Option(id, id)));
    byId("index").parentElement.hidden = indexes.length < 2;
    byId("tab-search").hidden = !indexes.length;
    fail("");
    const wanted = byId(`tab-${location.hash.slice(1)}`);
    if (wanted && !wanted.hidden) open(wanted);
  } catch (error) {
    fail(error.message, connect);
  }
}

theme(localStorage.getItem(THEME));
samplers.load();
chat.start();
writing.start(fail);
search.start(fail);
for (const tab of tabs) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", onTabKey);
}
byId("theme").addEventListener("click", nextTheme);
byId("options").addEventListener("click", () => toggle(byId("options"), byId("settings"), () => !(byId("settings").hidden = !byId("settings").hidden)));
byId("menu").addEventListener("click", () => toggle(byId("menu"), byId("history"), () => byId("history").classList.toggle("open")));
byId("key").addEventListener("change", connect);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") [chat, writing, search].forEach((view) => view.stop());
});
connect();
