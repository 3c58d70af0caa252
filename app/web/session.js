// Signing in with a key, where the service asks for one, and what the key is good for.

import { KEY_NEEDED, closeSession, getSession, openSession } from "./api.js";
import { byId, create, explain, showText } from "./ui.js";

let scopes = ["search", "write", "admin"];

/** Whether the service lets this visitor do what needs `scope`. */
export const may = (scope) => scopes.includes(scope);

/**
 * Resolves when the visitor is let in, after asking for a key if that takes one. Never throws: a
 * service that does not answer is for the rest of the page to notice.
 */
export async function signIn() {
  let session;
  try {
    session = await getSession();
  } catch {
    return;
  }
  if (session.required && !session.scopes.length) session = await askForKey();
  use(session);
  // From now on: the key was revoked, or has expired.
  window.addEventListener(KEY_NEEDED, () => location.reload(), { once: true });
}

function use(session) {
  // A visitor without any scope is told why by the answers themselves.
  if (session.scopes.length) scopes = session.scopes;
  document.body.dataset.scopes = scopes.join(" ");
  if (session.required) showSignOut(session.key_name);
}

function showSignOut(name) {
  const button = create("button", {
    className: "button button-quiet",
    type: "button",
    id: "sign-out",
    text: "Sign out",
    title: `Signed in with the key of ${name}`,
  });
  button.addEventListener("click", async () => {
    await closeSession().catch(() => {});
    location.reload();
  });
  byId("state-line").parentElement.querySelector("nav").append(button);
}

/** A dialog that stays until a key is good; resolves with the session. */
function askForKey() {
  const input = create("input", {
    id: "key",
    name: "key",
    type: "password",
    required: true,
    autocomplete: "current-password",
    attributes: { spellcheck: "false", "aria-describedby": "key-error" },
  });
  const problem = create("p", {
    className: "sign-in-error",
    id: "key-error",
    hidden: true,
    attributes: { role: "alert" },
  });
  const button = create("button", {
    className: "button button-primary",
    type: "submit",
    text: "Sign in",
  });
  const form = create(
    "form",
    {},
    create("h2", { id: "sign-in-title", text: "This service needs a key" }),
    create("label", { htmlFor: "key", text: "Key" }),
    input,
    problem,
    create("div", { className: "dialog-buttons" }, button),
  );
  const dialog = create(
    "dialog",
    {
      className: "dialog sign-in",
      id: "sign-in",
      attributes: { "aria-labelledby": "sign-in-title" },
    },
    form,
  );
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      showText(problem, "");
      try {
        const session = await openSession(input.value.trim());
        dialog.remove();
        resolve(session);
      } catch (error) {
        showText(problem, explain(error));
        input.select();
      } finally {
        button.disabled = false;
      }
    });
  });
}
