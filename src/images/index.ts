/** Untrusted images: opened without following links, checked before any tool sees them, read through qemu's block graph. */
export { ImageError } from './errors.ts'
export {
  type Digest,
  detectFormat,
  FormatError,
  listTar,
  MAX_OVF_BYTES,
  type Ovf,
  parseMf,
  parseOvf,
  type TarMember,
  windowOf,
} from './formats/index.ts'
export { graphBuilder } from './graph.ts'
export { guardImage } from './guard.ts'
export type { GuardedImage, SourceFormat } from './guarded.ts'
export {
  checkImage,
  convertImage,
  type ImageInfo,
  imageInfo,
  measure,
  qemuImg,
} from './qemu-img.ts'
export { allows, checkSubmitter, type Submitter, submitterOf } from './submitter.ts'
export { isPlainName, type OpenedFile, openBeneath } from './walk.ts'
export { type ImageWindow, wholeFile } from './window.ts'
export { type DroppedDisk, inspectDroppedDisk } from './drop.ts'
export { imageInUse } from './in-use.ts'
