const specs = JSON.parse(document.getElementById("charts").textContent);

// A chart is drawn when it comes near the screen, so that a page of many opens at once.
async function draw(place) {
  const options = { actions: false, renderer: "svg", tooltip: { theme: "custom" } };
  try {
    await window.vegaEmbed(place, specs[place.id], options);
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = `This chart can't be drawn: ${error.message}`;
    place.classList.add("trouble");
    console.error(place.id, error);
  }
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });
for (const place of document.querySelectorAll(".chart")) near.observe(place);

// Numbers before words, and what is missing last, whichever way the column is sorted.
function compare(first, second, sign) {
  if (first === undefined || second === undefined) {
    return (first === undefined) - (second === undefined);
  }
  const [a, b] = [Number(first), Number(second)];
  const both = !Number.isNaN(a) && !Number.isNaN(b);
  return sign * (both ? a - b : first.localeCompare(second, "en", { numeric: true }));
}

function orderOf(row, index) {
  const { order } = row.cells[index].dataset;
  if (order === undefined || order === "") return undefined;
  return order === "inf" ? "Infinity" : order;
}

function sort(heading) {
  const table = heading.closest("table");
  const index = heading.cellIndex;
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const each of heading.parentElement.cells) each.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const sign = descending ? -1 : 1;
  const rows = [...body.rows];
  rows.sort((a, b) => compare(orderOf(a, index), orderOf(b, index), sign));
  body.append(...rows);
}

for (const heading of document.querySelectorAll("table.sortable th")) {
  heading.querySelector("button").addEventListener("click", () => sort(heading));
}

for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
  const count = document.querySelector(`[data-counts="${field.dataset.filters}"]`);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} rows`;
  });
}

// One line through all pairs of a comparison: by the slider, or by moving over a picture.
for (const comparison of document.querySelectorAll(".comparison")) {
  const slider = comparison.querySelector("input[type=range]");
  const pairs = comparison.querySelector(".pairs");
  if (!slider) continue;
  const show = () => pairs.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", show);
  for (const pair of comparison.querySelectorAll(".pair")) {
    pair.addEventListener("pointermove", (event) => {
      const box = pair.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      slider.value = Math.round(100 * Math.min(1, Math.max(0, share)));
      show();
    });
  }
}
