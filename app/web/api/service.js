// What the service says of itself, and who may use it.

import { request, send } from "./http.js";

export const getSession = () => request("session");
export const closeSession = () => request("session", { method: "DELETE" });
export const openSession = (key) => send("POST", "session", { key });

export const getVersion = () => request("version");
export const getReady = () => request("readyz");
