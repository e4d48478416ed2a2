// The settings: read from the form, kept in the browser, and given to each request.

import { settings } from "./api.js";

const DEFAULTS = { system: "", temperature: "0.7", top_p: "0.95", top_k: "", min_p: "0", max_tokens: "512", seed: "", key: "" };
const KEPT = "llmjax.settings";
const field = (name) => document.getElementById(name);

export function load() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEPT)) || {};
  } catch { /* damaged: the defaults */ }
  fill({ ...DEFAULTS, ...kept });
  for (const name of Object.keys(DEFAULTS)) field(name).addEventListener("input", save);
  field("reset").addEventListener("click", () => {
    fill(DEFAULTS);
    save();
  });
}

function fill(values) {
  for (const name of Object.keys(DEFAULTS)) field(name).value = values[name];
  show();
}

function save() {
  const values = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, field(name).value]));
  localStorage.setItem(KEPT, JSON.stringify(values));
  show();
}

function show() {
  settings.key = field("key").value;
  for (const output of document.querySelectorAll("#settings output")) {
    output.value = field(output.htmlFor[0]).value;
  }
}

// What a request for text carries.
export function sampling() {
  const number = (name) => (field(name).value === "" ? undefined : Number(field(name).value));
  return {
    temperature: number("temperature"),
    top_p: number("top_p"),
    top_k: number("top_k") || undefined,
    min_p: number("min_p") || undefined,
    max_tokens: Math.max(1, number("max_tokens") || 512),
    seed: number("seed"),
  };
}

export const systemPrompt = () => field("system").value.trim();
export const model = () => field("model").value;
