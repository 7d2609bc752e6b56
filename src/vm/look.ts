/** What libvirt has, as reconciliation needs it: every domain with its state, and whose it is. */
import { lstat } from 'node:fs/promises'
import { OWNERSHIP, type Ownership, readOwnership } from '../domain/index.ts'
import { type Domain, type DomainState, isLibvirtError, type Session } from '../libvirt/index.ts'

export interface SeenDomain {
  domain: Domain
  state: DomainState
  /** undefined: it is foreign */
  owner: Ownership | undefined
}

/** All domains: one call, and a short one for each. */
export async function lookAtDomains(s: Session, signal: AbortSignal): Promise<SeenDomain[]> {
  const all = await s.query.domains.states({ signal })
  const seen = await Promise.all(
    all.map(async ({ domain, state, reason }) => {
      const owner = await ownerOf(s, domain, signal)
      return owner === 'gone' ? [] : [{ domain, state: { state, reason }, owner }]
    }),
  )
  return seen.flat()
}

/** One domain, by its uuid; undefined when there is none. */
export async function lookAtDomain(s: Session, uuid: string, signal: AbortSignal): Promise<SeenDomain | undefined> {
  const domain = await s.query.domains.byUuid(uuid, { signal })
  if (!domain) return undefined
  try {
    const state = await s.query.domains.state(domain, { signal })
    const owner = await ownerOf(s, domain, signal)
    return owner === 'gone' ? undefined : { domain, state, owner }
  } catch (error) {
    if (isLibvirtError(error, 'no_domain')) return undefined
    throw error
  }
}

async function ownerOf(s: Session, domain: Domain, signal: AbortSignal): Promise<Ownership | undefined | 'gone'> {
  try {
    const element = await s.query.domains.metadata(domain, OWNERSHIP, [], { signal })
    return element === undefined ? undefined : readOwnership(element)
  } catch (error) {
    if (isLibvirtError(error, 'no_domain')) return 'gone'
    throw error
  }
}

/** Which of these files are not there. What cannot be looked at counts as there. */
export async function missingFiles(paths: readonly string[]): Promise<string[]> {
  const there = await Promise.all(
    paths.map((p) =>
      lstat(p).then(
        () => true,
        (error: NodeJS.ErrnoException) => error.code !== 'ENOENT' && error.code !== 'ENOTDIR',
      ),
    ),
  )
  return paths.filter((_, i) => !there[i])
}
