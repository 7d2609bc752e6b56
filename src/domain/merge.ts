import type { Ovf } from '../images/index.ts'
import { chooseDevices, placeDisks } from './devices.ts'
import { recogniseGuest } from './guest.ts'
import { mergeNics } from './nics.ts'
import type { Domain, GuestFacts, MadeDisk, VmWords } from './types.ts'
import { uuidOfJob } from './uuid.ts'
import { writable } from './xml.ts'

const MIB = 2 ** 20
/** What a VM gets of which neither the manifest nor the OVF says anything: enough for any server to come up. */
const DEFAULT_VCPUS = 2
const DEFAULT_MEMORY = 2048 * MIB
/** Beyond this QEMU wants an IOMMU with extended interrupts. */
const MOST_VCPUS = 255
const LEAST_MEMORY = 64 * MIB

export interface Merged {
  domain: Domain
  warnings: string[]
  /** what is a guess, for lack of a word */
  assumed: string[]
}

/**
 * What `<name>.xml` will say: the manifest's words first, the OVF's where it has none, else defaults.
 * @param answer the name of the answer files, a safe path component
 */
export function mergeDomain(
  answer: string,
  words: VmWords,
  ovf: Ovf | undefined,
  made: readonly MadeDisk[],
  facts: GuestFacts,
): Merged {
  const warnings: string[] = []
  const assumed: string[] = []
  const or = <T>(name: string, value: T | undefined, otherwise: T): T => {
    if (value === undefined) assumed.push(name)
    return value ?? otherwise
  }
  let vcpus = or('vcpus', words.vcpus || ovf?.vcpus || undefined, DEFAULT_VCPUS)
  if (vcpus > MOST_VCPUS) {
    warnings.push(`The VM had ${vcpus} processors; ${answer}.xml gives it ${MOST_VCPUS}, the most without an IOMMU.`)
    vcpus = MOST_VCPUS
  }
  let memory = or('memory', words.memory_bytes || ovf?.memory_bytes || undefined, DEFAULT_MEMORY)
  if (memory < LEAST_MEMORY) {
    warnings.push(`The VM is said to have ${memory} bytes of memory; ${answer}.xml gives it 64 MiB.`)
    memory = LEAST_MEMORY
  }
  const firmware = or('firmware', words.firmware ?? ovf?.firmware, 'bios' as const)
  const guest = recogniseGuest(words, ovf, facts)
  if (guest.family === 'unknown') assumed.push('os')
  const secure = words.secure_boot ?? ovf?.secure_boot ?? false
  if (secure && firmware === 'bios')
    warnings.push('Secure boot is asked for but the firmware is a BIOS, which has none; the description leaves it out.')
  const devices = chooseDevices(guest, facts, ovf, firmware === 'uefi')
  if (devices.row === 'virtio' && guest.host_only && facts.block_bus === undefined)
    warnings.push(
      `${guest.label} may have built an initramfs with the drivers of its old controller alone. If it does not find its disk on virtio, boot its rescue entry, convert it with pipeline.fix, or set the bus to "sata" in ${answer}.xml.`,
    )
  const { nics, warnings: nicWarnings } = mergeNics(words, ovf, devices.nic)
  const wanted = words.name ?? ovf?.name ?? answer
  const name = domainName(wanted, answer)
  return {
    domain: {
      uuid: uuidOfJob(words.job_id),
      name,
      ...(wanted === name ? {} : { title: wanted.replace(/[\r\n]+/g, ' ') }),
      vcpus,
      memory_bytes: memory,
      machine: devices.machine,
      firmware,
      secure_boot: secure && firmware === 'uefi',
      family: guest.family,
      devices,
      disks: placeDisks(made, devices.disk),
      nics,
      job_id: words.job_id,
      source: { ...words.source, ...(words.source.vm_name || !ovf?.name ? {} : { vm_name: ovf.name }) },
      ...(guest.family === 'unknown' ? {} : { os: guest.label }),
    },
    warnings: [...warnings, ...nicWarnings],
    assumed,
  }
}

/** libvirt makes file names of it: no slash, no line break, not empty, not too long. */
function domainName(wanted: string, answer: string): string {
  const name = wanted
    .toWellFormed()
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
    .replace(/[\u0000-\u001f\u007f-\u009f/\u2028\u2029]/g, '-')
    .trim()
  if (name === '' || name === '.' || name === '..' || Buffer.byteLength(name) > 200 || !writable(name)) return answer
  return name
}
