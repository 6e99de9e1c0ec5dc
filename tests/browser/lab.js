// Helpers inside the JupyterLab page: the notebook's state, its labs, and a clock from key press to new picture.
window.course = (() => {
  const panel = () => window.jupyterapp.shell.currentWidget;
  const kernel = () => panel().sessionContext.session.kernel;
  const code = () => panel().content.widgets.filter(cell => cell.model.type === 'code');
  const errors = [];
  panel().sessionContext.iopubMessage.connect((_, message) => {
    if (message.header.msg_type === 'error') errors.push(message.content.ename + ': ' + message.content.evalue);
  });

  // A lab is the outermost box with sliders in it that also shows a picture.
  const labs = () => [...panel().node.querySelectorAll('.jp-OutputArea-output .widget-vbox')]
    .filter(box => box.querySelector('.widget-slider') && box.querySelector('img'));
  const name = control => (control.querySelector('.widget-label')?.textContent || '').trim();
  const slider = (lab, text) => [...labs()[lab].querySelectorAll('.widget-slider')].find(each => name(each) === text);
  const box = (lab, text) =>
    [...labs()[lab].querySelectorAll('.widget-text')].find(each => name(each) === text).querySelector('input');
  const controls = lab => [...labs()[lab].querySelectorAll('.widget-slider, .widget-dropdown, .widget-text')]
    .map(control => {
      const field = control.querySelector('input, select');
      return {
        kind: control.classList.contains('widget-slider') ? 'slider' : field.tagName.toLowerCase(),
        name: name(control),
        labelled: !field || (field.labels && [...field.labels].some(label => label.textContent.trim())),
        value: field ? field.value : control.querySelector('[role=slider]').getAttribute('aria-valuetext'),  // valuenow is rounded
      };
    });

  // Starts at the next key or mouse press; ends with the first frame that has another picture, loaded.
  function watch(lab) {
    const picture = () => labs()[lab].querySelector('img');
    const before = picture().src;
    const seen = {start: null, latency: null};
    const begin = event => { seen.start ??= event.timeStamp; };
    for (const type of ['keydown', 'pointerdown']) document.addEventListener(type, begin, {capture: true, once: true});
    const look = () => {
      const now = picture();
      if (seen.start !== null && now.src !== before && now.complete && now.naturalWidth) {
        seen.latency = performance.now() - seen.start;
      } else {
        requestAnimationFrame(look);
      }
    };
    requestAnimationFrame(look);
    return seen;
  }

  async function execute(source) {
    let text = '';
    const future = kernel().requestExecute({code: source, store_history: false});
    future.onIOPub = message => { if (message.header.msg_type === 'stream') text += message.content.text; };
    const reply = await future.done;
    if (reply.content.status !== 'ok') throw new Error(reply.content.evalue);
    return text;
  }

  // For tests that type: the cell with this text, its editor with a piece of it selected, and what the cell printed.
  const cellWith = text => panel().content.widgets.findIndex(cell => cell.model.sharedModel.getSource().includes(text));
  function select(index, text) {
    const notebook = panel().content, cell = notebook.widgets[index];
    const before = cell.model.sharedModel.getSource().split(text)[0].split('\n');
    const start = {line: before.length - 1, column: before[before.length - 1].length};
    notebook.activeCellIndex = index;
    notebook.mode = 'edit';
    cell.editor.focus();
    cell.editor.setSelection({start, end: {line: start.line, column: start.column + text.length}});
  }
  const count = index => panel().content.widgets[index].model.executionCount;
  const printed = index => panel().content.widgets[index].model.toJSON().outputs.map(o => o.text || '').join('');

  return {
    cellWith, select, count, printed, labs, slider, box, controls, execute, errors,
    arm: lab => { window.course.seen = watch(lab); },
    idle: () => kernel().status === 'idle',
    runAll: () => {
      window.course.finished = null;
      window.jupyterapp.commands.execute('notebook:run-all-cells')
        .then(() => { window.course.finished = true; }, error => { window.course.finished = String(error); });
    },
    cells: () => code().map(cell => {
      const json = cell.model.toJSON();
      return {count: json.execution_count, errors: json.outputs.filter(o => o.output_type === 'error').map(o => o.evalue)};
    }),
    withoutAlt: () => [...panel().node.querySelectorAll('.jp-OutputArea img')].filter(image => !image.alt.trim()).length,
    pictures: () => panel().node.querySelectorAll('.jp-OutputArea img').length,
  };
})();
