// Markdown as DOM nodes. Nothing is parsed as HTML, so that no text can become a script.

const INLINE = /(`+)([^`][\s\S]*?)\1|\*\*([^*]+)\*\*|__([^_]+)__|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>)]+)/;

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function inline(text, into) {
  for (let rest = text; rest; ) {
    const found = INLINE.exec(rest);
    if (!found) {
      into.append(rest);
      break;
    }
    into.append(rest.slice(0, found.index));
    const [whole, , code, strong, strong2, em, label, address, bare] = found;
    if (code !== undefined) into.append(element("code", code));
    else if (strong || strong2) into.append(inline(strong || strong2, element("strong")));
    else if (em) into.append(inline(em, element("em")));
    else into.append(link(address || bare, label || bare));
    rest = rest.slice(found.index + whole.length);
  }
  return into;
}

function link(address, label) {
  const node = element("a", label);
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}

function fence(lines) {
  const text = lines.join("\n");
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  copy.addEventListener("click", () => copied(copy, text));
  const block = element("pre", element("code", text), copy);
  block.tabIndex = 0;
  return block;
}

export async function copied(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Cannot copy";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, name) => element("tr", ...cells(line).map((cell) => inline(cell, element(name))));
  const body = element("tbody", ...lines.slice(2).map((line) => row(line, "td")));
  return element("table", element("thead", row(lines[0], "th")), body);
}

function list(lines, ordered) {
  const found = element(ordered ? "ol" : "ul");
  const mark = ordered ? /^\s*\d+[.)]\s+/ : /^\s*[-*+]\s+/;
  if (ordered) found.start = parseInt(lines[0], 10) || 1;
  let item = [];
  const close = () => item.length && found.append(inner(item, element("li")));
  for (const line of lines) {
    if (mark.test(line) && !/^\s{2,}/.test(line)) {
      close();
      item = [line.replace(mark, "")];
    } else item.push(line.replace(/^\s{1,4}/, ""));
  }
  close();
  return found;
}

function inner(lines, into) {
  if (lines.length === 1) return inline(lines[0], into);
  into.append(render(lines.join("\n")));
  return into;
}

const STARTS = /^(```|#{1,6}\s|>|\s*[-*+]\s|\s*\d+[.)]\s|\||(-{3,}|\*{3,})\s*$)/;

export function render(text) {
  const page = document.createDocumentFragment();
  const lines = text.split("\n");
  const take = (keep) => {
    const found = [];
    while (lines.length && keep(lines[0])) found.push(lines.shift());
    return found;
  };
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) lines.shift();
    else if (line.startsWith("```")) {
      lines.shift();
      page.append(fence(take((next) => !next.startsWith("```"))));
      lines.shift();
    } else if (/^#{1,6}\s/.test(line)) {
      const [, marks, title] = /^(#+)\s+(.*)/.exec(lines.shift()) || [, "#", ""];
      page.append(inline(title, element(`h${Math.min(4, marks.length)}`)));
    } else if (/^(-{3,}|\*{3,})\s*$/.test(line)) {
      lines.shift();
      page.append(element("hr"));
    } else if (line.startsWith(">")) {
      const quoted = take((next) => next.startsWith(">")).map((next) => next.replace(/^> ?/, ""));
      page.append(element("blockquote", render(quoted.join("\n"))));
    } else if (line.startsWith("|") && /^\|?[\s:|-]+\|[\s:|-]*$/.test(lines[1] || "")) {
      page.append(table(take((next) => next.startsWith("|"))));
    } else if (/^\s*([-*+]|\d+[.)])\s/.test(line)) {
      const ordered = /^\s*\d/.test(line);
      const mark = ordered ? /^\s*\d+[.)]\s/ : /^\s*[-*+]\s/;
      page.append(list(take((next) => mark.test(next) || /^\s{2,}\S/.test(next)), ordered));
    } else {
      const first = lines.shift();
      const more = take((next) => next.trim() && !STARTS.test(next));
      page.append(inline([first, ...more].join("\n"), paragraph()));
    }
  }
  return page;
}

function paragraph() {
  const node = element("p");
  node.dir = "auto";
  return node;
}
