// A photo from the camera: of the phone's own program, or of this browser.

import { byId, showText } from "../ui/dom.js";

const QUALITY = 0.92;

/** Calls `onPhoto(file)`. Offers what this device has, nothing where there is no camera. */
export function makeCamera({ onPhoto }) {
  const onTheGo = matchMedia("(pointer: coarse)").matches;
  // Browsers hand out the camera to https and to this machine only.
  const hasStream = Boolean(navigator.mediaDevices?.getUserMedia);
  byId("camera-capture").hidden = !onTheGo;
  byId("camera-open").hidden = onTheGo || !hasStream;

  const dialog = byId("camera");
  const video = byId("camera-video");
  const snap = byId("camera-snap");
  let stream = null;
  let openings = 0;

  async function open() {
    const mine = ++openings;
    showText(byId("camera-problem"), "");
    snap.disabled = true;
    dialog.showModal();
    try {
      const opened = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 } },
      });
      // The dialog was left while the browser asked for permission, and perhaps opened anew.
      if (!dialog.open || mine !== openings) return stop(opened);
      stream = opened;
      video.srcObject = stream;
      await video.play();
      snap.disabled = false;
      snap.focus();
    } catch (error) {
      if (dialog.open && mine === openings) showText(byId("camera-problem"), whyNot(error));
    }
  }

  async function take() {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const data = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
    dialog.close();
    onPhoto(new File([data], "camera.jpg", { type: "image/jpeg" }));
  }

  byId("camera-open").addEventListener("click", open);
  byId("camera-cancel").addEventListener("click", () => dialog.close());
  snap.addEventListener("click", take);
  dialog.addEventListener("close", () => {
    if (stream) stop(stream);
    video.srcObject = stream = null;
  });
  byId("camera-file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = ""; // the next photo may have the same name
    if (file) onPhoto(file);
  });
}

const stop = (stream) => stream.getTracks().forEach((track) => track.stop());

function whyNot({ name }) {
  if (name === "NotAllowedError")
    return "The browser may not use the camera: allow it for this page, then try again.";
  if (name === "NotFoundError") return "No camera was found.";
  return "The camera cannot be used: another program may have it open.";
}
