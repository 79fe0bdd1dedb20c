// The theme, keys, and the sections in their order.

const themeButton = document.getElementById("theme");
const setTheme = (dark) => {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  themeButton.textContent = dark ? "Light" : "Dark";
  themeButton.setAttribute("aria-pressed", String(dark));
  charts.filter(([place]) => place.dataset.drawn === "yes" && place.isConnected).forEach((one) => {
    one[0].replaceChildren();
    drawChart(one);
  });
};
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
themeButton.addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideCard(); });

const measured = collect("measurements");
overview();
results();
measures(measured);
curves();
figures();
costs();
images(measured);
document.documentElement.dataset.ready = "yes";
