import { XMLParser } from 'fast-xml-parser'
import { isLibvirtError, type Session } from '../libvirt/index.ts'

/** What a host's libvirt can give a domain of one kind (https://libvirt.org/formatdomaincaps.html). */
export interface DomainCapabilities {
  /** for virtual machines of this processor family, e.g. x86_64 */
  arch: string
  /** by their names in a domain's `<cpu mode>` */
  cpu_modes: ReadonlySet<string>
  /** at most, for this machine */
  vcpus: number
  /** what libvirt finds a description and a file for */
  uefi: boolean
  secure_boot: boolean
}

/**
 * @returns undefined when libvirt has nothing of that kind, with what it said of it as `refused`
 * @throws errors of the connection
 */
export async function domainCapabilities(
  s: Pick<Session, 'query'>,
  q: { type: 'kvm' | 'qemu'; machine: 'q35' | 'pc' },
  signal?: AbortSignal,
): Promise<DomainCapabilities | { refused: string }> {
  let text: string
  try {
    text = await s.query.host.domainCapabilities({ virt_type: q.type, machine: q.machine }, signal ? { signal } : {})
  } catch (e) {
    if (!isLibvirtError(e)) throw e
    return { refused: e.message }
  }
  return readDomainCapabilities(text)
}

type Xml = Record<string, unknown>

/** Of the XML that libvirt gives. */
export function readDomainCapabilities(xml: string): DomainCapabilities {
  const parser = new XMLParser({
    ignoreAttributes: false,
    attributeNamePrefix: '',
    parseTagValue: false,
    parseAttributeValue: false,
    isArray: (name) => ['mode', 'enum', 'value'].includes(name),
  })
  const root = (parser.parse(xml) as Xml).domainCapabilities as Xml
  const os = (root.os ?? {}) as Xml
  const values = (of: unknown, name: string): string[] =>
    (((of as Xml | undefined)?.enum ?? []) as { name?: string; value?: string[] }[])
      .filter((e) => e.name === name)
      .flatMap((e) => e.value ?? [])
  const modes = (((root.cpu ?? {}) as Xml).mode ?? []) as { name?: string; supported?: string }[]
  return {
    arch: String(root.arch ?? ''),
    cpu_modes: new Set(modes.filter((m) => m.supported === 'yes').map((m) => m.name ?? '')),
    vcpus: Number((root.vcpu as { max?: string } | undefined)?.max ?? 0) || Number.POSITIVE_INFINITY,
    uefi: values(os, 'firmware').includes('efi'),
    secure_boot: values(os.loader, 'secure').includes('yes'),
  }
}
