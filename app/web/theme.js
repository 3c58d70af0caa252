// Light or dark, as chosen on an earlier visit: before the page is drawn, so that it does not flash.
// No module, as those run later.

try {
  const theme = localStorage.getItem("cooc:theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage is closed to this page: the system's choice holds.
}
