/** Untrusted images: opened without following links, checked before any tool sees them, read through qemu's block graph. */
export { ImageError } from './errors.ts'
export {
  CLUSTER,
  type Digest,
  detectFormat,
  FormatError,
  type GrainMap,
  grainsProblem,
  L2_ENTRIES,
  listTar,
  type Mf,
  MAX_OVF_BYTES,
  mapGrains,
  type Ovf,
  parseMf,
  parseOvf,
  parseQcow2,
  putPlainEntry,
  qcow2Header,
  REFCOUNTS_PER_BLOCK,
  refcountClusters,
  type TarMember,
  windowOf,
} from './formats/index.ts'
export { graphBuilder } from './graph.ts'
export { hiddenBy } from './hidden.ts'
export { guardImage } from './guard.ts'
export type { GuardedImage, SourceFormat } from './guarded.ts'
export {
  canZstd,
  checkImage,
  convertImage,
  type ImageInfo,
  imageInfo,
  jsonName,
  measure,
  progressReader,
  qemuImg,
  type QemuImgOptions,
} from './qemu-img.ts'
export { allows, checkSubmitter, deniedTo, type Submitter, submitterOf } from './submitter.ts'
export { isPlainName, type OpenedFile, openBeneath } from './walk.ts'
export { givenBytes, type ImageWindow, sourceIdentity, wholeFile } from './window.ts'
export { fileSource } from './source.ts'
export { type DroppedDisk, inspectDroppedDisk } from './drop.ts'
export { imageInUse } from './in-use.ts'
