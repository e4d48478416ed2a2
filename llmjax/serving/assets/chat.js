// Conversations: kept in the browser, streamed, stopped, edited and asked again.

import { stream } from "./api.js";
import { copied, render } from "./markdown.js";
import { model, sampling, systemPrompt } from "./samplers.js";

const KEPT = "llmjax.conversations";
const byId = (id) => document.getElementById(id);
let conversations = [];
let current = null;
let running = null;

export function start() {
  try {
    conversations = JSON.parse(localStorage.getItem(KEPT)) || [];
  } catch { /* damaged: none */ }
  current = conversations[0] || null;
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", onKey);
  byId("prompt").addEventListener("input", grow);
  byId("stop").addEventListener("click", stop);
  byId("new").addEventListener("click", fresh);
  byId("export").addEventListener("click", download);
  draw();
}

export function stop() {
  if (running) running.abort();
}

function fresh() {
  stop();
  current = null;
  draw();
  byId("history").classList.remove("open");
  byId("prompt").focus();
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(conversations.slice(0, 200)));
  } catch { /* the browser's space is full: this session still works */ }
}

function onKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !event.target.value && current && !running) {
    const last = current.messages.map((message) => message.role).lastIndexOf("user");
    if (last >= 0) {
      event.preventDefault();
      edit(last);
    }
  }
}

function grow() {
  const area = byId("prompt");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function send() {
  const text = byId("prompt").value.trim();
  if (!text || running) return;
  byId("prompt").value = "";
  grow();
  if (!current) {
    current = { id: crypto.randomUUID(), title: text.slice(0, 60), messages: [] };
    conversations.unshift(current);
  }
  current.messages.push({ role: "user", content: text });
  answer();
}

// Asks for the answer to the messages so far.
async function answer() {
  const conversation = current;
  const reply = { role: "assistant", content: "" };
  const system = systemPrompt();
  const asked = conversation.messages.map(({ role, content }) => ({ role, content }));
  conversation.messages.push(reply);
  running = new AbortController();
  draw();
  const node = byId("messages").lastElementChild;
  const body = { model: model(), messages: system ? [{ role: "system", content: system }, ...asked] : asked, ...sampling(), stream_options: { include_usage: true } };
  const began = performance.now();
  let first = null;
  try {
    for await (const event of stream("/v1/chat/completions", body, running.signal)) {
      if (event.usage) reply.usage = event.usage;
      const delta = event.choices[0] && event.choices[0].delta.content;
      if (event.choices[0] && event.choices[0].finish_reason === "length") reply.cut = true;
      if (!delta) continue;
      first = first === null ? performance.now() : first;
      reply.content += delta;
      refresh(node, reply);
    }
  } catch (error) {
    if (error.name !== "AbortError") reply.error = error.message;
    else reply.stopped = true;
  }
  const seconds = (performance.now() - (first === null ? began : first)) / 1000;
  if (reply.usage) reply.speed = (reply.usage.completion_tokens - 1) / seconds;
  running = null;
  conversations = [conversation, ...conversations.filter((other) => other !== conversation)];
  keep();
  if (current === conversation) draw();
  byId("prompt").focus();
}

function refresh(node, message) {
  const list = byId("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  node.querySelector(".body").replaceChildren(render(message.content));
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function draw() {
  const list = byId("messages");
  list.replaceChildren();
  const messages = current ? current.messages : [];
  if (!messages.length) {
    const empty = document.createElement("div");
    empty.className = "empty";
    const title = document.createElement("h1");
    title.textContent = "Ask the model";
    const line = document.createElement("p");
    line.textContent = "It runs on the machine that serves this page; nothing leaves it.";
    empty.append(title, line);
    list.append(empty);
  }
  messages.forEach((message, index) => list.append(shown(message, index)));
  list.setAttribute("aria-busy", String(Boolean(running)));
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  list.scrollTop = list.scrollHeight;
  drawHistory();
}

function shown(message, index) {
  const node = document.createElement("article");
  node.className = `message ${message.role}`;
  node.setAttribute("aria-label", message.role === "user" ? "You" : "Model");
  const body = document.createElement("div");
  body.className = "body";
  body.dir = "auto";
  if (message.role === "user") body.textContent = message.content;
  else body.append(render(message.content));
  const isLast = index === current.messages.length - 1;
  if (isLast && running) body.classList.add("busy");
  node.append(body, actions(message, index, isLast));
  return node;
}

function actions(message, index, isLast) {
  const row = document.createElement("div");
  row.className = "actions";
  if (isLast && running) return row;
  if (message.error) {
    const failed = document.createElement("span");
    failed.className = "failed";
    failed.textContent = message.error;
    row.append(failed, button("Try again", () => again(index)));
    return row;
  }
  const copy = button("Copy", () => copied(copy, message.content));
  row.append(copy);
  if (message.role === "user") row.append(button("Edit", () => edit(index)));
  else {
    row.append(button("Regenerate", () => again(index)));
    row.append(facts(message));
  }
  return row;
}

function facts(message) {
  const parts = [];
  if (message.stopped) parts.push("stopped");
  if (message.cut) parts.push("cut off at the most tokens");
  if (message.usage) parts.push(`${message.usage.completion_tokens} tokens`);
  if (message.speed > 0 && Number.isFinite(message.speed)) parts.push(`${message.speed.toFixed(1)} tokens/s`);
  return parts.join(" · ");
}

function button(label, act) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = label;
  node.addEventListener("click", act);
  return node;
}

function again(index) {
  if (running) return;
  current.messages.length = index;
  answer();
}

function edit(index) {
  const node = byId("messages").children[index];
  const area = document.createElement("textarea");
  area.value = current.messages[index].content;
  area.dir = "auto";
  area.setAttribute("aria-label", "Edit the message");
  const save = button("Send", () => {
    const text = area.value.trim();
    if (!text) return;
    current.messages.length = index;
    current.messages.push({ role: "user", content: text });
    answer();
  });
  save.className = "primary";
  const row = document.createElement("p");
  row.className = "row";
  row.append(save, button("Cancel", draw));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") draw();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      save.click();
    }
  });
  node.classList.add("editing");
  node.replaceChildren(area, row);
  area.focus();
}

function drawHistory() {
  byId("conversations").replaceChildren(...conversations.map(entry));
}

function entry(conversation) {
  const item = document.createElement("li");
  if (conversation === current) item.className = "current";
  const open = button(conversation.title, () => {
    stop();
    current = conversation;
    byId("history").classList.remove("open");
    draw();
  });
  open.className = "title";
  open.dir = "auto";
  if (conversation === current) open.setAttribute("aria-current", "true");
  const rename = button("✎", () => {
    const title = prompt("Title", conversation.title);
    if (title) conversation.title = title.slice(0, 200);
    keep();
    drawHistory();
  });
  rename.className = "tool";
  rename.setAttribute("aria-label", `Rename ${conversation.title}`);
  const remove = button("✕", () => {
    conversations = conversations.filter((other) => other !== conversation);
    if (current === conversation) fresh();
    keep();
    drawHistory();
  });
  remove.className = "tool";
  remove.setAttribute("aria-label", `Delete ${conversation.title}`);
  item.append(open, rename, remove);
  return item;
}

function download() {
  if (!current) return;
  const text = current.messages.map(({ role, content }) => `**${role}**\n\n${content}\n`).join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
  link.download = `${current.title.replace(/[^\p{L}\p{N} -]/gu, "").trim() || "conversation"}.md`;
  link.click();
  URL.revokeObjectURL(link.href);
}
