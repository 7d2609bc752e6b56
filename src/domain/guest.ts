import type { Ovf } from '../images/index.ts'
import type { GuestFacts, GuestFamily, VmWords } from './types.ts'

/**
 * Which guest it is, as far as the drivers of its devices go. `age`: `old` had neither virtio nor AHCI for sure when it was made, `oldest`
 * needs the devices of 2003, `unsure` may be either.
 */
export interface Guest {
  family: GuestFamily
  age: 'modern' | 'unsure' | 'old' | 'oldest'
  /** its initramfs may hold drivers of the old devices alone (dracut's host-only mode) */
  host_only: boolean
  /** what is known of it, for people */
  label: string
}

/**
 * From the surest to the least sure: what virt-inspector found, the manifest's words, the OVF's. OVF names systems by a number of CIM
 * (CIM_OperatingSystem.OsType), by VMware's guest id (`windows9_64Guest`), by VirtualBox's type (`Windows10_64`) and in words.
 */
export function recogniseGuest(words: VmWords, ovf: Ovf | undefined, facts: GuestFacts): Guest {
  const said = [words.os_version, ovf?.os?.type, ovf?.os?.description, ovf?.os?.version].filter(
    (s): s is string => typeof s === 'string' && s.trim() !== '',
  )
  const text = said.join(' ')
  const cim = ovf?.os?.id
  const family = familyOf(facts, words, text, cim)
  const label = facts.info?.product_name || said[0] || (family === 'unknown' ? 'an unknown system' : family)
  return { family, age: ageOf(family, facts, text, cim), host_only: isHostOnly(family, facts, text, cim), label }
}

function familyOf(facts: GuestFacts, words: VmWords, text: string, cim: number | undefined): GuestFamily {
  if (facts.info?.type) {
    const t = facts.info.type.toLowerCase()
    return t === 'linux' || t === 'windows' ? t : 'other'
  }
  const hint = (words.os_hint ?? '').toLowerCase()
  if (/^win/.test(hint)) return 'windows'
  if (/linux/.test(hint)) return 'linux'
  if (/\bdarwin|macos|os ?x\b/i.test(text)) return 'other'
  if (/\bwin(dows|net|xp|vista|longhorn|2000|nt|\d)/i.test(text)) return 'windows'
  if (LINUX.test(text)) return 'linux'
  if (/bsd|solaris|dragonfly|vmkernel|esxi|netware|os2|dos/i.test(text)) return 'other'
  if (cim !== undefined) {
    if (within(cim, [36, 36], [79, 80], [82, 85], [93, 101], [106, 109])) return 'linux'
    if (
      within(
        cim,
        [15, 18],
        [58, 58],
        [63, 63],
        [67, 67],
        [69, 71],
        [73, 74],
        [76, 77],
        [103, 103],
        [105, 105],
        [111, 120],
      )
    )
      return 'windows'
  }
  if (hint !== '' && hint !== 'unknown') return 'other'
  return 'unknown'
}

const LINUX =
  /linux|debian|ubuntu|centos|rhel|red ?hat|fedora|rocky|alma|suse|sles|opensuse|gentoo|arch|mint|mandriva|mageia|photon|coreos|flatcar|alpine|asianux|xandros|turbo/i
const DRACUT = /rhel|red ?hat|centos|fedora|rocky|alma|oracle|suse|sles|photon|amazon|coreos|mageia/i

function isHostOnly(family: GuestFamily, facts: GuestFacts, text: string, cim: number | undefined): boolean {
  if (family !== 'linux') return false
  const all = `${facts.info?.distro ?? ''} ${facts.info?.product_name ?? ''} ${text}`
  return DRACUT.test(all) || (cim !== undefined && within(cim, [79, 80], [82, 85], [106, 109]))
}

function ageOf(family: GuestFamily, facts: GuestFacts, text: string, cim: number | undefined): Guest['age'] {
  if (family === 'windows') return windowsAge(facts, text, cim)
  if (family === 'linux') return linuxAge(facts, text, cim)
  return 'unsure'
}

/** By the kernel's version (NT 5: up to 2003; 6.0 and 6.1: Vista to 2008 R2; later: 8 and up), else by the name. */
function windowsAge(facts: GuestFacts, text: string, cim: number | undefined): Guest['age'] {
  if (facts.info && facts.info.major_version > 0) {
    const { major_version: major, minor_version: minor } = facts.info
    if (major < 6) return 'oldest'
    return major === 6 && minor < 2 ? 'old' : 'modern'
  }
  if (/win(dows)?[ _]?(net|xp|nt|me\b|2000|2003|3\.?1|95|98)|server[ _]*2003|\b(xp|2003)\b/i.test(text)) return 'oldest'
  if (/vista|longhorn|win(dows)?[ _]?(7|2008)|(server|srv)[ _]*2008|\b2008\b/i.test(text)) return 'old'
  if (/\d/.test(text)) return 'modern'
  if (cim !== undefined) {
    if (within(cim, [15, 18], [58, 58], [63, 63], [67, 67], [69, 71])) return 'oldest'
    if (within(cim, [73, 74], [76, 77], [103, 103], [105, 105])) return 'old'
  }
  return 'modern'
}

/** The first releases whose kernel and initramfs were at home on KVM; before them nobody can be sure of virtio. */
const FIRST: readonly [RegExp, number][] = [
  [/(?:rhel|red ?hat(?: enterprise)?(?: linux)?|centos(?: linux)?|oracle ?linux(?: server)?)[ _-]?(\d+)/i, 6],
  [/(?:sles?|suse(?: linux)?(?: enterprise)?(?: server| desktop)?|opensuse)[ _-]?(\d+)/i, 11],
  [/debian(?: gnu\/linux)?[ _-]?(\d+)/i, 6],
  [/ubuntu[ _-]?(\d+)/i, 10],
  [/fedora(?: linux)?[ _-]?(\d+)/i, 12],
]
/** VMware's ids without a number stand for the oldest releases of the distribution. */
const OLD_IDS = /other24x|linux ?2[._]?[24]\b|linux24|2\.[0-4]\.x|\b(redhat|centos|oracleLinux|sles|suse)(64)?Guest\b/i

function linuxAge(facts: GuestFacts, text: string, cim: number | undefined): Guest['age'] {
  const known = facts.info?.distro ? `${facts.info.distro} ${facts.info.major_version}` : text
  // VMware writes ids such as rhel5_64Guest and debian12_64Guest
  for (const [pattern, first] of FIRST) {
    const m = pattern.exec(known)
    // "debian64Guest" and "ubuntu64Guest" name the width, not a release
    if (m && m[1] !== '64' && m[1] !== '32') return Number(m[1]) < first ? 'old' : 'modern'
  }
  if (facts.info?.distro) return 'modern'
  if (OLD_IDS.test(text) || (cim !== undefined && text === '' && within(cim, [97, 98]))) return 'old'
  if (/other26x/i.test(text) || (cim !== undefined && text === '' && within(cim, [99, 100]))) return 'unsure'
  return 'modern'
}

function within(n: number, ...ranges: readonly (readonly [number, number])[]): boolean {
  return ranges.some(([a, b]) => n >= a && n <= b)
}
