// Label each cell with the heading of its column, for wide tables that site.css stacks on a narrow screen.
for (const table of document.querySelectorAll(".bd-article table:has(thead th:nth-child(4))")) {
  const labels = Array.from(table.tHead.rows[0].cells, function (cell) { return cell.textContent.trim(); });
  for (const row of table.tBodies[0].rows) {
    for (const cell of row.cells) {
      if (cell.textContent.trim()) cell.dataset.label = labels[cell.cellIndex];
    }
  }
}
