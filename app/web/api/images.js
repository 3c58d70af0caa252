// Stored images.

import { queryString, request } from "./http.js";

/** Ids may hold slashes, which stay; everything else of a segment is escaped. */
export const imagePath = (id) => `images/${id.split("/").map(encodeURIComponent).join("/")}`;
export const thumbnailPath = (id) => `${imagePath(id)}/thumbnail`;
export const originalPath = (id) => `${imagePath(id)}/original`;

export const getImage = (id, signal) => request(imagePath(id), { signal });
export const deleteImage = (id) => request(imagePath(id), { method: "DELETE" });

/** A page of all images, in the order of their ids; `filter` is an object or null. */
export const getImages = ({ cursor = null, limit, filter = null }, signal) =>
  request(`images?${queryString({ cursor, limit, filter: filter && JSON.stringify(filter) })}`, {
    signal,
  });

/** Changes metadata by a JSON merge patch; returns the image. */
export const patchImage = (id, change) =>
  request(imagePath(id), {
    method: "PATCH",
    headers: { "Content-Type": "application/merge-patch+json" },
    body: JSON.stringify(change),
  });
