"use strict";
// The volume viewer: NiiVue where the page carries it and the browser has WebGL2, else a slice at a time on a canvas.
(() => {
  const panel = document.getElementById("viewer-panel");
  if (!panel) return;
  const byId = (id) => document.getElementById(id);
  const [stage, message, chooser] = [byId("viewer-stage"), byId("viewer-message"), byId("viewer-case")];
  const [slider, place, layers] = [byId("viewer-slice"), byId("viewer-place"), byId("viewer-layers")];
  const [opacity, layout] = [byId("viewer-opacity"), byId("viewer-layout")];
  const OUTLINE_OPACITY = 1;
  let shown = null; // {show(k), paint()}
  let turn = 0;
  let opening = Promise.resolve();

  async function unpack(base64) {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  async function loadNiivue() {
    if (globalThis.Niivue) return globalThis.Niivue;
    const packed = byId("niivue");
    if (!packed) throw new Error(panel.dataset.missing);
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("This browser has no WebGL2");
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(packed.textContent.trim()));
    document.head.append(script); // runs at once; the page's policy knows its checksum
    if (!globalThis.Niivue) throw new Error("NiiVue could not be started");
    return globalThis.Niivue;
  }

  const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const newCanvas = () => {
    const canvas = document.createElement("canvas");
    // Browsers keep few of these contexts: the case before gives its own back.
    stage.querySelector("canvas")?.getContext("webgl2")?.getExtension("WEBGL_lose_context")?.loseContext();
    stage.replaceChildren(canvas);
    return canvas;
  };
  const strength = (k) => (layers.children[k].querySelector("input").checked
    ? (k === 0 ? OUTLINE_OPACITY : Number(opacity.value)) : 0);

  async function openNiivue(data) {
    const Niivue = await loadNiivue();
    const nv = new Niivue({ backColor: [0, 0, 0, 1], isRadiologicalConvention: true, show3Dcrosshair: false,
      isNearestInterpolation: true, dragAndDropEnabled: false, logLevel: "error",
      loadingText: "", isColorbar: false });
    await nv.attachToCanvas(newCanvas());
    await nv.loadFromArrayBuffer(await unpack(data.image), "image.nii");
    const count = data.masks.length; // the last loaded lies on top: the reference
    for (const [k, mask] of [...data.masks.entries()].reverse()) {
      await nv.loadFromArrayBuffer(await unpack(mask.data), `mask${k}.nii`);
      const [R, G, B] = rgb(mask.colour).map((value) => [0, value]);
      nv.addColormap(`mask${k}`, { R, G, B, A: [0, 255], I: [0, 255] });
      Object.assign(nv.volumes[count - k], { cal_min: 0, cal_max: 1 });
      nv.setColormap(nv.volumes[count - k].id, `mask${k}`);
    }
    Object.assign(nv.volumes[0], { cal_min: 0, cal_max: 255 });
    nv.updateGLVolume();
    const { name: view, axis, reversed } = data.view; // NiiVue's positions are parts of the RAS axes
    const mirror = (part) => (reversed ? 1 - part : part);
    const sliceAt = (part) => Math.min(Math.floor(mirror(part) * data.shape[2]), data.shape[2] - 1);
    nv.onLocationChange = (at) => {
      const k = sliceAt(at.frac[axis]);
      if (k !== Number(slider.value)) { slider.value = k; tell(); }
    };
    return {
      show(k) {
        const planes = layout.value === "planes";
        nv.scene.crosshairPos[axis] = mirror((k + 0.5) / data.shape[2]);
        nv.opts.crosshairWidth = planes ? 0.5 : 0;
        nv.setSliceType(planes ? nv.sliceTypeMultiplanar : nv[`sliceType${view}`]);
      },
      paint() { data.masks.forEach((_, k) => nv.setOpacity(count - k, strength(k))); },
    };
  }

  async function openSlices(data) {
    const [width, height] = data.shape;
    const voxels = async (packed) => { // our own NIfTI files: one uint8 a voxel, after the header
      const buffer = await unpack(packed);
      return new Uint8Array(buffer, new DataView(buffer).getFloat32(108, true));
    };
    const image = await voxels(data.image);
    const masks = await Promise.all(data.masks.map((mask) => voxels(mask.data)));
    const canvas = newCanvas();
    Object.assign(canvas, { width, height });
    canvas.className = "slices";
    const ratio = (width * data.spacing_mm[0]) / (height * data.spacing_mm[1]);
    canvas.style.aspectRatio = String(ratio);
    canvas.style.width = `min(100%, ${stage.clientHeight * ratio}px)`;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const draw = (k) => {
      const start = k * width * height;
      const paints = masks.map((mask, m) => ({ mask, colour: rgb(data.masks[m].colour), alpha: strength(m) })).reverse();
      for (let p = 0; p < width * height; p += 1) {
        const colour = [image[start + p], image[start + p], image[start + p]];
        for (const { mask, colour: paint, alpha } of paints) {
          if (mask[start + p]) for (let c = 0; c < 3; c += 1) colour[c] += alpha * (paint[c] - colour[c]);
        }
        pixels.data.set([...colour, 255], 4 * p);
      }
      context.putImageData(pixels, 0, 0);
    };
    return { show: draw, paint() { draw(Number(slider.value)); } };
  }

  function tell() { // slices are counted from 0, as in tables of results
    const [first, k, last] = [Number(slider.dataset.first), Number(slider.value), Number(slider.max)];
    place.textContent = `${first + k} (${first}–${first + last})`;
  }

  function listLayers(data) {
    layers.replaceChildren(...data.masks.map((mask, k) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      const swatch = document.createElement("span");
      Object.assign(box, { type: "checkbox", checked: k < 2 });
      swatch.className = k === 0 ? "swatch outline" : "swatch";
      swatch.style.setProperty("--colour", mask.colour);
      label.append(box, swatch, mask.name);
      box.addEventListener("change", () => shown && shown.paint());
      return label;
    }));
  }

  function ask(number) { // one at a time, for each takes the stage; of those that wait the last alone
    const mine = (turn += 1);
    const next = () => (mine === turn ? open(number, mine) : undefined);
    panel.dataset.state = "loading";
    panel.hidden = false;
    opening = opening.then(next, next);
  }

  async function open(number, mine) {
    shown = null;
    message.textContent = "Opening …";
    chooser.value = String(number);
    const data = JSON.parse(byId(`volume-${number}`).textContent);
    slider.max = data.shape[2] - 1;
    slider.value = data.slice;
    slider.dataset.first = data.first;
    listLayers(data);
    let [note, kind, opened] = [data.note, "niivue", null];
    try {
      opened = await openNiivue(data);
    } catch (error) {
      note = `${error.message}: showing single slices. ${note}`;
      [kind, opened] = ["slices", await openSlices(data)];
    }
    if (mine !== turn) return; // another case was asked for meanwhile
    shown = opened;
    panel.dataset.viewer = kind;
    layout.parentElement.hidden = kind === "slices";
    message.textContent = note;
    shown.show(data.slice);
    shown.paint();
    tell();
    panel.dataset.state = "ready";
  }

  slider.addEventListener("input", () => { if (shown) shown.show(Number(slider.value)); tell(); });
  opacity.addEventListener("input", () => shown && shown.paint());
  layout.addEventListener("change", () => shown && shown.show(Number(slider.value)));
  chooser.addEventListener("change", () => ask(chooser.value));
  for (const button of document.querySelectorAll("[data-open-volume]")) {
    button.addEventListener("click", () => {
      ask(button.dataset.openVolume);
      panel.scrollIntoView({ block: "start" });
    });
  }
})();
