// Passages of an index, and an answer from them with its sources.

import { post, stream } from "./api.js";
import { render } from "./markdown.js";
import { model, sampling } from "./samplers.js";

const byId = (id) => document.getElementById(id);
let running = null;

export function start(fail) {
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    find(fail);
  });
}

export function stop() {
  if (running) running.abort();
}

async function find(fail) {
  stop();
  const query = byId("query").value.trim();
  if (!query) return;
  const mine = (running = new AbortController());
  byId("reply").hidden = true;
  byId("hits").replaceChildren();
  try {
    const found = await post("/v1/search", { query, index: byId("index").value || null, limit: 6 }, mine.signal);
    byId("hits").replaceChildren(...found.data.map(hit));
    fail(found.data.length ? "" : "Nothing was found in the documents.");
    if (found.data.length && byId("answer").checked) await reply(found.messages, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  }
}

function hit(found) {
  const item = document.createElement("li");
  item.id = `hit-${found.number}`;
  const source = document.createElement("div");
  source.className = "source";
  source.textContent = [found.source, found.heading].filter(Boolean).join(" · ");
  const text = document.createElement("p");
  text.dir = "auto";
  text.textContent = found.text;
  item.append(source, text);
  return item;
}

async function reply(messages, signal) {
  const box = byId("reply");
  const body = document.createElement("div");
  body.className = "body busy";
  body.dir = "auto";
  box.replaceChildren(body);
  box.hidden = false;
  let text = "";
  // The likeliest answer; without the penalty, small models repeat themselves.
  const answer = { temperature: 0, repetition_penalty: 1.1, max_tokens: 256 };
  const asked = { model: model(), messages, ...sampling(), ...answer };
  try {
    for await (const event of stream("/v1/chat/completions", asked, signal)) {
      text += (event.choices[0] && event.choices[0].delta.content) || "";
      body.replaceChildren(render(text));
      body.classList.add("busy");
    }
  } finally {
    body.classList.remove("busy");
    for (const [, number] of text.matchAll(/\[(\d+)\]/g)) {
      const cited = byId(`hit-${number}`);
      if (cited) cited.classList.add("cited");
    }
  }
}
