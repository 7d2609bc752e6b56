/** Readers of disk image and archive formats. They import nothing of the project. */
export { parseQcow2, type Qcow2Header } from './qcow2.ts'
export { detectFormat } from './detect.ts'
export { type ByteSource, bufferSource, FormatError, windowOf } from './source.ts'
export { parseVdi, type VdiHeader } from './vdi.ts'
export { parseVhd, type VhdFooter } from './vhd.ts'
export { parseVhdx, type VhdxInfo } from './vhdx.ts'
export { parseVmdk, type VmdkFile, type VmdkSparseHeader } from './vmdk.ts'
export { parseVmdkDescriptor, type VmdkDescriptor, type VmdkExtent } from './vmdk-descriptor.ts'
