// The product picker: a text field that searches, and a list, as a combobox of the ARIA practices.

export class Picker {
  #input;
  #list;
  #products = [];
  #chosen = "";
  #active = -1;
  #choose;

  /** `choose(productId)` is called when one was chosen; `refresh()` when the list is opened. */
  constructor(input, list, choose, refresh) {
    this.#input = input;
    this.#list = list;
    this.#choose = choose;
    input.addEventListener("focus", () => {
      refresh();
      input.select();
    });
    input.addEventListener("click", () => this.#open());
    input.addEventListener("input", () => this.#open(input.value));
    input.addEventListener("keydown", (event) => this.#key(event));
    input.addEventListener("blur", () => this.#close());
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const option = event.target.closest("[role=option]");
      if (option) this.#take(option.dataset.product);
    });
  }

  /** Show which products there are. */
  set products(products) {
    this.#products = products;
    if (this.#isOpen) this.#open(this.#searched);
  }

  /** Show which one is chosen. */
  set chosen(productId) {
    this.#chosen = productId;
    this.#input.value = productId;
  }

  get #isOpen() {
    return !this.#list.hidden;
  }

  get #searched() {
    return this.#input.value === this.#chosen ? "" : this.#input.value;
  }

  #open(search = "") {
    const wanted = search.trim().toUpperCase();
    const found = this.#products.filter((product) => product.product_id.includes(wanted));
    found.sort((one, other) => other.product_id.startsWith(wanted) - one.product_id.startsWith(wanted));
    this.#list.replaceChildren(...found.map((product, index) => {
      const option = document.createElement("li");
      option.id = `product-${index}`;
      option.setAttribute("role", "option");
      option.dataset.product = product.product_id;
      option.textContent = product.product_id;
      if (!product.has_candles) {
        const told = document.createElement("small");
        told.textContent = "no trade yet";
        option.append(told);
      }
      return option;
    }));
    if (!found.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = this.#products.length ? "No such product" : "No product yet";
      this.#list.append(none);
    }
    this.#list.hidden = false;
    this.#input.setAttribute("aria-expanded", "true");
    const chosen = found.findIndex((product) => product.product_id === this.#chosen);
    this.#point(wanted ? 0 : Math.max(0, chosen));
  }

  #close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
    this.#input.value = this.#chosen;
  }

  #point(index) {
    const options = this.#list.querySelectorAll("[role=option]");
    this.#active = options.length ? (index + options.length) % options.length : -1;
    options.forEach((option, each) => option.setAttribute("aria-selected", String(each === this.#active)));
    const active = options[this.#active];
    if (!active) return;
    this.#input.setAttribute("aria-activedescendant", active.id);
    active.scrollIntoView({ block: "nearest" });
  }

  #take(productId) {
    this.#chosen = productId;
    this.#close();
    this.#input.blur();
    this.#choose(productId);
  }

  #key(event) {
    const down = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (down) {
      if (this.#isOpen) this.#point(this.#active + down);
      else this.#open();
    } else if (event.key === "Enter") {
      const option = this.#list.querySelector("[aria-selected=true]");
      if (this.#isOpen && option) this.#take(option.dataset.product);
      else this.#open();
    } else if (event.key === "Escape") {
      if (this.#isOpen) this.#close();
      else this.#input.blur();
    } else return;
    event.preventDefault();
  }
}
