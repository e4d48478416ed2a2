// A text with the surprisal of each token, and its continuation.

import { post, stream } from "./api.js";
import { model, sampling } from "./samplers.js";

const PAUSE = 350; // milliseconds without a key before a text is scored
const EDGES = [0.5, 1.5, 3, 5, 7.5, 10.5]; // bits from which the colours are stronger
const byId = (id) => document.getElementById(id);
let timer = 0;
let scoring = null;
let running = null;
let tokens = [];
let grownFrom = Infinity; // characters of the text that the person wrote

export function start(fail) {
  byId("text").addEventListener("input", () => {
    grownFrom = Infinity;
    clearTimeout(timer);
    timer = setTimeout(() => score(fail), PAUSE);
  });
  byId("continue").addEventListener("click", () => grow(fail));
  byId("halt").addEventListener("click", stop);
  byId("tokens").addEventListener("mouseover", (event) => {
    const index = event.target.dataset && event.target.dataset.index;
    if (index !== undefined) point(Number(index));
  });
  byId("tokens").addEventListener("keydown", move);
}

export function stop() {
  if (running) running.abort();
}

async function score(fail) {
  if (scoring) scoring.abort();
  const text = byId("text").value;
  if (!text) return show(text, null);
  scoring = new AbortController();
  try {
    const body = { model: model(), prompt: text, max_tokens: 0, echo: true, logprobs: 5 };
    const found = await post("/v1/completions", body, scoring.signal);
    show(text, found.choices[0].logprobs);
    fail("");
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  }
}

function show(text, found) {
  const list = byId("tokens");
  tokens = [];
  if (!found) {
    list.replaceChildren();
    byId("bits").value = "";
    byId("alternatives").replaceChildren();
    return;
  }
  const starts = found.text_offset;
  let bits = 0;
  starts.forEach((start, index) => {
    const end = index + 1 < starts.length ? starts[index + 1] : Array.from(text).length;
    const logprob = found.token_logprobs[index];
    const cost = logprob === null ? null : -logprob / Math.LN2;
    bits += cost || 0;
    tokens.push({ start, end, cost, top: found.top_logprobs[index] || {} });
  });
  const characters = Array.from(text);
  list.replaceChildren(...tokens.map((token, index) => {
    const node = document.createElement("span");
    node.textContent = characters.slice(token.start, token.end).join("");
    node.dataset.index = index;
    node.className = `s${strength(token.cost)}${token.start >= grownFrom ? " new" : ""}`;
    return node;
  }));
  const bytes = new TextEncoder().encode(text).length;
  byId("bits").value = `${(bits / bytes).toFixed(3)} bits per byte · ${tokens.length} tokens · ${bytes} bytes`;
}

function strength(cost) {
  return cost === null ? 0 : EDGES.filter((edge) => cost >= edge).length;
}

function move(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || !tokens.length) return;
  event.preventDefault();
  const at = byId("tokens").querySelector(".at");
  const now = at ? Number(at.dataset.index) : -1;
  point(Math.max(0, Math.min(tokens.length - 1, now + step)));
}

function point(index) {
  const list = byId("tokens");
  for (const node of list.querySelectorAll(".at")) node.classList.remove("at");
  list.children[index].classList.add("at");
  const { cost, top } = tokens[index];
  const line = document.createElement("div");
  const word = document.createElement("code");
  word.textContent = visible(list.children[index].textContent);
  line.append(word, cost === null ? " begins the text" : ` cost ${cost.toFixed(2)} bits, a probability of ${percent(2 ** -cost)}. Likeliest here:`);
  const table = document.createElement("table");
  for (const [text, logprob] of Object.entries(top)) {
    const row = table.insertRow();
    const code = document.createElement("code");
    code.textContent = visible(text);
    row.insertCell().append(code);
    row.insertCell().textContent = percent(Math.exp(logprob));
  }
  byId("alternatives").replaceChildren(line, table);
}

const visible = (text) => text.replace(/\n/g, "⏎").replace(/^ /, "␣") || "∅";
const percent = (share) => (share >= 0.0995 ? `${(100 * share).toFixed(0)} %` : share >= 0.0001 ? `${(100 * share).toFixed(2)} %` : "below 0.01 %");

async function grow(fail) {
  if (running) return;
  const area = byId("text");
  const from = Array.from(area.value).length;
  running = new AbortController();
  byId("continue").hidden = true;
  byId("halt").hidden = false;
  try {
    const body = { model: model(), prompt: area.value, ...sampling() };
    for await (const event of stream("/v1/completions", body, running.signal)) {
      if (event.choices[0]) area.value += event.choices[0].text;
      area.scrollTop = area.scrollHeight;
    }
    fail("");
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  }
  running = null;
  byId("continue").hidden = false;
  byId("halt").hidden = true;
  grownFrom = from;
  score(fail);
}
