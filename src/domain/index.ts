/** The VM as libvirt knows it: what manifest, OVF and guest say becomes a domain XML. Pure functions. */
export { mergeDomain } from './merge.ts'
export { renderDomain } from './render.ts'
export type { MadeDisk, VmWords } from './types.ts'
export { writable } from './xml.ts'
export { uuidOfVm } from './uuid.ts'
