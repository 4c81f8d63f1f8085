"use strict";
// Draws the charts, each once it is on the screen; all else on the page needs no script.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Seconds between two marks of the time, as clocks have them.
  const MARKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200]
    .concat([1, 2, 7, 14, 30, 90, 365, 3650].map((days) => days * 86400));
  const drawn = new Map(); // element -> its chart

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const clock = (seconds) => {
    const whole = Math.floor(seconds);
    const two = (number) => String(number).padStart(2, "0");
    const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
    return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  };

  const short = (number) =>
    number.toLocaleString("en", Math.abs(number) < 1
      ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: number >= 100 ? 0 : 2 });

  // One value for each step from the beginning to the end, a second.
  const dense = (chart, name, count) => {
    const values = new Array(count).fill(0);
    (chart[name] || []).forEach((value, place) => {
      values[chart.steps[place]] = value / data.step;
    });
    return values;
  };

  const allowedAt = (chart, count) => {
    const values = new Array(count).fill(null);
    let place = -1;
    const changes = chart.allowed || [];
    for (let step = 0; step < count; step += 1) {
      while (place + 1 < changes.length && changes[place + 1][0] < (step + 1) * data.step) place += 1;
      if (place >= 0) values[step] = changes[place][1];
    }
    return values;
  };

  const columns = (element) => {
    const chart = data.charts[element.dataset.chart];
    const last = chart.steps.length ? chart.steps[chart.steps.length - 1] : 0;
    const count = Math.max(last + 1, Math.ceil(data.seconds / data.step));
    const seconds = Array.from({ length: count }, (_, step) => step * data.step);
    if ("waits" in element.dataset) {
      const values = new Array(count).fill(0);
      chart.steps.forEach((step, place) => {
        const calls = (chart.started || chart.used)[place];
        values[step] = calls > 0 ? chart.waited[place] / calls : 0;
      });
      return { seconds, found: [{ name: "mean wait", key: "used", values }], unit: " s" };
    }
    const found = [
      { name: chart.unit === "calls" ? "started" : "used", key: "used", values: dense(chart, "used", count) },
      { name: "limit", key: "allowed", values: allowedAt(chart, count) },
    ];
    for (const [name, key] of [["throttled", "throttled"], ["other errors", "errors"]]) {
      if (chart[key]) found.push({ name, key, values: dense(chart, key, count) });
    }
    const kept = found.filter((one) => one.values.some((value) => value !== null));
    return { seconds, found: kept, unit: " per second" };
  };

  const heightOf = (element) => (element.classList.contains("low") ? 128 : 178);

  const looks = {
    used: () => ({ stroke: colour("--used"), fill: colour("--fill"), width: 1.5 }),
    allowed: () => ({ stroke: colour("--allowed"), dash: [6, 4], width: 2 }),
    throttled: () => ({ stroke: colour("--bad"), fill: colour("--bad"), width: 1.5 }),
    errors: () => ({ stroke: colour("--errors"), fill: colour("--errors"), width: 1.5 }),
  };

  const inWords = (shown, step) => {
    const parts = shown.found
      .filter((one) => one.values[step] !== null && (one.values[step] || one.key === "used"))
      .map((one) => `${short(one.values[step])} ${one.name}`);
    return `${clock(shown.seconds[step])}: ${parts.join(", ")}${shown.unit}`;
  };

  const draw = (element) => {
    const before = drawn.get(element);
    const shown = before ? before.shown : columns(element);
    if (before) before.plot.destroy();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 0.5 } };
    axis.ticks = axis.grid;
    const options = {
      width: Math.max(200, element.clientWidth),
      height: heightOf(element),
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: (_, __, most) => [0, (most || 1) * 1.08] } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map(clock), space: 60, incrs: MARKS, size: 28 },
        { ...axis, values: (_, ticks) => ticks.map(short), space: 24, size: 52 },
      ],
      series: [
        {},
        ...shown.found.map((one) => ({
          ...looks[one.key](),
          points: { show: false },
          paths: uPlot.paths.stepped({ align: 1 }),
        })),
      ],
      hooks: { setCursor: [(plot) => tell(element, plot.cursor.idx)] },
    };
    // Once more at the end, so that the last step is as wide as all others.
    const values = [
      [...shown.seconds, shown.seconds.length * data.step],
      ...shown.found.map((one) => [...one.values, one.values.at(-1)]),
    ];
    const plot = new uPlot(options, values, element);
    drawn.set(element, { ...before, shown, plot });
    if (!before) makeReadable(element, shown);
  };

  const tell = (element, step) => {
    const known = drawn.get(element);
    if (!known || step === null || step === undefined) return;
    step = Math.min(step, known.shown.seconds.length - 1);
    const text = inWords(known.shown, step);
    element.setAttribute("aria-valuenow", String(step));
    element.setAttribute("aria-valuetext", text);
    known.at.textContent = text;
  };

  // Arrow keys go through the chart as through a slider: screen readers say what is there.
  const makeReadable = (element, shown) => {
    const known = drawn.get(element);
    const last = shown.seconds.length - 1;
    known.at = document.createElement("div");
    known.at.className = "at";
    known.at.setAttribute("aria-hidden", "true");
    element.after(known.at);
    element.tabIndex = 0;
    element.setAttribute("role", "slider");
    element.setAttribute("aria-label", `${element.dataset.name}, over time`);
    element.setAttribute("aria-valuemin", "0");
    element.setAttribute("aria-valuemax", String(last));
    element.setAttribute("aria-valuenow", "0");
    element.setAttribute("aria-valuetext", inWords(shown, 0));
    const page = Math.max(1, Math.round(last / 10));
    const moves = {
      ArrowRight: (step) => step + 1,
      ArrowUp: (step) => step + 1,
      ArrowLeft: (step) => step - 1,
      ArrowDown: (step) => step - 1,
      PageUp: (step) => step + page,
      PageDown: (step) => step - page,
      Home: () => 0,
      End: () => last,
    };
    element.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const { plot } = drawn.get(element);
      const now = Number(element.getAttribute("aria-valuenow"));
      const step = Math.min(last, Math.max(0, move(now)));
      const left = plot.valToPos(shown.seconds[step], "x");
      plot.setCursor({ left, top: plot.bbox.height / devicePixelRatio / 2 }, false);
      tell(element, step);
    });
  };

  const fill = (details) => {
    const element = details.parentElement.querySelector(".plot");
    const shown = columns(element);
    const region = document.createElement("div");
    region.className = "wide";
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", `${element.dataset.name}, as a table`);
    const table = document.createElement("table");
    const row = (parent, tag, cells) => {
      const made = parent.insertRow();
      cells.forEach((text, place) => {
        const cell = document.createElement(place ? tag : "th");
        cell.scope = tag === "th" ? "col" : "row";
        cell.textContent = text;
        made.append(cell);
      });
    };
    row(table.createTHead(), "th", ["at", ...shown.found.map((one) => `${one.name}${shown.unit}`)]);
    const body = table.createTBody();
    shown.seconds.forEach((at, step) => {
      const values = shown.found.map((one) => one.values[step]);
      row(body, "td", [clock(at), ...values.map((one) => (one === null ? "" : short(one)))]);
    });
    region.append(table);
    details.append(region);
  };

  const redraw = () => [...drawn.keys()].forEach(draw);
  const watched = new IntersectionObserver((entries) => {
    entries
      .filter((entry) => entry.isIntersecting && !drawn.has(entry.target))
      .forEach((entry) => draw(entry.target));
  }, { rootMargin: "400px" });
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const known = drawn.get(target);
      const width = Math.max(200, target.clientWidth);
      if (known && target.clientWidth && known.plot.width !== width) {
        known.plot.setSize({ width, height: heightOf(target) });
      }
    }
  });
  document.querySelectorAll(".plot").forEach((element) => {
    watched.observe(element);
    resized.observe(element);
  });
  document.querySelectorAll(".points").forEach((details) => {
    details.addEventListener("toggle", () => {
      if (details.open && !details.querySelector("table")) fill(details);
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // On paper: light, and all charts that are to be seen, not only those that were on the screen.
  const onPaper = (is) => {
    document.documentElement.classList.toggle("on-paper", is);
    document.querySelectorAll(".plot").forEach((element) => {
      if (element.clientWidth && (is || drawn.has(element))) draw(element);
    });
  };
  addEventListener("beforeprint", () => onPaper(true));
  addEventListener("afterprint", () => onPaper(false));
})();
