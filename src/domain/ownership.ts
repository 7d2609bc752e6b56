import { XMLParser } from 'fast-xml-parser'

/** Of our element inside `<metadata>`; the number is its version. */
export const OWNERSHIP = 'urn:vmspool:domain:1'

/** Whose a domain is, and who changed its description last. */
export interface Ownership {
  instance: string
  /** where the VMs of that instance lie */
  dir: string
  name: string
  job: string
  epoch: number
}

interface Node {
  ':@'?: Record<string, string>
  [tag: string]: unknown
}

/**
 * Reads our element from a domain's XML, or from the element alone as libvirt gives it for our namespace. Whoever may define domains can write
 * anything there, so what does not look as we write it is as good as nothing.
 * @returns undefined when the domain names no owner: it is foreign, or a description that nobody manages
 */
export function readOwnership(xml: string): Ownership | undefined {
  let nodes: Node[]
  try {
    nodes = new XMLParser({
      preserveOrder: true,
      ignoreAttributes: false,
      attributeNamePrefix: '',
      parseTagValue: false,
      parseAttributeValue: false,
      htmlEntities: true, // numeric ones too
    }).parse(xml) as Node[]
  } catch {
    return undefined
  }
  const root = nodes.find((n) => localName(tagOf(n)) === 'domain')
  const within = root ? childrenOf(childrenOf([root], 'domain'), 'metadata') : nodes
  const scope = root ? namespaces([root, ...namedIn(childrenOf([root], 'domain'), 'metadata')]) : {}
  // libvirt takes the namespace off when it is asked for its element
  const vm = within.find((n) => localName(tagOf(n)) === 'vm' && (!root || namespaceOf(n, scope) === OWNERSHIP))
  if (!vm) return undefined
  const { instance, dir, name } = vm[':@'] ?? {}
  const job = namedIn(vm[tagOf(vm)] as Node[], 'job')[0]?.[':@']
  const epoch = Number(job?.epoch)
  if (!instance || !dir || !name || !job?.id || !/^\d{1,15}$/.test(job.epoch ?? '')) return undefined
  return { instance, dir, name, job: job.id, epoch }
}

const tagOf = (n: Node): string => Object.keys(n).find((k) => k !== ':@') ?? ''
const localName = (tag: string): string => tag.slice(tag.indexOf(':') + 1)
const namedIn = (nodes: readonly Node[], name: string): Node[] => nodes.filter((n) => localName(tagOf(n)) === name)

function childrenOf(nodes: readonly Node[], name: string): Node[] {
  return namedIn(nodes, name).flatMap((n) => (Array.isArray(n[tagOf(n)]) ? (n[tagOf(n)] as Node[]) : []))
}

/** prefix → namespace, '' for the one without */
function namespaces(nodes: readonly Node[]): Record<string, string> {
  const found: Record<string, string> = Object.create(null)
  for (const n of nodes)
    for (const [k, v] of Object.entries(n[':@'] ?? {})) {
      if (k === 'xmlns') found[''] = v
      else if (k.startsWith('xmlns:')) found[k.slice(6)] = v
    }
  return found
}

function namespaceOf(n: Node, outer: Record<string, string>): string | undefined {
  const tag = tagOf(n)
  const at = tag.indexOf(':')
  const prefix = at < 0 ? '' : tag.slice(0, at)
  return namespaces([n])[prefix] ?? outer[prefix]
}
