"use strict";
// What all parts of the script use. Every text of the data is set as textContent, never as HTML.

const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
const { runs, compares, rows, images, descriptions } = read("gallery-data");
const thumbnails = read("thumbnail-data");
const STYLES = 6; // colours and dashes of curves
const number = new Intl.NumberFormat("en");

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) {
    element.textContent = text;
    element.dir = "auto";
  }
  return element;
}

/** The image of a sample; null where the page has none. */
function imageOf(row) {
  const data = thumbnails[row.image];
  if (!data) return null;
  const image = make("img");
  image.src = "data:image/webp;base64," + data;
  image.alt = images[row.image];
  image.decoding = "async";
  return image;
}

/** Whether run number `place` answered right, wrong or failed. */
function outcomeOf(row, place) {
  return place === 0 ? row.outcome : row.others[place - 1][1];
}

function predictionOf(row, place) {
  return place === 0 ? row.prediction : row.others[place - 1][0];
}
