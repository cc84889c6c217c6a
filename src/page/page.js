// What a page does beyond what it says: values under the pointer, tables sorted by a column.
document.querySelectorAll("svg[data-x]").forEach(svg => {
  const [left, right, x0, x1] = svg.dataset.x.split(" ").map(Number);
  const [bottom, top, y0, y1, log] = svg.dataset.y.split(" ").map(Number);
  const lines = [...svg.querySelectorAll("[data-name]")].map(group => ({
    at: group.dataset.name, points: [...group.querySelectorAll("polyline")].flatMap(line => [...line.points]) }));
  const items = [...svg.parentNode.querySelectorAll(".legend span")], names = items.map(item => item.textContent);
  const cursor = svg.querySelector(".cursor");
  const show = value => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: false });
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = points => points.reduce((a, b) => Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a);
    lines.forEach(({ at, points }) => {
      if (!points.length) return;
      const point = near(points), y = y0 + (bottom - point.y) / (bottom - top) * (y1 - y0);
      const where = x0 + (point.x - left) / (right - left) * (x1 - x0);
      items[at].textContent = `${names[at]} ${show(log ? 10 ** y : y)} at ${show(where)}`;
      cursor.setAttribute("d", `M${point.x} ${top}V${bottom}`);
    });
  });
  svg.addEventListener("pointerleave", () => {
    items.forEach((item, i) => item.textContent = names[i]);
    cursor.removeAttribute("d");
  });
});
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.title = "Sort by this column";
    button.onclick = () => {
      const text = head.classList.contains("text");
      const up = head.ariaSort ? head.ariaSort === "descending" : text;
      const value = row => text ? row.cells[column].textContent : Number(row.cells[column].textContent);
      const order = (a, b) => text ? value(a).localeCompare(value(b)) : value(a) - value(b);
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
    };
  });
});
