// The dialog that asks for an API key. api.js keeps the key for as long as the tab is open.

import { $ } from "./dom.js";

$("key-cancel").addEventListener("click", () => $("key").close(""));

/** Ask; gives the key, or null if the person would rather not. */
export function askForKey(wasWrong) {
  const [dialog, help, input] = [$("key"), $("key-help"), $("key-value")];
  help.className = wasWrong ? "bad" : "soft";
  help.textContent = wasWrong
    ? "The server does not know this key. Check it and try again."
    : "This server asks for an API key. It is kept in this tab only, until you close it.";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const answer = () => resolve((dialog.returnValue === "use" && input.value.trim()) || null);
    dialog.addEventListener("close", answer, { once: true });
  });
}
