"use strict";
for (const button of document.querySelectorAll("[data-toggle]"))
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    for (const part of button.closest(".stream").querySelectorAll(`.chart [data-s="${button.dataset.toggle}"]`))
      part.style.display = shown ? "" : "none";
  });
for (const chart of document.querySelectorAll(".chart")) {
  const said = chart.closest("figure").querySelector(".value");
  if (said)
    chart.addEventListener("pointerover", (event) => {
      const title = event.target.querySelector && event.target.querySelector(":scope > title");
      said.textContent = title ? title.textContent : "";
    });
}
for (const button of document.querySelectorAll("[data-save]"))
  button.addEventListener("click", () => {
    const chart = button.closest("figure").querySelector(".chart");
    const copy = chart.cloneNode(true);
    const parts = [chart, ...chart.querySelectorAll("*")], copies = [copy, ...copy.querySelectorAll("*")];
    parts.forEach((part, k) => {
      const style = getComputedStyle(part);
      for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "display"])
        copies[k].style.setProperty(name, style.getPropertyValue(name));
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
    link.download = button.dataset.save.toLowerCase().replaceAll(" ", "-") + ".svg";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
addEventListener("beforeprint", () => {
  // Numbers behind a chart stay where the reader left them: the matrices have all of them.
  for (const part of document.querySelectorAll("details:not([open])"))
    if (!part.closest("figure")) part.open = part.dataset.printed = true;
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-printed]")) part.open = false, part.removeAttribute("data-printed");
});
