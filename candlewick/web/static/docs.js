// The OpenAPI document, to be read and tried: /openapi.json is all that it knows of the API.

import { Problem, ask, request } from "./api.js";

const PICTURE = 20_000; // characters of an answer that are shown
const LISTEN_MS = 5000; // to a stream that never ends

const main = document.getElementById("main");
const search = document.getElementById("search");
let schemas = {};

/** Make an element: attributes, then children, texts among them. */
function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Text with its `code` in it. */
function prose(text) {
  const parts = String(text ?? "").split("`");
  return parts.map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

// Schemas.

function nameOf(reference) {
  return reference.split("/").at(-1);
}

function linkTo(name) {
  return make("a", { href: `#schema-${name}` }, name);
}

/** What a value is, in a few words. */
function kindOf(schema) {
  if (!schema || !Object.keys(schema).length) return ["any"];
  if (schema.$ref) return [linkTo(nameOf(schema.$ref))];
  const union = schema.anyOf ?? schema.oneOf;
  if (union) return union.flatMap((each, index) => (index ? [" or ", ...kindOf(each)] : kindOf(each)));
  if (schema.enum) return schema.enum.flatMap((each, index) => [index ? ", " : "", make("code", {}, JSON.stringify(each))]);
  if ("const" in schema) return [make("code", {}, JSON.stringify(schema.const))];
  if (schema.type === "array") {
    if (!schema.prefixItems) return ["list of ", ...kindOf(schema.items || {})];
    const items = schema.prefixItems.flatMap((each, index) => (index ? [", ", ...kindOf(each)] : kindOf(each)));
    return ["[", ...items, "]"];
  }
  if (schema.type === "object" && schema.additionalProperties) return ["object of ", ...kindOf(schema.additionalProperties)];
  return [[schema.type].flat().join(" or ") + (schema.format ? ` (${schema.format})` : "")];
}

/** Limits, default and an example, as one line. */
function limitsOf(schema) {
  const least = schema.minimum ?? schema.exclusiveMinimum;
  const most = schema.maximum ?? schema.exclusiveMaximum;
  const told = [];
  if (least !== undefined || most !== undefined) told.push(`${least ?? "…"} to ${most ?? "…"}`);
  if (schema.minLength !== undefined || schema.maxLength !== undefined) {
    told.push(`${schema.minLength ?? 0} to ${schema.maxLength ?? "…"} characters`);
  }
  if (schema.default !== undefined) told.push(`default ${JSON.stringify(schema.default)}`);
  if (schema.examples?.length) told.push(`such as ${schema.examples[0]}`);
  else if (schema.pattern) told.push(`of the form ${schema.pattern}`);
  return told.join("; ");
}

function propertiesOf(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, each]) =>
    make("tr", {},
      make("th", { scope: "row" }, make("code", {}, name), required.has(name) ? "" : make("small", {}, "may be absent")),
      make("td", {}, ...kindOf(each)),
      make("td", {}, ...prose(each.description), " ", make("small", {}, limitsOf(each)))));
}

function table(caption, rows) {
  const box = make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption });
  box.append(make("table", {}, make("caption", { class: "unseen" }, caption), make("tbody", {}, ...rows)));
  return box;
}

function showSchema(name, schema) {
  const rows = propertiesOf(schema);
  return make("section", { id: `schema-${name}`, class: "schema", "data-text": name.toLowerCase() },
    make("h3", {}, name),
    make("p", {}, ...prose(schema.description)),
    rows.length ? table(`Fields of ${name}`, rows) : make("p", {}, ...kindOf(schema)));
}

// Operations.

function idOf(method, path) {
  return `${method}${path.replace(/[^A-Za-z0-9]+/g, "-")}`;
}

function showOperation(path, method, operation) {
  const id = idOf(method, path);
  const parameters = operation.parameters ?? [];
  const answers = Object.entries(operation.responses);
  const forms = answers.flatMap(([status, { content = {} }]) =>
    status.startsWith("2") ? Object.entries(content).map(([media, { schema }]) => [status, media, schema]) : []);
  const others = answers.filter(([status]) => !status.startsWith("2"));
  const text = [path, operation.summary, ...parameters.map((each) => `${each.name} ${each.description ?? ""}`)];
  const section = make("section", { id, class: "operation", "data-text": text.join(" ").toLowerCase() },
    make("h3", {}, make("span", { class: "method" }, method.toUpperCase()), " ", make("code", {}, path)),
    make("p", {}, ...prose(operation.summary)));
  if (operation.description) section.append(make("p", {}, ...prose(operation.description)));
  if (parameters.length) {
    section.append(make("h4", {}, "Parameters"), table(`Parameters of ${path}`, parameters.map((each) =>
      make("tr", {},
        make("th", { scope: "row" }, make("code", {}, each.name), make("small", {}, each.required ? "required" : each.in)),
        make("td", {}, ...kindOf(each.schema)),
        make("td", {}, ...prose(each.description ?? each.schema?.description), " ", make("small", {}, limitsOf(each.schema ?? {})))))));
  }
  section.append(make("h4", {}, "Answers"), table(`Answers of ${path}`, forms.map(([status, media, schema]) =>
    make("tr", {},
      make("th", { scope: "row" }, make("code", {}, status)), make("td", {}, make("code", {}, media)),
      make("td", {}, ...kindOf(schema))))));
  section.append(make("details", {}, make("summary", {}, `Or ${others.map(([status]) => status).join(", ")}`),
    table(`Other answers of ${path}`, others.map(([status, response]) => make("tr", {},
      make("th", { scope: "row" }, make("code", {}, status)),
      make("td", {}, ...Object.keys(response.content ?? {}).map((media) => make("code", {}, media))),
      make("td", {}, ...prose(response.description)))))));
  if (method === "get") section.append(tryOut(path, parameters));
  return section;
}

/** A form that asks the server, with what it said. */
function tryOut(path, parameters) {
  const inputs = parameters.map((each) => {
    const choices = each.schema?.enum ?? (each.schema?.type === "boolean" ? ["true", "false"] : null);
    const input = choices
      ? make("select", { name: each.name }, each.required ? "" : make("option", {}, ""), ...choices.map((choice) => make("option", {}, String(choice))))
      : make("input", {
          name: each.name, autocomplete: "off", spellcheck: "false",
          value: each.required ? each.schema?.examples?.[0] ?? (each.name === "product_id" ? "BTC-USD" : "") : "",
          placeholder: String(each.schema?.default ?? ""),
        });
    return { each, input, label: make("label", {}, make("span", {}, each.name), input) };
  });
  const curl = make("code", {});
  const told = make("p", { role: "status" });
  const body = make("pre", { tabindex: "0", "aria-label": "Answer", hidden: true });
  const form = make("form", {},
    ...inputs.map(({ label }) => label), make("button", {}, "Send"));

  function address() {
    const query = new URLSearchParams();
    let asked = path;
    for (const { each, input } of inputs) {
      if (each.in === "path") asked = asked.replace(`{${each.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(each.name, input.value);
    }
    return query.size ? `${asked}?${query}` : asked;
  }

  function write() {
    curl.textContent = `curl '${location.origin}${address().replaceAll("'", "%27")}'`;
  }

  form.addEventListener("input", write);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    told.textContent = "Asking …";
    const began = performance.now();
    let status = "200";
    let text;
    try {
      const response = await request(address());
      status = `${response.status} ${response.headers.get("Content-Type") ?? ""}`;
      text = await read(response);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      status = error.status ? `${error.status} ${error.kind}` : "";
      text = error.message;
    }
    told.textContent = `${status}, ${Math.round(performance.now() - began)} ms, ${text.length.toLocaleString("en")} characters`;
    body.textContent = text.length > PICTURE ? `${text.slice(0, PICTURE)}\n… cut here` : text;
    body.hidden = false;
  });
  write();
  return make("details", { class: "try" }, make("summary", {}, "Try it"), form, make("p", { class: "curl" }, curl), told, body);
}

async function read(response) {
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    const text = await response.text();
    try {
      return JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      return text;
    }
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const most = PICTURE - 100; // with the last line it is shown whole
  let text = "";
  const timer = setTimeout(() => reader.cancel(), LISTEN_MS);
  for (;;) {
    const { value, done } = await reader.read();
    if (done || text.length > most) break;
    text += value;
  }
  clearTimeout(timer);
  reader.cancel();
  return `${text.slice(0, most)}\n… the stream goes on; it was listened to for ${LISTEN_MS / 1000} s at most`;
}

// The page.

function groupOf(path) {
  if (path.startsWith("/udf")) return "TradingView UDF";
  if (/^\/(products|currencies|time)\b/.test(path)) return "Coinbase Exchange's own paths";
  if (path.startsWith("/v1") || path.startsWith("/stats")) return "Candles, book, trades";
  return "The server";
}

function show(document_) {
  schemas = document_.components?.schemas ?? {};
  const groups = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (!operation?.responses) continue;
      const group = operation.tags?.[0] ?? groupOf(path);
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push([path, method, operation]);
    }
  }
  const order = ["Candles, book, trades", "The server"];
  const place = ([group]) => (order.includes(group) ? order.indexOf(group) : order.length);
  const { info } = document_;
  const contents = document.getElementById("contents");
  main.replaceChildren(make("h1", {}, info.title, " ", make("small", {}, info.version)),
    make("p", { class: "about" }, ...prose(info.description)));
  for (const [group, operations] of [...groups].sort((one, other) => place(one) - place(other))) {
    const list = make("ul", {});
    main.append(make("h2", {}, group));
    for (const [path, method, operation] of operations) {
      main.append(showOperation(path, method, operation));
      list.append(make("li", {}, make("a", { href: `#${idOf(method, path)}` }, path)));
    }
    contents.append(make("h2", {}, group), list);
  }
  const list = make("ul", {});
  main.append(make("h2", {}, "Schemas"));
  for (const [name, schema] of Object.entries(schemas)) {
    main.append(showSchema(name, schema));
    list.append(make("li", {}, linkTo(name)));
  }
  contents.append(make("h2", {}, "Schemas"), list);
}

function narrow() {
  const wanted = search.value.trim().toLowerCase();
  for (const section of main.querySelectorAll("section")) section.hidden = !section.dataset.text.includes(wanted);
  for (const item of document.querySelectorAll(".contents li")) {
    item.hidden = document.getElementById(item.firstChild.hash.slice(1))?.hidden;
  }
}

search.addEventListener("input", narrow);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, dialog")) return;
  search.focus();
  event.preventDefault();
});

try {
  show(await ask("/openapi.json"));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  if (!(error instanceof Problem)) throw error;
  document.getElementById("state").textContent = `${error.message}. Load the page again when the server is back.`;
}
