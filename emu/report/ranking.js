// SPDX-License-Identifier: Apache-2.0
// The ranking of ranking.py, computed again whenever a weight is moved. Without scripts the page shows the first preset.
"use strict";
const { boards, criteria, presets } = JSON.parse(document.getElementById("ranking-data").textContent);
const form = document.getElementById("ranking-weights");
const body = document.getElementById("ranking-rows");
const about = document.getElementById("ranking-about");

const weights = () => Object.fromEntries(criteria.map((name) => [name, Number(form.elements[name].value)]));

function score(badness, weight) {
  const total = criteria.reduce((sum, name) => sum + weight[name], 0);
  return total ? criteria.reduce((sum, name) => sum + badness[name] * weight[name], 0) / total : 0;
}

function ranks(scores) {
  const rounded = Object.entries(scores).map(([name, value]) => [name, Number(value.toFixed(6))]);
  return Object.fromEntries(rounded.map(([name, value]) => [name, 1 + rounded.filter(([, other]) => other < value).length]));
}

function places(board, weight) {
  const all = Object.entries(board.badness);
  const times = board.sweep.length ? board.sweep : [Object.fromEntries(all.map(([name, mine]) => [name, mine.time]))];
  const swept = times.map((at) => ranks(Object.fromEntries(all.map(([name, mine]) => [name, score({ ...mine, time: at[name] }, weight)]))));
  return all
    .map(([name, mine]) => {
      const mineRanks = swept.map((rank) => rank[name]);
      return { name, mine, score: score(mine, weight), best: Math.min(...mineRanks), worst: Math.max(...mineRanks) };
    })
    .sort((a, b) => a.score - b.score || (a.name < b.name ? -1 : 1));
}

function cell(row, kind, words) {
  const made = row.appendChild(document.createElement(kind));
  made.textContent = words;
  return made;
}

function draw() {
  const board = boards[form.elements.backing.value];
  const weight = weights();
  body.replaceChildren();
  for (const place of places(board, weight)) {
    const row = body.appendChild(document.createElement("tr"));
    if (place.best !== place.worst) row.className = "moves";
    cell(row, "td", place.best === place.worst ? String(place.best) : `${place.best} to ${place.worst}`);
    cell(row, "th", place.name).scope = "row";
    const bar = cell(row, "td", "").appendChild(document.createElement("meter"));
    bar.value = place.score;
    bar.title = place.score.toFixed(3);
    cell(row, "td", place.score.toFixed(2)).className = "n";
    for (const name of criteria) {
      const shown = cell(row, "td", place.mine[name].toFixed(2));
      shown.className = "n heat";
      shown.style.setProperty("--heat", place.mine[name]);
    }
  }
  for (const name of criteria) form.elements[name].nextElementSibling.textContent = weight[name];
  about.textContent = board.about;
}

form.addEventListener("input", draw);
for (const button of form.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    for (const name of criteria) form.elements[name].value = presets[button.value][name];
    draw();
  });
}
form.hidden = false;
draw();
