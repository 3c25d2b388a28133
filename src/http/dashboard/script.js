// Keeps the page that is shown up to date: fetches it again, and replaces what has changed. Focus, scroll position,
// typed text and open menus stay.
"use strict";

(() => {
  const INTERVAL = 2000;
  const TIMEOUT = 5000;
  const TYPING_PAUSE = 200;
  const MAIN = "main";
  const PARTS = ["notices", MAIN, "footer"];

  const live = document.getElementById("live");
  let timer = 0;
  // Of the latest request: answers of earlier ones are dropped.
  let latest = 0;

  // --- Replacing what has changed

  const isSame = (one, other) => one.nodeType === other.nodeType && one.nodeName === other.nodeName;

  function replace(current, next) {
    if (current.nodeType === Node.TEXT_NODE) {
      if (current.data !== next.data) current.data = next.data;
      return;
    }
    if (current.nodeType !== Node.ELEMENT_NODE || current.hasAttribute("data-kept")) return;
    for (const { name } of [...current.attributes]) {
      if (!next.hasAttribute(name) && name !== "open") current.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (name !== "open" && current.getAttribute(name) !== value) current.setAttribute(name, value);
    }
    replaceChildren(current, next);
  }

  // Moves a child without taking its focus, where the browser can.
  function move(parent, child, before) {
    if (child.isConnected && parent.moveBefore) parent.moveBefore(child, before);
    else parent.insertBefore(child, before);
  }

  // Children with an id are found by it, all others by their place.
  function replaceChildren(current, next) {
    const ids = new Set([...next.children].map((child) => child.id));
    const byId = new Map();
    for (const child of [...current.children]) {
      if (child.id && ids.has(child.id)) byId.set(child.id, child);
      else if (child.id) child.remove();
    }
    let place = current.firstChild;
    for (const wanted of [...next.childNodes]) {
      let found = null;
      if (wanted.id) found = byId.get(wanted.id) ?? null;
      else if (place && !place.id && isSame(place, wanted)) found = place;
      if (!found) {
        current.insertBefore(document.importNode(wanted, true), place);
        continue;
      }
      if (found === place) place = place.nextSibling;
      else move(current, found, place);
      replace(found, wanted);
    }
    while (place) {
      const after = place.nextSibling;
      place.remove();
      place = after;
    }
  }

  // --- What only a script can add

  const time = { hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
  const clock = new Intl.DateTimeFormat(undefined, time);
  const calendar = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", ...time });
  const isUtc = ["UTC", "Etc/UTC"].includes(clock.resolvedOptions().timeZone);

  function complete(page) {
    for (const moment of page.querySelectorAll("time[data-local]")) {
      const local = moment.querySelector(".local");
      const format = moment.dataset.local === "date" ? calendar : clock;
      if (local && !isUtc) local.textContent = ` (${format.format(new Date(moment.dateTime))})`;
    }
    for (const scripted of page.querySelectorAll("[data-scripted]")) scripted.hidden = false;
  }

  // --- Fetching

  function say(state, text) {
    if (document.body.dataset.state !== state) document.body.dataset.state = state;
    if (live.textContent !== text) live.textContent = text;
  }

  function failed(why) {
    const since = live.dataset.since || new Date().toISOString().slice(11, 19);
    live.dataset.since = since;
    say("stale", `${why} since ${since} UTC: the figures are older`);
  }

  // Credentials in the address are no part of a request.
  function address(url) {
    const clean = new URL(url, document.baseURI);
    clean.username = "";
    clean.password = "";
    return clean;
  }

  async function refresh() {
    clearTimeout(timer);
    const request = ++latest;
    try {
      const answer = await fetch(address(location.href), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
      const text = await answer.text();
      if (request === latest) show(answer, text);
    } catch {
      if (request === latest) failed("The service has not answered");
    }
    if (request === latest && document.visibilityState === "visible") timer = setTimeout(refresh, INTERVAL);
  }

  function show(answer, text) {
    if (answer.redirected) return location.replace(answer.url);
    const page = new DOMParser().parseFromString(text, "text/html");
    if (!page.getElementById(MAIN)) return failed(`No page, but the status ${answer.status},`);
    const isOutage = answer.status >= 500;
    const isRefusal = answer.status === 401 || answer.status === 403;
    complete(page);
    const focused = document.activeElement;
    for (const id of PARTS) {
      // During an outage the last figures stay.
      if (isOutage && id === MAIN) continue;
      replace(document.getElementById(id), page.getElementById(id));
    }
    if (document.title !== page.title && !isOutage) document.title = page.title;
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    if (isOutage) return failed("No new figures");
    if (isRefusal) return failed("No access");
    delete live.dataset.since;
    say("live", "Live");
  }

  // --- Links and forms that change the view

  // They change the parameters only.
  function go(url, push) {
    const query = url.search || "?";
    if (push) history.pushState(null, "", query);
    else history.replaceState(null, "", query);
    refresh();
  }

  function formAddress(form) {
    const url = address(location.href);
    const fields = [...new FormData(form)].filter(([, value]) => value !== "");
    url.search = new URLSearchParams(fields).toString();
    return url;
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-live]");
    const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!link || !isPlain) return;
    event.preventDefault();
    go(address(link.href), true);
  });

  let typing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-live]");
    if (!form || event.target.type !== "search") return;
    clearTimeout(typing);
    typing = setTimeout(() => go(formAddress(form), false), TYPING_PAUSE);
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches("form[data-live]")) {
      event.preventDefault();
      clearTimeout(typing);
      go(formAddress(form), true);
    } else if (form.matches("form[data-external]")) {
      event.preventDefault();
      setExternal(form);
    }
  });

  async function setExternal(form) {
    const { org, pool, tokens, note } = Object.fromEntries(new FormData(form));
    const output = form.querySelector("output");
    const root = document.querySelector("a.brand").href;
    output.dataset.state = "sent";
    output.textContent = "…";
    try {
      const answer = await fetch(address(new URL("api/external", root)), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ org, pool, tokens: Number(tokens), note }),
        signal: AbortSignal.timeout(TIMEOUT),
      });
      if (!answer.ok) throw new Error(await answer.text());
      const { previous_tokens: before, external_tokens: external } = await answer.json();
      const number = (value) => value.toLocaleString("en-US");
      output.dataset.state = "set";
      output.textContent = `Set. Before: ${number(before)}; what counts now: ${number(external)}.`;
      form.reset();
    } catch (error) {
      output.dataset.state = "refused";
      output.textContent = `Not known to be set: ${error.message}`;
    }
    refresh();
  }

  window.addEventListener("popstate", refresh);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") refresh();
    else clearTimeout(timer);
  });

  complete(document);
  live.hidden = false;
  say("live", "Live");
  timer = setTimeout(refresh, INTERVAL);
})();
