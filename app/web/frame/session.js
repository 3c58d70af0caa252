// Signing in with a key, where the service asks for one, and what the key is good for.

import { KEY_NEEDED } from "../api/http.js";
import { closeSession, getSession, openSession } from "../api/service.js";
import { button, byId, showText } from "../ui/dom.js";
import { explain, moment } from "../ui/words.js";

const NO_LONGER_GOOD = "The key that was used is no longer good. Sign in again to go on.";

let scopes = ["search", "write", "admin"];

/** Whether the service lets this visitor do what needs `scope`. */
export const may = (scope) => scopes.includes(scope);

/**
 * Resolves when the visitor is let in, after asking for a key if that takes one. Never throws: a
 * service that does not answer is for the rest of the page to notice. `onChanged()` is called when
 * somebody signs in later, because a key was revoked or has expired.
 */
export async function signIn(onChanged) {
  let asking = false;
  let hadKey = false;
  async function letIn(why) {
    asking = true;
    use(await askForKey(why));
    asking = false;
    hadKey = true;
  }
  // First, as a service that does not answer now may ask for a key later.
  addEventListener(KEY_NEEDED, async () => {
    if (asking) return;
    await letIn(hadKey ? NO_LONGER_GOOD : "");
    onChanged();
  });
  let session;
  try {
    session = await getSession();
  } catch {
    return;
  }
  if (!session?.scopes) return; // something in between answered
  hadKey = session.required && session.scopes.length > 0;
  if (session.required && !hadKey) await letIn();
  else use(session);
}

function use(session) {
  // A visitor without any scope is told why by the answers themselves.
  if (session.scopes.length) scopes = session.scopes;
  document.body.dataset.scopes = scopes.join(" ");
  byId("account").replaceChildren(...(session.required ? [signOutButton(session)] : []));
}

function signOutButton({ key_name: name, expires_at: ends }) {
  const until = ends ? `, good until ${moment(ends)}` : "";
  const leave = async () => {
    await closeSession().catch(() => {});
    location.reload();
  };
  return button("Sign out", leave, {
    className: "button button-small button-quiet",
    id: "sign-out",
    title: `Signed in with the key “${name}”${until}`,
  });
}

/** A dialog that stays until a key is good; resolves with the session. */
function askForKey(why = "") {
  const dialog = byId("sign-in");
  const form = byId("sign-in-form");
  const field = byId("key");
  const submit = byId("sign-in-submit");
  const stay = (event) => event.preventDefault();
  // Browsers close a dialog at the second Esc, whatever the page says to it.
  const reopen = () => dialog.showModal();
  showText(byId("sign-in-why"), why);
  showText(byId("key-error"), "");
  field.value = "";
  field.removeAttribute("aria-invalid");
  dialog.addEventListener("cancel", stay);
  dialog.addEventListener("close", reopen);
  // Dialogs that were opened before would be above this one.
  for (const other of document.querySelectorAll("dialog[open]")) other.close();
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    async function send(event) {
      event.preventDefault();
      submit.disabled = true;
      showText(byId("key-error"), "");
      try {
        const session = await openSession(field.value.trim());
        form.removeEventListener("submit", send);
        dialog.removeEventListener("cancel", stay);
        dialog.removeEventListener("close", reopen);
        field.value = "";
        dialog.close();
        resolve(session);
      } catch (error) {
        showText(byId("key-error"), explain(error));
        field.setAttribute("aria-invalid", "true");
        field.select();
      } finally {
        submit.disabled = false;
      }
    }
    form.addEventListener("submit", send);
  });
}

export function wireKeyField() {
  byId("key-shown").addEventListener("change", ({ target }) => {
    byId("key").type = target.checked ? "text" : "password";
  });
}
