// Shows the values of the curves at the pointer. The page is complete without scripts.
for (const figure of document.querySelectorAll("figure.plot")) {
  const curves = JSON.parse(figure.querySelector("script").textContent);
  const output = figure.querySelector("output");
  const nearest = (points, distance) =>
    points.reduce((best, point) => (distance(point[0]) < distance(best[0]) ? point : best));
  for (const svg of figure.querySelectorAll("svg")) {
    const [left, right, top, base, low, high, log] = svg.dataset.scale.split(" ").map(Number);
    const unit = svg.dataset.x.replace(" (log scale)", "");
    const rule = svg.appendChild(document.createElementNS(svg.namespaceURI, "path"));
    rule.setAttribute("class", "rule");
    const position = (step) => (log ? Math.log(step / low) / Math.log(high / low) : (step - low) / (high - low));
    svg.addEventListener("pointermove", (event) => {
      const frame = svg.getBoundingClientRect();
      const x = ((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width;
      const pointer = Math.min(1, Math.max(0, (x - left) / (right - left)));
      const distance = (step) => Math.abs(position(step) - pointer);
      const values = curves.filter((curve) => curve.points.length).map((curve) => [curve.name, ...nearest(curve.points, distance)]);
      if (!values.length) return;
      const step = values[0][1];
      output.textContent = [`${unit} ${step.toLocaleString("en")}`.trim(), ...values.map(([name, s, value]) =>
        `${name} ${value}${s === step ? "" : ` (${unit} ${s.toLocaleString("en")})`}`.trim())].join(" · ");
      const px = left + Math.min(1, Math.max(0, position(step))) * (right - left);
      rule.setAttribute("d", `M${px} ${top}V${base}`);
    });
    svg.addEventListener("pointerleave", () => {
      output.textContent = "";
      rule.removeAttribute("d");
    });
  }
}
// Open folded details for printing, and fold them again afterwards.
const folded = () => document.querySelectorAll("details:not([open]):not(.defaults)");
let opened = [];
addEventListener("beforeprint", () => (opened = [...folded()]).forEach((part) => (part.open = true)));
addEventListener("afterprint", () => opened.forEach((part) => (part.open = false)));
