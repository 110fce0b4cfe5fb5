"use strict";

/** Keeps the workbook token where the functions find it: on this computer, for this add-in alone. */
const TOKEN_KEY = "flaskllm.token";
const ADDRESS = "https://gateway.example.com";

function tell(words) {
  document.getElementById("state").textContent = words;
}

/** Says whether the gateway knows the token, before it is kept: a typing error shows here and not in a cell. */
async function keep(event) {
  event.preventDefault();
  const token = document.getElementById("token").value.trim();
  tell("Asking the gateway…");
  try {
    const response = await fetch(ADDRESS + "/api/v1/range", {
      method: "POST",
      headers: { "X-API-Token": token, "Content-Type": "application/json" },
      body: JSON.stringify({ rows: [{ prompt: "Hello" }], type: "custom", dry_run: true }),
    });
    if (!response.ok) {
      const answer = await response.json();
      tell("Not kept: " + answer.error.message);
      return;
    }
  } catch {
    tell("Not kept: the gateway at " + ADDRESS + " cannot be reached.");
    return;
  }
  await OfficeRuntime.storage.setItem(TOKEN_KEY, token);
  document.getElementById("token").value = "";
  tell("Kept. Try =FLASKLLM.ASK(\"Say hello\") in a cell.");
}

async function forget() {
  await OfficeRuntime.storage.removeItem(TOKEN_KEY);
  tell("Forgotten.");
}

Office.onReady(() => {
  document.getElementById("form").addEventListener("submit", keep);
  document.getElementById("forget").addEventListener("click", forget);
});
