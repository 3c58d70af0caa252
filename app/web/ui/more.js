// The next page of a list, when its button is clicked or scrolled to.

/** Calls `load()` for the next page; `show(whether)` says whether there is one. */
export function makeMore(button, load) {
  let loading = false;

  async function next() {
    if (loading || button.hidden) return;
    loading = true;
    button.setAttribute("aria-busy", "true");
    try {
      await load();
    } finally {
      loading = false;
      button.removeAttribute("aria-busy");
    }
  }

  const watcher = new IntersectionObserver(
    (entries) => entries.some((entry) => entry.isIntersecting) && next(),
    { rootMargin: "300px" },
  );
  button.addEventListener("click", next);

  function show(whether) {
    button.hidden = !whether;
    // Watching anew asks again: the button may still be in view after a short page.
    watcher.unobserve(button);
    if (whether) watcher.observe(button);
  }

  return { show };
}
