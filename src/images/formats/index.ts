/** Readers of disk image and archive formats. They import nothing of the project. */
export { checkQcow2Bounds, checkVhdxBounds, checkVmdkBounds } from './bounds.ts'
export { parseQcow2 } from './qcow2.ts'
export { detectFormat } from './detect.ts'
export { type ByteSource, bufferSource, FormatError, windowOf } from './source.ts'
export { parseVdi } from './vdi.ts'
export { parseVhd } from './vhd.ts'
export { parseVhdx } from './vhdx.ts'
export { parseVmdk, type VmdkSparseHeader } from './vmdk.ts'
export { parseVmdkDescriptor, type VmdkDescriptor, type VmdkExtent } from './vmdk-descriptor.ts'
export { type Digest, type Mf, parseMf } from './mf.ts'
export { MAX_OVF_BYTES, parseOvf } from './ovf.ts'
export type { Ovf } from './ovf-types.ts'
export { listTar, type TarMember } from './tar.ts'
export {
  CLUSTER,
  L2_ENTRIES,
  putPlainEntry,
  qcow2Header,
  REFCOUNTS_PER_BLOCK,
  refcountClusters,
} from './qcow2-write.ts'
export { type GrainMap, grainsProblem, mapGrains } from './vmdk-grains.ts'
