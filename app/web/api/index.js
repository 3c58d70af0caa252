// The index as a whole, and its snapshots.

import { request, send } from "./http.js";

export const RELIABILITY = "admin/index/reliability";

export const getIndex = () => request("admin/index");
export const startBuild = () => request("admin/index/build", { method: "POST" });
export const reloadIndex = () => request("admin/index/reload", { method: "POST" });
export const rollbackTo = (generation) => send("POST", "admin/index/rollback", { generation });
export const getSnapshots = () => request("admin/snapshots").then(({ snapshots }) => snapshots);
export const takeSnapshot = (note) => send("POST", "admin/snapshots", { note });
