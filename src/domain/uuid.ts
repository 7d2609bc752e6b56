import { createHash } from 'node:crypto'

/** Namespace of our name-based ids: the UUID (version 5) of "vmspool" below the DNS namespace of RFC 9562. */
const NAMESPACE = uuid5('6ba7b8109dad11d180b400c04fd430c8', 'vmspool')

/**
 * Of a description that nobody manages. From the job's id: `virsh define` of one answer's file, repeated, is then one VM, and libvirt refuses
 * another job's VM of the same name instead of silently replacing a running one's definition, as it would with an id that came from the name.
 */
export function uuidOfJob(job: string): string {
  return dashed(uuid5(NAMESPACE, `domain:${job}`))
}

/** Of a VM that vmspool manages: whoever creates it, again or twice, means this one. */
export function uuidOfVm(instance: string, name: string): string {
  return dashed(uuid5(NAMESPACE, `vm:${instance}/${name}`))
}

/** RFC 9562, 5.5; hexadecimal without dashes. */
function uuid5(namespace: string, name: string): string {
  const b = createHash('sha1').update(Buffer.from(namespace, 'hex')).update(name).digest().subarray(0, 16)
  b[6] = (b[6]! & 0x0f) | 0x50
  b[8] = (b[8]! & 0x3f) | 0x80
  return b.toString('hex')
}

function dashed(hex: string): string {
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
