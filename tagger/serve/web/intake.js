// Takes pictures to search with: dropped anywhere on the page, pasted, or chosen from the disk.

import { $, megabytes, shown } from "./dom.js";
import { notify } from "./messages.js";

/** `limit()` gives the most bytes a picture may have; `take(file)` gets one that may be sent. */
export function startIntake(limit, take) {
  const accept = (files) => {
    const file = pick(files, limit());
    if (file) take(file);
  };
  startDrop(accept);
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return; // text goes where it was pasted
    event.preventDefault();
    accept(files);
  });
  const input = $("file");
  $("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    accept([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
}

function startDrop(accept) {
  const sign = $("drop");
  const brings = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0; // enter and leave also come for every element inside
  const enter = (step) => (event) => {
    if (!brings(event)) return;
    depth = Math.max(0, depth + step);
    sign.hidden = depth === 0;
  };
  addEventListener("dragenter", enter(1));
  addEventListener("dragleave", enter(-1));
  addEventListener("dragover", (event) => brings(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    depth = 0;
    sign.hidden = true;
    accept([...event.dataTransfer.files]);
  });
}

// Browsers know few formats by their type, so what has none is left to the server to judge.
function pick(files, most) {
  const file = files.find((one) => one.type.startsWith("image/")) ?? files.find((one) => !one.type);
  const name = shown(file?.name ?? files[0]?.name ?? "This");
  if (!file) return notify(`${name} is not a picture. Take a JPEG, PNG or WebP file.`);
  if (!file.size) return notify(`${name} is empty. Take another picture.`);
  if (most && file.size > most) {
    return notify(
      `${name} has ${megabytes(file.size)}, and pictures to search with may have ${megabytes(most)}. Save it smaller, or take another one.`,
    );
  }
  return file;
}
