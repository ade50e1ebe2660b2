// Draws props.value, a Plotly figure, and fires cell_select({cell}) for a click or Enter on a heatmap cell.
const box = element.querySelector('.pv-box');
const live = element.querySelector('.pv-live');
const empty = element.querySelector('.pv-empty');
let wired = false;
let at = null; // the cell that the arrow keys are on: {trace, row, col}

// Gradio's own plots bring another plotly.js into window.Plotly, so ours is kept under another name.
if (!window.mergescopePlotly) window.mergescopePlotly = new Promise((done, fail) => {
  const before = window.Plotly, tag = document.createElement('script');
  tag.src = props.plotly_src;
  tag.onload = () => { const ours = window.Plotly; if (before) window.Plotly = before; done(ours); };
  tag.onerror = fail;
  document.head.appendChild(tag);
});

const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const dress = (layout) => Object.assign(layout, {
  paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', autosize: true,
  font: Object.assign({}, layout.font, {color: css('--body-text-color'), family: css('--font')}),
  hoverlabel: {bgcolor: css('--background-fill-primary'), bordercolor: css('--border-color-primary'),
               font: {color: css('--body-text-color'), family: css('--font')}, align: 'left'},
});

async function draw() {
  const value = props.value, shown = Boolean(value && value.data);
  empty.style.display = shown ? 'none' : '';
  box.style.display = shown ? '' : 'none';
  if (!shown) return;
  const Plotly = await window.mergescopePlotly;
  const fig = JSON.parse(JSON.stringify(value));
  box.style.height = (fig.layout.height || 360) + 'px';
  await Plotly.react(box, fig.data, dress(fig.layout), {responsive: true, displayModeBar: false});
  if (wired) return;
  wired = true;
  // Between layers there is nothing to tell.
  box.on('plotly_hover', (event) => { if (event.points[0].customdata === null) Plotly.Fx.unhover(box); });
  box.on('plotly_click', (event) => choose(event.points[0].customdata));
  new MutationObserver(() => props.value && draw()).observe(document.body, {attributes: true, attributeFilter: ['class']});
  new ResizeObserver(() => box.offsetWidth && props.value && Plotly.Plots.resize(box)).observe(box);
}

const heatmaps = () => ((props.value && props.value.data) || []).map((trace, index) => ({trace, index}))
  .filter(({trace}) => trace.type === 'heatmap' && trace.z && trace.z.length);
const choose = (cell) => { if (cell) trigger('cell_select', {cell}); };

async function focusCell(maps, where) {
  at = where;
  const {trace, index} = maps[at.map];
  // Where rows are not labelled for people, their tensor's name is.
  const row = trace.name ? trace.y[at.row] : trace.customdata[at.row][at.col] || 'between layers';
  const text = [trace.name, row, trace.x[at.col]].filter(Boolean).join(', ');
  live.textContent = text + ': ' + (trace.text[at.row][at.col] || 'nothing');
  const Plotly = await window.mergescopePlotly;
  Plotly.Fx.hover(box, [{curveNumber: index, pointNumber: [at.row, at.col]}],
                  (trace.xaxis || 'x') + (trace.yaxis || 'y'));
}

// From one cell to the next; over a panel's edge to the panel beside it.
function moved(maps, key) {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[key];
  if (!step) return null;
  if (!at || at.map >= maps.length) return {map: 0, row: 0, col: 0};
  const {trace} = maps[at.map];
  let {map, row, col} = at;
  row += step[0];
  col += step[1];
  if (row >= 0 && row < trace.y.length && col >= 0 && col < trace.x.length) return {map, row, col};
  map += step[0] + step[1];
  if (map < 0 || map >= maps.length) return at;
  const next = maps[map].trace;
  return {map, row: step[0] < 0 ? next.y.length - 1 : 0, col: step[1] < 0 ? next.x.length - 1 : 0};
}

box.addEventListener('keydown', (event) => {
  const maps = heatmaps();
  if (!maps.length) return;
  const where = moved(maps, event.key);
  if (where) focusCell(maps, where);
  else if ((event.key === 'Enter' || event.key === ' ') && at) choose(maps[at.map].trace.customdata[at.row][at.col]);
  else return;
  event.preventDefault();
});

watch('value', draw);
draw();
