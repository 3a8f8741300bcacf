// Dark or light: what was chosen here, else what the system prefers. A classic script in the head of each
// page, so that the page is never painted in the wrong one.
(() => {
  "use strict";
  const KEY = "candlewick-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // Storage may be forbidden; then the system decides.
  }

  function apply() {
    const known = chosen === "dark" || chosen === "light";
    document.documentElement.dataset.theme = known ? chosen : dark.matches ? "dark" : "light";
    document.dispatchEvent(new Event("themechange"));
  }

  dark.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-switch-theme]")) return;
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // It holds for this page, then.
    }
    apply();
  });
  apply();
})();
