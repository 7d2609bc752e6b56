import { QCOW2_MAGIC } from './qcow2.ts'
import type { ByteSource } from './source.ts'
import { VDI_SIGNATURE } from './vdi.ts'
import { VHD_COOKIE } from './vhd.ts'
import { VHDX_SIGNATURE } from './vhdx.ts'

/**
 * What a file looks like, for error messages only ("it is a qcow2, not a VMDK"). It never chooses how a file is opened: a raw
 * disk whose guest writes a qcow2 header into its first sector would become a door to the host's files.
 */
export async function detectFormat(source: ByteSource): Promise<string | undefined> {
  const head = await source.read(0, 512)
  if (head.length >= 4 && head.readUInt32BE(0) === QCOW2_MAGIC) return 'qcow2'
  const text = head.toString('latin1')
  if (text.startsWith('KDMV') || text.startsWith('COWD') || /^\s*#\s*disk\s*descriptor\s*file/i.test(text))
    return 'vmdk'
  if (text.startsWith(VHDX_SIGNATURE)) return 'vhdx'
  if (text.startsWith(VHD_COOKIE)) return 'vhd'
  if (head.length >= 0x44 && head.readUInt32LE(0x40) === VDI_SIGNATURE) return 'vdi'
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip'
  if (text.startsWith('\xfd7zXZ')) return 'xz'
  if (text.startsWith('BZh')) return 'bzip2'
  if (text.startsWith('\x28\xb5\x2f\xfd')) return 'zstd'
  if (text.startsWith('PK\x03\x04')) return 'zip'
  if (text.slice(257, 262) === 'ustar') return 'tar'
  if (/^\s*(<\?xml|<(ovf:)?Envelope)/.test(text)) return 'ovf'
  const tail = await source.read(Math.max(0, source.size - 512), 8)
  if (tail.toString('latin1') === VHD_COOKIE) return 'vhd'
  return undefined
}
