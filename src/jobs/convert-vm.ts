import { resolve } from 'node:path'
import type { VmWords } from '../convert/index.ts'
import type { ConvertManifest } from '../manifest/index.ts'
import type { JobContext } from './types.ts'

/** Bridge of libvirt's own network "default". */
const DEFAULT_BRIDGE = 'virbr0'

/** What the manifest and the configuration say of the VM. */
export function vmWords(m: ConvertManifest, c: Pick<JobContext, 'id' | 'publicDir' | 'answerDir' | 'config'>): VmWords {
  // a library's made-up context may hold no settings: each has the documented default
  const libvirt: Partial<JobContext['config']['libvirt']> = c.config.libvirt ?? {}
  const { vm, source } = m
  const name = source?.vm_name || m.name
  const bridge = libvirt.bridge ?? DEFAULT_BRIDGE
  return {
    write_xml: libvirt.emit_domain_xml !== false,
    job_id: c.id,
    output_dir: resolve(c.publicDir ?? c.answerDir),
    ...(name ? { name } : {}),
    ...(vm?.cpu ? { vcpus: vm.cpu } : {}),
    ...(vm?.mem_gb ? { memory_bytes: vm.mem_gb * 2 ** 30 } : {}),
    ...(vm?.firmware === 'bios' || vm?.firmware === 'uefi' ? { firmware: vm.firmware } : {}),
    ...(vm?.secureboot === undefined ? {} : { secure_boot: vm.secureboot }),
    ...(vm?.os_hint ? { os_hint: vm.os_hint } : {}),
    ...(vm?.os_version ? { os_version: vm.os_version } : {}),
    ...(m.nics === undefined ? {} : { nics: m.nics }),
    source: {
      ...(source?.provider ? { provider: source.provider } : {}),
      ...(source?.vm_id ? { vm_id: source.vm_id } : {}),
      ...(source?.vm_name ? { vm_name: source.vm_name } : {}),
      ...(source?.datacenter ? { datacenter: source.datacenter } : {}),
    },
    networks: {
      by_name: libvirt.networks ?? {},
      otherwise: bridge === DEFAULT_BRIDGE ? 'default' : `bridge:${bridge}`,
    },
  }
}
