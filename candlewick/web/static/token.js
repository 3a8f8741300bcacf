// The bearer token: asked for when the server wants one, and kept until the tab is closed.

const KEY = "candlewick-token";
let token = kept();
let asking = null;

/** The token as a header, if there is one. */
export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Ask for a token, once for all who want it at this moment; resolves when one was given. */
export function askForToken(refused) {
  // Whoever was refused with an older token need not ask: there is a newer one.
  if (refused !== token) return Promise.resolve();
  asking ??= prompt(Boolean(token)).then((given) => {
    token = given;
    keep(given);
    asking = null;
  });
  return asking;
}

/** The token that a request was made with, to be told to `askForToken`. */
export function currentToken() {
  return token;
}

function kept() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // Storage may be forbidden; then it is asked for on each page.
  }
}

function keep(given) {
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // It holds for this page, then.
  }
}

function prompt(again) {
  const dialog = document.createElement("dialog");
  dialog.className = "token";
  dialog.setAttribute("aria-labelledby", "token-title");
  const title = document.createElement("h2");
  title.id = "token-title";
  title.textContent = "This server asks for a token";
  const told = document.createElement("p");
  told.textContent = again
    ? "The token was refused. Give the one that the server was started with, CANDLEWICK_TOKEN."
    : "Give the one that the server was started with, CANDLEWICK_TOKEN. It is kept until this tab is closed.";
  const label = document.createElement("label");
  label.textContent = "Token";
  const input = document.createElement("input");
  input.type = "password";
  input.autocomplete = "off";
  input.spellcheck = false;
  input.required = true;
  const button = document.createElement("button");
  button.textContent = "Use it";
  const form = document.createElement("form");
  label.append(input);
  form.append(title, told, label, button);
  dialog.append(form);
  document.body.append(dialog);
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      // What cannot stand in a header would make every request fail before it is sent.
      const given = input.value.trim();
      if (!/^[\x21-\x7e]+$/.test(given)) return;
      dialog.remove();
      resolve(given);
    });
  });
}
