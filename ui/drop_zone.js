// Takes a recipe that is dropped or chosen: a YAML or JSON file, a merged model's folder, or its weights, of which only
// the header is read. Fires dropped({name, text}); nothing is uploaded but that text.
const zone = element.querySelector('.drop-zone');
const input = element.querySelector('input');
const LIMIT = 4 << 20; // bytes of text; what is longer is no recipe
const INSIDE = ['mergescope.yaml', 'mergekit_config.yml'];

async function textOf(file) {
  if (file.name.endsWith('.safetensors')) {
    const size = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
    if (size > 100 << 20) return '';
    const told = JSON.parse(await file.slice(8, 8 + size).text()).__metadata__ || {};
    return told.recipe || '';
  }
  return file.size > LIMIT ? '' : file.text();
}

const entries = (folder) => new Promise((done) => {
  const reader = folder.createReader(), found = [];
  const more = () => reader.readEntries((some) => {
    if (!some.length || found.length > 10000) done(found);
    else { found.push(...some); more(); }
  }, () => done(found));
  more();
});
const fileOf = (entry) => new Promise((done) => entry.file(done, () => done(null)));

async function inFolder(folder) {
  const files = (await entries(folder)).filter((entry) => entry.isFile);
  const named = INSIDE.map((name) => files.find((entry) => entry.name === name)).find(Boolean);
  const weights = files.find((entry) => entry.name.endsWith('.safetensors'));
  return named || weights ? fileOf(named || weights) : null;
}

async function take(file, name) {
  let text = '';
  try { text = file ? await textOf(file) : ''; } catch (error) { text = ''; }
  trigger('dropped', {name: String(name).slice(0, 300), text: text.slice(0, LIMIT)});
}

// A file that misses the zone would take the place of the page in the browser; text may go where it is wanted.
for (const kind of ['dragover', 'drop']) document.addEventListener(kind, (event) => {
  if (event.defaultPrevented || !event.dataTransfer || ![...event.dataTransfer.types].includes('Files')) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = 'none';
});
zone.addEventListener('dragover', (event) => { event.preventDefault(); zone.classList.add('over'); });
zone.addEventListener('dragleave', () => zone.classList.remove('over'));
zone.addEventListener('drop', async (event) => {
  event.preventDefault();
  zone.classList.remove('over');
  const item = event.dataTransfer.items[0], entry = item && item.webkitGetAsEntry && item.webkitGetAsEntry();
  const file = event.dataTransfer.files[0];
  if (entry && entry.isDirectory) await take(await inFolder(entry), entry.name);
  else if (file) await take(file, file.name);
});
input.addEventListener('change', async () => {
  if (input.files[0]) await take(input.files[0], input.files[0].name);
  input.value = '';
});
