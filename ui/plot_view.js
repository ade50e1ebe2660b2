// Draws props.value, a Plotly figure or {words} where there is none yet, and fires cell_select({cell, row, column}) for a click or Enter on a heatmap cell.
// Where props.lines says so, the label of a row, a column or a panel fires line_select({line, cell, column, panel}).
// What is drawn can be read as a table, too, which is made when it is opened.
const box = element.querySelector('.pv-box');
const numbers = element.querySelector('.pv-numbers');
const live = element.querySelector('.pv-live');
const cursor = Object.assign(document.createElement('div'), {className: 'pv-cursor'});
const empty = element.querySelector('.pv-empty');
const nothing = empty.textContent;
let wired = false;

// The page is seen when its last parts are there, and what comes then does not move it.
const whole = (tries) => {
  if (document.querySelector('#run') && document.querySelector('#weights .pv-box')) document.body.classList.add('mounted');
  else if (tries) setTimeout(whole, 50, tries - 1);
};
if (!document.body.classList.contains('mounted')) whole(400);
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

// The figure that is shown; it arrives as text, since the page copies whatever else it is given at every event.
let figure = null;

// Some plots bring another layout for where there is little room.
let told = {}, narrow = false, laid = null; // and which of both is drawn
const isNarrow = () => element.clientWidth < ((((told.layout || {}).meta || {}).narrow || {}).below || 0);

async function draw() {
  told = props.value ? JSON.parse(props.value) : {};
  narrow = isNarrow();
  if (narrow) Object.assign(told.layout, told.layout.meta.narrow.layout);
  figure = told.data ? told : null;
  empty.textContent = told.words || nothing;
  const shown = Boolean(figure);
  if (at && !exists(at)) at = null;
  empty.style.display = shown ? 'none' : '';
  numbers.style.display = shown ? '' : 'none';
  if (numbers.open) tabulate();
  box.style.display = shown ? '' : 'none';
  if (!shown) return;
  const Plotly = await window.mergescopePlotly;
  const fig = structuredClone(figure);
  cursor.remove();
  box.style.height = (fig.layout.height || 360) + 'px';
  // Where there are no cells to walk to, the numbers in the table are what the keyboard and readers of screens get.
  const cells = heatmaps().length > 0;
  box.setAttribute('role', cells ? 'application' : 'img');
  box.tabIndex = cells ? 0 : -1;
  box.classList.toggle('pv-lines', Boolean(props.lines));
  // What drags an axis would lie above its labels.
  const how = {responsive: true, displayModeBar: false, showAxisDragHandles: !props.lines};
  const anew = laid !== narrow;
  if (anew && laid !== null) Plotly.purge(box); // it would keep the room that the other layout's colour bar took
  laid = narrow;
  await Plotly.react(box, fig.data, dress(fig.layout), how);
  if (anew) listen(Plotly);
  if (wired) return;
  wired = true;
  new MutationObserver(() => figure && draw()).observe(document.body, {attributes: true, attributeFilter: ['class']});
  new ResizeObserver(() => box.offsetWidth && figure && (narrow === isNarrow() ? Plotly.Plots.resize(box) : draw())).observe(box);
}

function listen(Plotly) {
  // Between layers there is nothing to tell.
  box.on('plotly_hover', (event) => { if (event.points[0].customdata === null) Plotly.Fx.unhover(box); });
  box.on('plotly_click', ({points: [point]}) => choose(point.customdata, point.data, point.pointIndex));
}

const heatmaps = () => ((figure && figure.data) || []).map((trace, index) => ({trace, index}))
  .filter(({trace}) => trace.type === 'heatmap' && trace.z && trace.z.length);
const choose = (cell, trace, index) => {
  if (!cell || !trace || !Array.isArray(index)) return;
  trigger('cell_select', {cell, row: index[0], column: index[1], panel: trace.name || ''});
};

// A line of cells; any tensor in it stands for it.
function chooseLine(line, trace, {row, col}) {
  const cells = trace.customdata || [], inside = line === 'row' ? cells[row] : cells.map((names) => names[col]);
  const cell = (inside || []).find(Boolean);
  if (!cell) return;
  live.textContent = `The ${line} is picked.`;
  trigger('line_select', {line, cell, column: col, panel: trace.name || ''});
}

// The line whose label this is: a tick's, or a panel's title.
function labelled(target) {
  const maps = heatmaps().map(({trace}) => trace), title = target.closest('.annotation');
  if (title) {
    const panels = [...new Set(maps.map(({name}) => name))], name = panels[Number(title.dataset.index)];
    return name && {line: 'panel', trace: maps.find((trace) => trace.name === name), row: 0, col: 0};
  }
  const tick = target.closest('.cartesianlayer [class$="tick"]');
  if (!tick) return null;
  const [, way, number] = tick.getAttribute('class').match(/^([xy])(\d*)tick$/) || [];
  const trace = way && maps.find((each) => (each[way + 'axis'] || way) === way + number);
  if (!trace) return null;
  const at = trace[way].indexOf(box._fullLayout[way + 'axis' + number]._categories[tick.__data__.x]);
  return way === 'y' ? {line: 'row', trace, row: at, col: 0} : {line: 'column', trace, row: 0, col: at};
}

if (props.lines) box.addEventListener('click', (event) => {
  const found = labelled(event.target);
  if (found) chooseLine(found.line, found.trace, found);
});

const exists = ({map, row, col}) => {
  const trace = (heatmaps()[map] || {}).trace;
  return Boolean(trace) && row < trace.y.length && col < trace.x.length;
};

// The cell that the keyboard is at has a frame.
function frame(trace, {row, col}) {
  const span = (name, place) => {
    const axis = box._fullLayout[name[0] + 'axis' + name.slice(1)], middle = axis.d2c(place);
    const [start, end] = [middle - 0.5, middle + 0.5].map((edge) => axis._offset + axis.c2p(edge)).sort((a, b) => a - b);
    return [start + 'px', end - start + 'px'];
  };
  const [left, width] = span(trace.xaxis || 'x', trace.x[col]), [top, height] = span(trace.yaxis || 'y', trace.y[row]);
  Object.assign(cursor.style, {left, width, top, height});
  box.append(cursor);
}

const cellOf = (trace, {row, col}) => ((trace.customdata || [])[row] || [])[col];

async function focusCell(maps, where) {
  at = where;
  const {trace, index} = maps[at.map];
  // Where rows are not labelled for people, their tensor's name is.
  const row = trace.name || !trace.customdata ? trace.y[at.row] : cellOf(trace, at) || 'between layers';
  const text = [trace.name || trace.meta, plain(row), plain(trace.x[at.col])].filter(Boolean).join(', ');
  live.textContent = text + ': ' + (trace.text[at.row][at.col] || 'nothing');
  frame(trace, at);
  const Plotly = await window.mergescopePlotly;
  Plotly.Fx.hover(box, [{curveNumber: index, pointNumber: [at.row, at.col]}],
                  (trace.xaxis || 'x') + (trace.yaxis || 'y'));
}

const STEPS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0],
               PageDown: [10, 0], Home: [0, -Infinity], End: [0, Infinity]};
const within = (place, length) => Math.max(0, Math.min(length - 1, place));

// From one cell to the next; an arrow goes over a panel's edge to the panel beside it, all else stays in the panel.
function moved(maps, key) {
  if (!(key in STEPS)) return null;
  if (!at || at.map >= maps.length) return {map: 0, row: 0, col: 0};
  const [down, right] = STEPS[key], {trace} = maps[at.map];
  const row = within(at.row + down, trace.y.length), col = within(at.col + right, trace.x.length);
  if (row !== at.row || col !== at.col || !key.startsWith('Arrow')) return {map: at.map, row, col};
  const map = beside(maps, down, right);
  if (map === undefined) return at;
  const {x, y} = maps[map].trace;
  return {map, row: down ? (down > 0 ? 0 : y.length - 1) : within(row, y.length),
          col: right ? (right > 0 ? 0 : x.length - 1) : within(col, x.length)};
}

// Where a panel begins in the plot: how far to the right, and how far down.
function corner({trace}) {
  const start = (name) => ((figure.layout[name[0] + 'axis' + name.slice(1)] || {}).domain || [0, 1])[0];
  return {right: start(trace.xaxis || 'x'), down: -start(trace.yaxis || 'y')};
}

// The nearest panel that way, in the same row of panels, or in the same column.
function beside(maps, down, right) {
  const [along, across] = down ? ['down', 'right'] : ['right', 'down'], way = down + right;
  const places = maps.map(corner), mine = places[at.map];
  const ahead = (place) => (place[along] - mine[along]) * way;
  return [...maps.keys()].filter((map) => Math.abs(places[map][across] - mine[across]) < 1e-6 && ahead(places[map]) > 1e-6)
    .sort((one, other) => ahead(places[one]) - ahead(places[other]))[0];
}

box.addEventListener('blur', () => cursor.remove());
box.addEventListener('keydown', (event) => {
  const maps = heatmaps();
  if (!maps.length) return;
  const where = moved(maps, event.key);
  if (where) focusCell(maps, where);
  else if ((event.key === 'Enter' || event.key === ' ') && at) {
    const {trace} = maps[at.map];
    const line = props.lines && (event.shiftKey ? 'row' : (event.ctrlKey || event.metaKey) && 'column');
    if (line) chooseLine(line, trace, at);
    else choose(cellOf(trace, at), trace, [at.row, at.col]);
  }
  else return;
  event.preventDefault();
});

const MOST = 1000; // rows of a table on the page; the file has them all

// The rows of a table for each trace of cells, and one for all traces of points in a plot together.
function tables() {
  const data = (figure && figure.data) || [];
  const cells = data.filter((trace) => trace.type === 'heatmap' && trace.z && trace.z.length);
  const points = data.filter((trace) => trace.type !== 'heatmap' && trace.y && trace.y.length);
  const plots = [...new Set(points.map((trace) => trace.yaxis || 'y'))];
  const titles = plots.length > 1 ? figure.layout.annotations || [] : []; // each of several plots has one
  return [...cells.map(tableOfCells), ...plots.map((plot, index) => ({
    title: (titles[index] || {}).text || '',
    ...tableOfPoints(points.filter((trace) => (trace.yaxis || 'y') === plot), plot.slice(1)),
  }))];
}

function tableOfCells(trace) {
  const named = (row) => (trace.name || !trace.customdata ? trace.y[row] || 'outside the layers' : trace.customdata[row].find(Boolean));
  const rows = trace.z.map((cells, row) => [named(row), ...cells.map((cell, col) =>
    cell === null || cell === undefined ? ((trace.text || [])[row] || [])[col] || '' : cell)]);
  return {title: trace.name || trace.meta || '', head: ['', ...trace.x], rows: rows.filter(([name]) => name)};
}

// `number` is what the names of the plot's axes end in.
function tableOfPoints(traces, number) {
  const axis = (which) => ((figure.layout[which + number] || {}).title || {}).text || '';
  const [across, up] = [axis('xaxis'), axis('yaxis') || 'value'];
  if (traces.every((trace) => trace.mode === 'markers')) {
    const rows = traces.flatMap((trace) => Array.from(trace.x).map((x, i) => [trace.name || '', x, trace.y[i]]));
    return {head: ['', across, up], rows};
  }
  const places = [...new Set(traces.flatMap((trace) => Array.from(trace.x)))];
  const values = traces.map((trace) => new Map(Array.from(trace.x).map((x, i) => [x, trace.y[i]])));
  const rows = places.map((x) => [x, ...values.map((known) => (known.has(x) ? known.get(x) ?? '' : ''))]);
  return {head: [across, ...traces.map((trace) => trace.name || up)], rows};
}

const plain = (value) => String(typeof value === 'number' ? Number(value.toPrecision(5)) : value ?? '')
  .replace(/<[^>]*>/g, '').replace(/&lt;/g, '<').replace(/&gt;/g, '>').replace(/&amp;/g, '&');

function tabulate() {
  const inside = numbers.querySelector('div'), made = tables();
  inside.replaceChildren(...made.map(({title, head, rows}) => {
    const table = document.createElement('table');
    const cut = rows.length > MOST ? `the first ${MOST} of ${rows.length} rows; the CSV has them all` : '';
    const caption = [plain(title), cut].filter(Boolean).join(': ');
    if (caption) table.createCaption().textContent = caption;
    for (const [cells, section] of [[[head], table.createTHead()], [rows.slice(0, MOST), table.createTBody()]]) {
      for (const row of cells) {
        const line = section.insertRow();
        row.forEach((value, index) => {
          const cell = document.createElement(section.tagName === 'THEAD' || !index ? 'th' : 'td');
          cell.scope = section.tagName === 'THEAD' ? 'col' : index ? '' : 'row';
          cell.textContent = plain(value);
          line.append(cell);
        });
      }
    }
    return table;
  }));
  const quoted = (value) => `"${plain(value).replace(/^(?=[=+@\t\r])/, "'").replaceAll('"', '""')}"`;
  const text = made.flatMap(({title, head, rows}) =>
    [head, ...rows].map((row) => [...(title ? [title] : []), ...row].map(quoted).join(','))).join('\r\n');
  const link = numbers.querySelector('a');
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
}

numbers.addEventListener('toggle', () => { if (numbers.open) tabulate(); });
watch('value', draw);
draw();
