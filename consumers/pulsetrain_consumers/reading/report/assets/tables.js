// The table of runs (sortable, best values marked), the comparison of configs and summaries, and the runs' details.
"use strict";
const Tables = (() => {
  const { element, number, integer, duration, moment, value } = Format;
  const collator = new Intl.Collator("en", { numeric: true });
  const LOWER = /(^|[^a-z])(loss|losses|nll|bpb|error|err|wer|cer|perplexity|ppl|mae|mse|rmse|fid|kl|time|latency|seconds|duration)([^a-z]|$)/i;
  const HIGHER = /(^|[^a-z])(acc|accuracy|auc|auroc|ap|map|f1|bleu|rouge|recall|precision|score|reward|return|iou|dice|r2|psnr|ssim|throughput|top1|top5|win_rate|examples_per_second|tokens_per_second)([^a-z]|$)/i;

  const HELD_OUT = /(^|[^a-z])(val|valid|validation|eval|test|dev)([^a-z]|$)/i;
  const SPEED = /(^|[^a-z])(time|latency|seconds|duration|per_second)([^a-z]|$)/i;

  /** Which of the values is best, by what the metric's name says: 1 higher, -1 lower, 0 it does not say. */
  const direction = (name) => (LOWER.test(name) ? -1 : HIGHER.test(name) ? 1 : 0);

  const plain = (written) => (written !== null && typeof written === "object" ? ("number" in written ? Number(written.number) : written.json) : written);

  function compare(a, b) {
    const [missingA, missingB] = [a, b].map((x) => x === undefined || x === null || Number.isNaN(x));
    if (missingA || missingB) return missingA - missingB;
    return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
  }

  function stateBadge(run) {
    return element("span", { class: "state", "data-state": run.state, title: run.exit_code === null ? null : `exit code ${run.exit_code}` }, run.state);
  }

  function swatch(run) {
    return element("button", {
      type: "button",
      class: "swatch",
      colour: State.colour(run.index),
      title: "Show or hide this run; twice: only this run",
      "aria-label": `Show or hide ${run.name}`,
      "aria-pressed": String(State.visible(run.index)),
      "data-run": run.index,
      on: { click: () => State.toggle(run.index), dblclick: () => State.only(run.index) },
    });
  }

  /** The rows of config or summary that are worth a column or a line: [[key, values by run]]. */
  function byKey(section) {
    const keys = new Map();
    Data.runs.forEach((run) => run[section].forEach(([key, written]) => {
      if (!keys.has(key)) keys.set(key, new Array(Data.runs.length));
      keys.get(key)[run.index] = written;
    }));
    return [...keys].sort(([a], [b]) => collator.compare(a, b));
  }

  const differs = (values) => values.length > 0 && new Set(Array.from(values, (written) => (written === undefined ? "absent" : JSON.stringify(written)))).size > 1;

  function columns() {
    const config = byKey("config").filter(([, values]) => differs(values));
    const summary = byKey("summary").filter(([, values]) => Array.from(values).some((written) => Number.isFinite(plain(written))));
    // What runs are compared by first: held-out data before training, and what has a better and a worse before the rest.
    const weight = (key) => 2 * HELD_OUT.test(key) + Math.abs(direction(key)) - 2 * SPEED.test(key);
    summary.sort(([a], [b]) => weight(b) - weight(a) || collator.compare(a, b));
    const of = (kind, [key, values]) => ({ kind, key, title: key, get: (run) => plain(values[run.index]), show: (run) => value(values[run.index]), best: kind === "summary" ? direction(key) : 0 });
    return [
      { key: "state", title: "State", get: (run) => run.state, node: stateBadge },
      { key: "duration", title: "Duration", get: (run) => run.duration, show: (run) => duration(run.duration), numeric: true },
      { key: "step", title: "Last step", get: lastStep, show: (run) => (lastStep(run) === null ? "" : integer(lastStep(run))), numeric: true },
      ...config.slice(0, 6).map((entry) => of("config", entry)),
      ...summary.slice(0, 8).map((entry) => of("summary", entry)),
      { key: "points", title: "Logged = stored", get: (run) => (run.account ? -run.account.missing : null), node: account },
      { key: "created", title: "Created", get: (run) => run.created, show: (run) => moment(run.created) },
    ];
  }

  const steps = new Map();
  function lastStep(run) {
    if (!steps.size) Data.curves.forEach((curve) => steps.set(curve.run, Math.max(steps.has(curve.run) ? steps.get(curve.run) : -Infinity, curve.last[1])));
    return steps.has(run.index) ? steps.get(run.index) : null;
  }

  function account(run) {
    if (!run.account) return element("span", {}, "");
    const { missing, stored, produced } = run.account;
    return missing
      ? element("span", { class: "account lost", title: `${integer(produced)} logged, ${integer(stored)} stored` }, `${integer(missing)} missing`)
      : element("span", { class: "account", title: `${integer(produced)} logged, ${integer(stored)} stored` }, `✓ ${integer(stored)}`);
  }

  function bests(column) {
    if (!column.best || Data.runs.length < 2) return null;
    const numbers = Data.runs.map(column.get).filter((x) => typeof x === "number" && Number.isFinite(x));
    if (numbers.length < 2 || new Set(numbers).size < 2) return null;
    return column.best > 0 ? Math.max(...numbers) : Math.min(...numbers);
  }

  function runTable() {
    const shown = columns();
    const best = new Map(shown.map((column) => [column, bests(column)]));
    const body = element("tbody");
    const rows = new Map(Data.runs.map((run) => [run, row(run, shown, best)]));
    const name = { key: "name", title: "Run", get: (run) => run.name };
    let sorted = null;
    let ascending = true;

    function order(column) {
      ascending = sorted === column ? !ascending : !(column.best > 0);
      sorted = column;
      const missing = (run) => compare(column.get(run), null) === 0;
      const runs = [...Data.runs].sort((a, b) => (missing(a) || missing(b) ? missing(a) - missing(b) : (ascending ? 1 : -1) * compare(column.get(a), column.get(b))));
      body.replaceChildren(...runs.map((run) => rows.get(run)));
      heads.forEach((head, other) => (other === column ? head.setAttribute("aria-sort", ascending ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
    }

    const heads = new Map(
      [name, ...shown].map((column) => [
        column,
        element("th", { scope: "col", class: column.kind || null, title: column.kind ? `${column.kind}: ${column.key}` : null }, element("button", { type: "button", on: { click: () => order(column) } }, column.title)),
      ]),
    );
    body.append(...rows.values());
    return element("div", { class: "scroll" }, element("table", { class: "runs" }, element("thead", {}, element("tr", {}, ...heads.values())), body));
  }

  function row(run, shown, best) {
    const cells = shown.map((column) => {
      if (column.node) return element("td", {}, column.node(run));
      const raw = column.get(run);
      const isBest = best.get(column) !== null && raw === best.get(column);
      return element("td", { class: [typeof raw === "number" && column.key !== "created" ? "number" : "", isBest ? "best" : ""].join(" ").trim() || null, title: isBest ? "Best" : null }, column.show(run));
    });
    return element(
      "tr",
      { "data-run": run.index, on: { mouseenter: () => State.set({ focus: run.index }), mouseleave: () => State.set({ focus: null }) } },
      element("th", { scope: "row" }, element("span", { class: "who" }, swatch(run), element("a", { href: `#run-${run.index}`, title: `${run.project}/${run.id}` }, run.name))),
      ...cells,
    );
  }

  /** Keys down, runs across; by default only the keys in which the runs differ. */
  function comparison(section) {
    const entries = byKey(section);
    if (!entries.length) return null;
    const several = Data.runs.length > 1;
    const body = element("tbody");
    const head = element("tr", {}, element("th", { scope: "col" }, "Key"), ...Data.runs.map((run) => element("th", { scope: "col", "data-run": run.index }, element("span", { class: "who" }, several ? swatch(run) : null, run.name))));
    let all = !several;
    let text = "";

    function fill() {
      const wanted = entries.filter(([key, values]) => (all || differs(values)) && key.toLowerCase().includes(text));
      body.replaceChildren(
        ...wanted.map(([key, values]) => element("tr", { class: several && differs(values) ? "differs" : null }, element("th", { scope: "row" }, key), ...Data.runs.map((run) => cell(values[run.index], run)))),
      );
      if (!wanted.length) body.append(element("tr", {}, element("td", { class: "note", colspan: Data.runs.length + 1 }, text ? "No key has this in its name." : "All runs have the same values.")));
    }

    const filter = element("input", { type: "search", placeholder: "Find a key", "aria-label": `Find a key of the ${section}`, on: { input: () => ((text = filter.value.toLowerCase()), fill()) } });
    const toggle = element("input", { type: "checkbox", on: { change: () => ((all = toggle.checked), fill()) } });
    fill();
    return element(
      "div",
      {},
      element("div", { class: "bar" }, filter, several ? element("label", { class: "check" }, toggle, "also what all runs share") : null),
      element("div", { class: "scroll tall" }, element("table", { class: "compare" }, element("thead", {}, head), body)),
    );
  }

  function cell(written, run) {
    if (written === undefined) return element("td", { class: "absent", "data-run": run.index }, "–");
    const text = value(written);
    return element("td", { class: typeof written === "number" ? "number" : null, "data-run": run.index, title: text.length > 60 || typeof written === "number" ? String(plain(written)) : null }, text.length > 160 ? `${text.slice(0, 160)}…` : text);
  }

  function facts(run) {
    const known = [
      ["Project", run.project],
      ["Id", run.id],
      ["Group", run.group],
      ["Job type", run.job_type],
      ["Host", run.host],
      ["Program", run.program],
      ["Commit", run.git_commit.slice(0, 12)],
      ["Created", moment(run.created)],
      ["Duration", duration(run.duration)],
      ...Object.entries(run.lineage).map(([name, text]) => [name.charAt(0).toUpperCase() + name.slice(1), text]),
      ["Exit code", run.exit_code === null ? "" : String(run.exit_code)],
      ["Tags", run.tags.join(", ")],
      ["Notes", run.notes],
    ];
    return element("dl", {}, ...known.filter(([, text]) => text).map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
  }

  function console_(run) {
    if (!run.console.length) return element("p", { class: "note" }, "Nothing was printed.");
    const lines = run.console.map(([time, stream, , line]) => element("div", { class: stream === "stderr" ? "line stderr" : "line", title: `${moment(time)} ${stream}` }, String(line)));
    return element("div", { class: "console", tabindex: "0", role: "log", "aria-label": `Console of ${run.name}` }, ...lines);
  }

  /** A folded block for each run: what it is, and the tail of its console. */
  function details() {
    return Data.runs.map((run) => {
      const root = element(
        "details",
        { class: "run", id: `run-${run.index}`, open: Data.runs.length === 1 },
        element("summary", {}, element("span", { class: "who" }, swatch(run), element("b", {}, run.name)), stateBadge(run), account(run)),
        facts(run),
      );
      // The console is built when it is first looked at: a hundred runs have tens of thousands of lines.
      const fill = () => root.open && !root.dataset.filled && ((root.dataset.filled = "yes"), root.append(console_(run)));
      root.addEventListener("toggle", fill);
      fill();
      return root;
    });
  }

  State.listen((names) => {
    if (names.has("theme")) document.querySelectorAll(".swatch").forEach((one) => one.style.setProperty("--run", State.colour(Number(one.dataset.run))));
    if (names.has("hidden")) {
      document.querySelectorAll(".swatch").forEach((one) => one.setAttribute("aria-pressed", String(State.visible(Number(one.dataset.run)))));
      document.querySelectorAll("tr[data-run], th[data-run], td[data-run], #legend [data-run].entry").forEach((one) => one.classList.toggle("off", !State.visible(Number(one.dataset.run))));
    }
  });

  return { runTable, comparison, details, swatch, stateBadge, direction };
})();
