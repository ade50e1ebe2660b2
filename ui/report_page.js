// Draws the figures of a report, each into the box of its number, and again at the width of the paper for a print.
const figures = JSON.parse(document.getElementById('figures').textContent);
const boxes = figures.map((_, number) => document.getElementById('plot-' + number));
const style = getComputedStyle(document.documentElement);
const PAPER = 680; // pixels that fit upright A4 and Letter

let width = 0; // of the paper while it is printed, else 0: as wide as the page

function draw() {
  figures.forEach((figure, number) => {
    const color = (name) => style.getPropertyValue(name).trim();
    const layout = Object.assign({}, figure.layout, {
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', autosize: !width,
      font: Object.assign({}, figure.layout.font, {color: color('--ink'), family: 'ui-sans-serif, system-ui, sans-serif'}),
      hoverlabel: {bgcolor: color('--paper'), bordercolor: color('--line'), font: {color: color('--ink')}, align: 'left'},
    });
    if (width) layout.width = width; else delete layout.width;
    Plotly.react(boxes[number], figure.data, layout, {responsive: true, displayModeBar: false});
  });
}

draw();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
addEventListener('beforeprint', () => { width = PAPER; draw(); });
addEventListener('afterprint', () => { width = 0; draw(); });
